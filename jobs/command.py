"""What all commands share: settings from the command line or a file, errors in one line, exit codes."""

from __future__ import annotations

import contextlib
import io
import os
import select
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import TypeVar

import tyro

from pipeline.common.secrets import without_secrets
from pipeline.common.visible_text import visible
from pipeline.config import RunConfig
from pipeline.errors import PipelineError
from pipeline.settings_file import read_settings

T = TypeVar("T")

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130
EXIT_NOBODY_READS = 141  # as a shell says it of a program that SIGPIPE ended


def settings_from(kind: type[T], arguments: list[str] | None, *, prog: str, default: T | None = None) -> T:
    """A settings dataclass from the command line; `--settings FILE.toml` gives a RunConfig its defaults.

    default: values of what the command line does not say, instead of the class's own.

    tyro prints usage errors itself and exits with 2. Raises ValueError for values that do not fit.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    start: object = tyro.MISSING if default is None else default
    if kind is RunConfig:
        file, arguments = _settings_file(arguments)
        start = start if file is None else read_settings(file)
    extra = {} if start is tyro.MISSING else {"default": start}
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(kind, prog=f"python -m {prog}", args=arguments, **extra)  # type: ignore[arg-type]
    except SystemExit as leaving:
        if isinstance(leaving.__context__, ValueError):  # the settings' own check, which tyro puts into a box
            raise ValueError(str(leaving.__context__)) from None
        sys.stderr.write(said.getvalue())
        raise


def _settings_file(arguments: list[str]) -> tuple[str | None, list[str]]:
    """The file of `--settings FILE` or `--settings=FILE`, and the other arguments."""
    for at, argument in enumerate(arguments):
        name, joined, file = argument.partition("=")
        if name != "--settings":
            continue
        after = at + 1 if joined else at + 2
        if not joined:
            file = arguments[at + 1] if at + 1 < len(arguments) else ""
        if not file:
            raise ValueError("--settings needs a TOML file")
        return file, arguments[:at] + arguments[after:]
    return None, arguments


def run_command(action: Callable[[], None]) -> int:
    """Run a command; what is wrong with the input becomes one line on stderr and a non-zero exit code."""
    with _sigterm_interrupts():
        code = _outcome(action)
    _nobody_reads()  # else Python stumbles at its end over what waits to be written, and changes the code
    return code


@contextlib.contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """SIGTERM (`timeout`, a job that is stopped, a node that goes) ends a command as Ctrl-C does, whatever it is at."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _outcome(action: Callable[[], None]) -> int:
    try:
        try:
            action()
        except SystemExit:  # of --help
            sys.stdout.flush()
            raise
        sys.stdout.flush()  # here, where a reader that is gone is still an error like others
    except (PipelineError, ValueError) as error:
        print(f"error: {without_secrets(visible(' '.join(str(error).split())))}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        print("interrupted; nothing unfinished counts as a result", file=sys.stderr)
        return EXIT_INTERRUPTED
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            return EXIT_NOBODY_READS
        print(without_secrets(traceback.format_exc()), file=sys.stderr)
        print("error: this is a bug of the program, not of the input; please report the lines above", file=sys.stderr)
        return EXIT_FAILED
    return 0


def _nobody_reads() -> bool:
    """Whether the reader of stdout is gone (`... | head`); if so, what is still to be written goes nowhere."""
    try:
        out = sys.stdout.fileno()
    except (OSError, ValueError):
        return False
    look = select.poll()
    look.register(out, 0)
    if not any(event & select.POLLERR for _, event in look.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), out)
    return True
