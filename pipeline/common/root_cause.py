"""The first cause of an error that Ray wrapped."""

from __future__ import annotations


def root_cause(error: BaseException) -> str:
    """The last line of the innermost cause: Ray wraps a worker's error once for each process that passes it on."""
    while (inner := getattr(error, "cause", None) or error.__cause__) is not None:
        error = inner
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
