"""What all commands share: options from settings (`jobs.options`), errors in one line, exit codes."""

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

from jobs.options import settings_from
from pipeline.common.secrets import without_secrets
from pipeline.common.visible_text import visible
from pipeline.errors import PipelineError

__all__ = ["EXIT_FAILED", "EXIT_INTERRUPTED", "EXIT_NOBODY_READS", "run_command", "settings_from"]

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130
EXIT_NOBODY_READS = 141  # as a shell says it of a program that SIGPIPE ended


def run_command(action: Callable[[], None]) -> int:
    """Run a command; what is wrong with the input becomes one line on stderr and a non-zero exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # PYTHONIOENCODING=ascii: what it cannot say is escaped, no error
            stream.reconfigure(errors="backslashreplace")
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
        print(without_secrets(visible(traceback.format_exc(), keep="\n")), file=sys.stderr)
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
