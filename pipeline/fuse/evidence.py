"""The verdict on every pair of frames that was compared, kept in `<output>/_city/evidence/`.

With it a run continues where an earlier one died, and a run with one more drive compares only that drive. A row has
the keys of both drives' results. A drive that is reconstructed again has a new key, so old rows are not used for it.
A row also has the kind of the comparison: features of two pictures, charts of the road, or joint chunks through a
network. Other weights are another kind, so they verify again.
"""

from __future__ import annotations

import contextlib
import io
import re
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.backend.sim3 import Sim3
from pipeline.errors import StorageError
from pipeline.fuse.candidates import GROUND, Candidate
from pipeline.fuse.city_files import city_uri
from pipeline.fuse.link import Link, is_covariance
from pipeline.fuse.published_drives import FusibleDrive
from pipeline.fuse.two_drives import VERIFIER
from pipeline.publish.poses import quaternion_from_rotation, rotation_from_quaternion
from pipeline.publish.table_checks import UNREADABLE, open_parquet
from pipeline.storage.retry import patiently

FOLDER = "evidence"
NOT_COMPARED = "not compared"
FEATURES = "features"
"""The kind of verdicts by features and geometry alone; those on charts of the road are of the kind `GROUND`."""
_KEEP_EVERY_S = 10.0  # seconds between two writes
_NUMBERS = 8 + 49  # scale, quaternion, translation; covariance
_UNIT = 1e-6  # how far the length of a stored quaternion may be from 1
_PART = re.compile(r"part-[0-9a-f]{32}\.parquet")
_LARGEST_BYTES = 2**30  # of a file that is read: 1 million verdicts have 0.4 GB
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
_KIND = pa.field("kind", pa.string())  # files of older versions lack it: they have features only
_Key = tuple[str, str, int, str, int]


@dataclass(frozen=True, eq=False)
class Verified:
    """The verdict on a candidate. link: between the instants of its frames, None where they do not show the same place;
    matches: number of features that agree; reason: in words; lasting: whether another comparison would give the same
    verdict (it might not if a frame could not be read)."""

    candidate: Candidate
    link: Link | None
    matches: int
    reason: str
    lasting: bool = True


def is_unread(reason: str) -> bool:
    """Whether this reason of a verdict is that a frame or a drive could not be read, or a process ended: only such
    verdicts are not lasting. Errors of drives begin with the drive."""
    return reason.startswith(("drive ", NOT_COMPARED))


def kind_of(one: Candidate) -> str:
    """The kind of the comparison of a candidate's frames, without the network."""
    return GROUND if one.by == GROUND else FEATURES


class Evidence:
    """Verdicts of earlier runs and of this one. `keep` writes new ones every few seconds."""

    def __init__(self, output: str, drives: Sequence[FusibleDrive]) -> None:
        """Read the stored verdicts. Damaged files and rows are ignored: their pairs are compared again. Raises
        StorageError."""
        self._folder, self._drives = storage.join(city_uri(output), FOLDER), drives
        self._known: dict[_Key, dict[str, object]] = {}
        self._new: list[dict[str, object]] = []
        self._written = time.monotonic()
        try:
            there = storage.list_below(self._folder)
        except storage.NotFoundError:
            there = {}
        self._parts = [name for name in there if _PART.fullmatch(name)]
        for name in sorted(self._parts):
            if there[name] > _LARGEST_BYTES:
                continue
            with contextlib.suppress(storage.NotFoundError, storage.UnreadableFileError, *UNREADABLE, ValueError):
                table = open_parquet(io.BytesIO(storage.read_bytes(storage.join(self._folder, name)))).read()
                if table.schema.equals(_ROWS, check_metadata=False):
                    table = table.append_column(_KIND, pa.array([FEATURES] * table.num_rows, pa.string()))
                if table.schema.equals(_ROWS.append(_KIND), check_metadata=False):
                    for row in table.to_pylist():
                        if row["verifier"] == VERIFIER and _is_verdict(row):
                            self._known[_key(row)] = row

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of stored verdicts."""
        return tuple(sorted({kind for kind, *_ in self._known}))

    def known(self, one: Candidate, kind: str | None = None) -> Verified | None:
        """The verdict of an earlier run on a candidate by this kind of comparison, None without one. kind: None: the
        candidate's own, without the network."""
        row = self._known.get(_key({**self._ends(one), "kind": kind or kind_of(one)}))
        if row is None:
            return None
        link = None
        if row["link"] is not None:
            values = np.array(row["link"], np.float64)
            move = Sim3(float(values[0]), rotation_from_quaternion(values[None, 1:5])[0], values[5:8])
            covariance = values[8:].reshape(7, 7)
            instants = [
                int(self._drives[n].rig.instant[frame])
                for n, frame in ((one.first, one.first_frame), (one.second, one.second_frame))
            ]
            link = Link(one.first, instants[0], one.second, instants[1], move, (covariance + covariance.T) / 2)
        return Verified(one, link, int(row["matches"]), str(row["reason"]))  # type: ignore[call-overload]

    def keep(self, one: Verified, kind: str | None = None) -> None:
        """Keep a lasting verdict by this kind of comparison. Every ten seconds the kept ones are written. Raises
        StorageError."""
        if not one.lasting:
            return
        numbers = None
        if one.link is not None:
            move = one.link.second_from_first
            turn = quaternion_from_rotation(move.rotation[None])[0]
            numbers = [move.scale, *turn.tolist(), *move.translation.tolist(), *one.link.covariance.ravel().tolist()]
        row = {**self._ends(one.candidate), "verifier": VERIFIER, "kind": kind or kind_of(one.candidate)}
        row |= {"matches": one.matches, "reason": one.reason, "link": numbers}
        self._new.append(row)
        if time.monotonic() - self._written > _KEEP_EVERY_S:
            self.write()

    def write(self) -> None:
        """Write the verdicts that are not yet written, as a new file. Raises StorageError."""
        self._written = time.monotonic()
        if self._new:
            self._parts.append(self._write(self._new))
            self._known |= {_key(row): row for row in self._new}
            self._new = []

    def tidy(self) -> None:
        """Write all verdicts as one file, without rows of results that were replaced. The old files are removed after
        that, so that a failure loses nothing. Raises StorageError."""
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
            with contextlib.suppress(StorageError):  # old files that stay are harmless
                storage.remove_below(self._folder, old)
        else:
            self.write()

    def _write(self, rows: Sequence[dict[str, object]]) -> str:
        data, name = io.BytesIO(), f"part-{uuid.uuid4().hex}.parquet"
        pq.write_table(pa.Table.from_pylist(list(rows), schema=_ROWS.append(_KIND)), data, compression="zstd")
        patiently(lambda: storage.write_bytes_atomically(storage.join(self._folder, name), data.getvalue()))
        return name

    def _ends(self, one: Candidate) -> dict[str, object]:
        ends: dict[str, object] = {}
        for end, number, place in (("first", one.first, one.first_frame), ("second", one.second, one.second_frame)):
            drive = self._drives[number]
            frame = int(drive.frame_index[place])
            ends |= {f"{end}_drive": drive.drive_id, f"{end}_key": drive.key, f"{end}_frame": frame}
        return ends


def _is_verdict(row: Mapping[str, Any]) -> bool:  # of the types of _ROWS
    """Whether a stored row has all values, and a link that can be one: other programs may write into the folder."""
    if any(value is None for name, value in row.items() if name != "link"):
        return False
    if row["link"] is None:
        return True
    if len(row["link"]) != _NUMBERS or None in row["link"]:
        return False
    values = np.array(row["link"], np.float64)
    covariance = values[8:].reshape(7, 7)
    if not np.isfinite(values).all() or not values[0] > 0 or abs(np.linalg.norm(values[1:5]) - 1) > _UNIT:
        return False
    return is_covariance((covariance + covariance.T) / 2)


def _key(row: Mapping[str, Any]) -> _Key:  # of the types of _ROWS
    # Two drives made of one input in the same second have one key, but each has units of its own.
    ends = [(f"{row[f'{end}_drive']}/{row[f'{end}_key']}", int(row[f"{end}_frame"])) for end in ("first", "second")]
    return (str(row["kind"]), *ends[0], *ends[1])
