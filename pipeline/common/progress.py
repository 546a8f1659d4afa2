"""Progress of a job: a bar on a terminal, plain lines elsewhere; stage, count, rate and time left."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichBars

from pipeline.common import waits
from pipeline.common.secrets import without_secrets
from pipeline.common.visible_text import visible

# Between two plain lines of one stage: short enough to show that the job lives, long enough not to fill its log.
_LINE_EVERY_S = 5.0


class Reporter:
    """Stages of a job, one after the other or overlapping, each with a count of things done.

    On a terminal it shows a bar for each stage. Elsewhere (a file, a job's log) it prints a line when a stage begins,
    when it ends, and every few seconds between. It also keeps the seconds of every timed stage. Use it as a context:
    inside it, it also reports long waits of the process (`waits`); at its end it restores the terminal.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stderr
        self.seconds: dict[str, float] = {}
        self._stages: dict[str, _Stage] = {}
        self._bars: RichBars | None = None
        if self.stream.isatty():
            self._bars = RichBars(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[unit]}  {task.fields[rate]}"),
                TimeRemainingColumn(),
                console=Console(file=self.stream),
            )

    def __enter__(self) -> Self:
        if self._bars is not None:
            self._bars.start()
        waits.listen(self.say)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        waits.leave(self.say)
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def say(self, text: str) -> None:
        """Print one line; control characters in names from outside are made visible."""
        text = without_secrets(visible(text, keep="\n"))
        if self._bars is not None:
            self._bars.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=self.stream, flush=True)

    def advance(self, name: str, count: int, total: int | None, unit: str) -> None:
        """Report that `count` more of `total` units of a stage are done. The first call begins the stage. total None:
        not known yet."""
        stage = self._stages.get(name)
        if stage is None or (stage.total is not None and stage.done >= stage.total):
            stage = self._stages[name] = _Stage(name, total, unit)
            if self._bars is not None:
                stage.bar = self._bars.add_task(name, total=total, unit=unit, rate="")
        stage.done += count
        now = time.monotonic()
        if self._bars is not None and stage.bar is not None:
            self._bars.update(stage.bar, advance=count, rate=stage.rate(now))
        elif (total is not None and stage.done >= total) or now - stage.said >= _LINE_EVERY_S:
            stage.said = now
            self.say(stage.line(now))

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the seconds spent inside to the stage's sum."""
        begin = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - begin


class _Stage:
    def __init__(self, name: str, total: int | None, unit: str) -> None:
        self.name, self.total, self.unit = name, total, unit
        self.done = 0
        self.begin = self.said = time.monotonic()
        self.bar: TaskID | None = None

    def rate(self, now: float) -> str:
        return f"{self.done / max(now - self.begin, 1e-3):.1f} {self.unit}/s"

    def line(self, now: float) -> str:
        spent = now - self.begin
        if self.total is None:
            return f"{self.name}: {self.done} {self.unit}, {spent:.1f} s, {self.rate(now)}"
        text = f"{self.name}: {self.done}/{self.total} {self.unit}, {spent:.1f} s"
        if 0 < self.done < self.total:
            left = spent / self.done * (self.total - self.done)
            text += f", {self.rate(now)}, about {left:.0f} s left"
        return text
