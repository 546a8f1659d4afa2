"""Records of failed drives for later runs: one small object for each drive, `<output>/_failed/<drive_id>.json`.

Where the drive is the cause (too many bad frames, no frames, its process dies), later runs do not try it again until
its input, the weights or the settings change, or --retry-failed is given. Where a store or a machine was the cause,
they do. The record is removed when the drive is published.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from typing import Literal

from pipeline import storage
from pipeline.storage import NotFoundError

FAILED_FOLDER = "_failed"
FailureState = Literal["failed", "quarantined"]


_FRAME = re.compile(r"\bframe (\d+)")


def in_one_line(drive_id: str, error: BaseException) -> str:
    """An unexpected error as the reason of a failure."""
    return f"drive {drive_id}: " + " ".join(f"{type(error).__name__}: {error}".split())[:300]


def frame_of(reason: str) -> int | None:
    """The number of the frame that a reason names, if any."""
    found = _FRAME.search(reason)
    return int(found[1]) if found else None


@dataclass(frozen=True)
class Failure:
    """Why a drive has no result. lasting: another try would fail too. identity: of what was tried, if known."""

    drive_id: str
    state: FailureState
    lasting: bool
    reason: str
    stage: str | None
    frame: int | None
    attempts: int
    identity: str | None
    run_id: str
    at: float

    def concerns(self, identity: str | None) -> bool:
        """Whether a drive with this identity would fail again. A drive that cannot be read has no identity."""
        return self.lasting and self.identity == identity


class Failures:
    """The failure records of an output. Names are listed once; a record is read when it is needed."""

    def __init__(self, output: str) -> None:
        """Raises StorageError."""
        self._folder = storage.join(output, FAILED_FOLDER)
        try:
            self._known = {file.name.removesuffix(".json") for file in storage.list_files(self._folder)}
        except NotFoundError:
            self._known = set()

    @property
    def drive_ids(self) -> frozenset[str]:
        """Drives that have a record."""
        return frozenset(self._known)

    def get(self, drive_id: str) -> Failure | None:
        """A drive's record; None where there is none or it is damaged. Raises StorageError."""
        if drive_id not in self._known:
            return None
        try:
            return storage.read_record(self._uri(drive_id), Failure)
        except (NotFoundError, storage.DamagedError):
            return None

    def put(self, failure: Failure) -> None:
        """Write the record of a failure. Raises StorageError."""
        text = json.dumps(asdict(failure), indent=1)
        storage.write_bytes_atomically(self._uri(failure.drive_id), storage.redacted(text).encode())
        self._known.add(failure.drive_id)

    def forget(self, drive_id: str) -> None:
        """Remove the record of a drive that was published. Raises StorageError."""
        if drive_id in self._known:
            storage.remove_file(self._uri(drive_id))
            self._known.discard(drive_id)

    def _uri(self, drive_id: str) -> str:
        return storage.join(self._folder, storage.check_drive_id(drive_id) + ".json")
