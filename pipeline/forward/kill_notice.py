"""Prints a message when the process is killed by a signal that it cannot catch.

If memory runs out, the system kills a process with SIGKILL. A small shell beside the process waits at the end of a
pipe, and prints the message when the pipe breaks. It needs only one megabyte, so the system does not kill it.
"""

from __future__ import annotations

import atexit
import contextlib
import subprocess
from types import TracebackType

# keeps the last line it was given and prints it when the pipe breaks, unless it is empty
_SHELL = 'last=; while IFS= read -r line; do last=$line; done; [ -z "$last" ] || printf \'%s\\n\' "$last" >&2'


class KillNotice:
    """Use as a context: `text`, one line, goes to standard error if this process is killed inside."""

    def __init__(self, text: str) -> None:
        self._text = " ".join(text.split())
        self._shell: subprocess.Popen[str] | None = None

    def __enter__(self) -> KillNotice:
        with contextlib.suppress(OSError):  # without a shell there is no notice
            self._shell = subprocess.Popen(
                ["/bin/sh", "-c", _SHELL],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                text=True,
                start_new_session=True,  # so that Ctrl-C does not end it
            )
            self._tell(self._text)
            # a run that is stopped on purpose prints no notice
            atexit.register(self._hush)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._shell is None or self._shell.stdin is None:
            return
        atexit.unregister(self._hush)
        self._hush()
        self._shell.wait()

    def _hush(self) -> None:
        """Print no message any more."""
        if self._shell is not None and self._shell.stdin is not None:
            with contextlib.suppress(OSError, ValueError):  # closed already
                self._tell("")
                self._shell.stdin.close()

    def _tell(self, line: str) -> None:
        assert self._shell is not None and self._shell.stdin is not None
        self._shell.stdin.write(line + "\n")
        self._shell.stdin.flush()
