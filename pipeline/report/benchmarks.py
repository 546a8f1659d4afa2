"""Reads time and memory against length from JSON files of `jobs.benchmark --json`."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeGuard

from pipeline import storage
from pipeline.errors import DriveError


@dataclass(frozen=True)
class Measurement:
    """One run. what: the subject of the benchmark; peak_bytes: of memory, None where it was not measured."""

    what: str
    frames: int
    seconds: float
    peak_bytes: float | None


def read_benchmarks(uris: Sequence[str]) -> tuple[Measurement, ...]:
    """All runs in the files that have `frames` and `total_seconds` or `seconds`, at any level.

    Raises DriveError for a file that is not a JSON file of jobs.benchmark or has no such run; StorageError.
    """
    found: list[Measurement] = []
    for uri in uris:
        shown = storage.redacted(uri)
        try:
            whole = json.loads(storage.read_bytes(storage.absolute(uri)))
        except ValueError:
            raise DriveError(f"{shown} is no JSON file of jobs.benchmark --json") from None
        if not isinstance(whole, dict) or "what" not in whole:
            raise DriveError(f"{shown} is no JSON file of jobs.benchmark --json: it does not say what was measured")
        runs = list(_runs(whole, str(whole["what"])))
        if not runs:
            raise DriveError(f"{shown} measured {whole['what']}: it has no run with frames and seconds")
        found += runs
    return tuple(sorted(found, key=lambda run: (run.what, run.frames)))


def _runs(value: object, what: str) -> Iterator[Measurement]:
    if isinstance(value, list):
        for one in value:
            yield from _runs(one, what)
    elif isinstance(value, dict):
        frames, seconds = value.get("frames"), value.get("total_seconds", value.get("seconds"))
        if _is_number(frames) and _is_number(seconds) and frames > 0:
            peak = next(
                (v for k, v in value.items() if k.startswith("peak") and k.endswith("bytes") and _is_number(v)), None
            )
            yield Measurement(what, int(frames), float(seconds), peak)
        for name, one in value.items():
            if name not in ("settings", "machine"):
                yield from _runs(one, what)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
