"""What all commands share: options made from settings (`jobs.options`), errors in one line, exit codes."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import select
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import TypeVar

from jobs.options import settings_from
from pipeline.common.secrets import without_secrets
from pipeline.common.visible_text import visible
from pipeline.errors import PipelineError

__all__ = ["EXIT_FAILED", "EXIT_INTERRUPTED", "EXIT_NOBODY_READS", "run_command", "run_job", "settings_from"]

T = TypeVar("T")

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # of the local disk: errors of stores are `StorageError`s
EXIT_NOBODY_READS = 141  # a shell reports this code for a program that SIGPIPE ended


def run_job(kind: type[T], action: Callable[[T], int | None], arguments: list[str] | None, *, prog: str) -> int:
    """Make the settings of a command (`settings_from`), run it, and return its exit code.

    arguments: words of the command line; None: those of this process. action: returns an exit code; None means 0.
    """
    return run_command(lambda: action(settings_from(kind, arguments, prog=prog)))


def run_command(action: Callable[[], int | None]) -> int:
    """Run a command and return its exit code. An error of the input becomes one line on stderr and a code above 0.

    action: returns an exit code; None means 0.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # PYTHONIOENCODING=ascii: other characters are escaped
            stream.reconfigure(errors="backslashreplace")
    with _sigterm_interrupts():
        code = _outcome(action)
    _nobody_reads()  # else Python fails at its exit when it flushes stdout, and changes the exit code
    return code


@contextlib.contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """SIGTERM (from `timeout`, a stopped job or a node that shuts down) ends a command as Ctrl-C does, at any time."""
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


def _outcome(action: Callable[[], int | None]) -> int:
    try:
        try:
            code = action()
        except SystemExit:  # of --help
            sys.stdout.flush()
            raise
        sys.stdout.flush()  # here a closed pipe raises an error that is handled below
    except (PipelineError, ValueError) as error:
        print(f"error: {without_secrets(visible(' '.join(str(error).split())))}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        print("interrupted; nothing unfinished counts as a result", file=sys.stderr)
        return EXIT_INTERRUPTED
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            return EXIT_NOBODY_READS
        if isinstance(error, OSError) and error.errno in _FULL:
            said = f"cannot write a temporary file in {tempfile.gettempdir()}: {os.strerror(error.errno)}"
            print(f"error: {said}; free space there, or name another folder in TMPDIR", file=sys.stderr)
            return EXIT_FAILED
        print(without_secrets(visible(traceback.format_exc(), keep="\n")), file=sys.stderr)
        print("error: this is a bug of the program, not of the input; please report the lines above", file=sys.stderr)
        return EXIT_FAILED
    return code or 0


def _nobody_reads() -> bool:
    """Whether the reader of stdout has closed the pipe (`... | head`). If so, stdout now leads to /dev/null."""
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
