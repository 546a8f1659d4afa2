"""What became of every pair of frames that was compared, kept in `<output>/_city/evidence/`.

A run that died goes on where it was, and a run for one more drive compares that one alone. A row names both results
(a drive that is done again has another), so that it never speaks of others.
"""

from __future__ import annotations

import contextlib
import io
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.backend.sim3 import Sim3
from pipeline.errors import StorageError
from pipeline.fuse.candidates import Candidate
from pipeline.fuse.city_files import city_uri
from pipeline.fuse.link import Link
from pipeline.fuse.published_drives import FusibleDrive
from pipeline.fuse.two_drives import VERIFIER
from pipeline.publish.poses import quaternion_from_rotation, rotation_from_quaternion
from pipeline.publish.table_checks import UNREADABLE, open_parquet

FOLDER = "evidence"
_KEEP_EVERY_S = 10.0
_NUMBERS = 8 + 49  # scale, quaternion, shift; covariance
_ROWS = pa.schema(
    [
        ("verifier", pa.int32()),
        *[
            (f"{end}_{name}", kind)
            for end in ("first", "second")
            for name, kind in (("drive", pa.string()), ("key", pa.string()), ("frame", pa.int32()))
        ],
        ("matches", pa.int32()),
        ("reason", pa.string()),
        ("link", pa.list_(pa.float64())),
    ]
)
_Key = tuple[str, int, str, int]


@dataclass(frozen=True, eq=False)
class Verified:
    """A candidate and what became of it: a link, or why not; matches: features that agree; lasting: whether it would
    be so again, however often the two frames were compared (a frame that could not be read might be, next time)."""

    candidate: Candidate
    link: Link | None
    matches: int
    reason: str
    lasting: bool = True


class Evidence:
    """Verdicts of earlier runs by drive and frame, and those of this one, written every few seconds by `keep`."""

    def __init__(self, output: str, drives: Sequence[FusibleDrive]) -> None:
        """Read what is there. A file that cannot be read is none: its pairs are compared again. Raises StorageError."""
        self._folder, self._drives = storage.join(city_uri(output), FOLDER), drives
        self._known: dict[_Key, dict[str, object]] = {}
        self._new: list[dict[str, object]] = []
        self._written = time.monotonic()
        try:
            self._parts = [name for name in storage.list_below(self._folder) if name.endswith(".parquet")]
        except storage.NotFoundError:
            self._parts = []
        for name in sorted(self._parts):
            with contextlib.suppress(storage.NotFoundError, *UNREADABLE, ValueError):
                table = open_parquet(io.BytesIO(storage.read_bytes(storage.join(self._folder, name)))).read()
                if table.schema.equals(_ROWS, check_metadata=False):
                    for row in table.to_pylist():
                        if row["verifier"] == VERIFIER:
                            self._known[_key(row)] = row

    def known(self, one: Candidate) -> Verified | None:
        """What became of a candidate in an earlier run."""
        row = self._known.get(_key(self._ends(one)))
        if row is None:
            return None
        link = None
        if row["link"] is not None:
            values = np.array(row["link"], np.float64)
            if values.shape != (_NUMBERS,):
                return None
            move = Sim3(float(values[0]), rotation_from_quaternion(values[None, 1:5])[0], values[5:8])
            covariance = values[8:].reshape(7, 7)
            link = Link(one.first, one.first_frame, one.second, one.second_frame, move, (covariance + covariance.T) / 2)
        return Verified(one, link, int(row["matches"]), str(row["reason"]))  # type: ignore[call-overload]

    def keep(self, one: Verified) -> None:
        """Keep a verdict that lasts. Now and then it writes those that wait; raises StorageError."""
        if not one.lasting:
            return
        numbers = None
        if one.link is not None:
            move = one.link.second_from_first
            turn = quaternion_from_rotation(move.rotation[None])[0]
            numbers = [move.scale, *turn.tolist(), *move.translation.tolist(), *one.link.covariance.ravel().tolist()]
        row = {**self._ends(one.candidate), "verifier": VERIFIER}
        row |= {"matches": one.matches, "reason": one.reason, "link": numbers}
        self._new.append(row)
        if time.monotonic() - self._written > _KEEP_EVERY_S:
            self.write()

    def write(self) -> None:
        """Write the verdicts that wait, as a file of their own."""
        self._written = time.monotonic()
        if self._new:
            self._parts.append(self._write(self._new))
            self._known |= {_key(row): row for row in self._new}
            self._new = []

    def tidy(self) -> None:
        """All in one file, without rows of results that were replaced. Nothing is lost where it fails in the middle."""
        current = {drive.drive_id: drive.key for drive in self._drives}
        rows = [
            row
            for row in (*self._known.values(), *self._new)
            if all(
                current.get(str(row[f"{end}_drive"]), row[f"{end}_key"]) == row[f"{end}_key"]
                for end in ("first", "second")
            )
        ]
        old = self._parts
        if len(old) + bool(self._new) > 1 or len(rows) < len(self._known):
            self._parts, self._new = [self._write(rows)] if rows else [], []
            with contextlib.suppress(StorageError):  # two files that say the same do no harm
                storage.remove_below(self._folder, old)
        else:
            self.write()

    def _write(self, rows: Sequence[dict[str, object]]) -> str:
        data, name = io.BytesIO(), f"part-{uuid.uuid4().hex}.parquet"
        pq.write_table(pa.Table.from_pylist(list(rows), schema=_ROWS), data, compression="zstd")
        storage.write_bytes_atomically(storage.join(self._folder, name), data.getvalue())
        return name

    def _ends(self, one: Candidate) -> dict[str, object]:
        ends: dict[str, object] = {}
        for end, number, place in (("first", one.first, one.first_frame), ("second", one.second, one.second_frame)):
            drive = self._drives[number]
            frame = int(drive.joined.frame_index[place])
            ends |= {f"{end}_drive": drive.drive_id, f"{end}_key": drive.key, f"{end}_frame": frame}
        return ends


def _key(row: dict[str, object]) -> _Key:
    return (str(row["first_key"]), int(row["first_frame"]), str(row["second_key"]), int(row["second_frame"]))  # type: ignore[call-overload]
