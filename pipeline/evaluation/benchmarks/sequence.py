"""Sequences of benchmarks (frames, true poses, perhaps a true point cloud), benchmarks, and readers they share."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipeline import storage
from pipeline.errors import DriveError
from pipeline.evaluation.associate import PosedFrames
from pipeline.evaluation.clouds import Cloud
from pipeline.evaluation.metrics import FloatArray

Rectify = Callable[[Path], None]
"""Writes a sequence's frames, rectified for a pinhole camera, into an empty folder."""


@dataclass(frozen=True)
class Sequence:
    """One sequence. frames: the input of a reconstruction (unless `rectify` writes the frames); truth: true poses with
    the names of the frames; cloud: yields parts (n, 3) of the true cloud in the truth's world, metres, or None."""

    name: str
    frames: str
    truth: PosedFrames
    cloud: Callable[[], Iterator[Cloud]] | None = None
    rectify: Rectify | None = None

    @property
    def drive_id(self) -> str:
        """The sequence's name, changed so that it is a valid drive id."""
        return storage.check_drive_id(re.sub(r"[^A-Za-z0-9._-]", "-", self.name))


@dataclass(frozen=True)
class Benchmark:
    """A data set and how results on it are scored.

    names: the sequences that are run by default, empty for all; find: lists those in a folder; read: reads one.
    cloud_threshold: of F1, metres, None if clouds are not scored; cloud_reach: points farther from the camera's path
    are left out, metres. left_out: a sequence without which a second mean is given. published: mean figures by method
    and metric.
    """

    name: str
    title: str
    source: str
    layout: str
    find: Callable[[str], tuple[str, ...]]
    read: Callable[[str, str], Sequence]
    names: tuple[str, ...] = ()
    cloud_threshold: float | None = None
    cloud_reach: float | None = None
    left_out: str | None = None
    published: dict[str, dict[str, float]] = field(default_factory=dict)
    published_note: str = ""

    def sequences(self, data: str, asked: tuple[str, ...] = ()) -> tuple[str, ...]:
        """The sequences to run: those in `asked`, or by default the benchmark's sequences that exist.

        Raises DriveError, which names the expected layout and the source of the data, if one does not exist.
        """
        data = storage.absolute(data)
        try:
            there = self.find(data) if storage.exists(data) else ()
        except storage.NotFoundError:
            there = ()
        chosen = asked or tuple(name for name in there if not self.names or name in self.names)
        missing = [name for name in chosen if name not in there]
        if missing or not chosen:
            what = f"no sequence {', '.join(missing)}" if missing else "no sequence of the benchmark"
            others = f" (found: {', '.join(there[:20])})" if there else ""
            raise DriveError(
                f"{self.title}: {what} in {storage.redacted(data)}{others}; expected {self.layout}; from {self.source}"
            )
        return chosen


def named_truth(what: str, names: list[str], poses: dict[str, FloatArray]) -> PosedFrames:
    """True poses (4, 4) by image name -> PosedFrames for `names` in drive order; images without a pose are not known.
    Raises DriveError if no image has one."""
    known = np.array([name in poses for name in names], bool)
    every = np.tile(np.eye(4), (len(names), 1, 1))
    for place, name in enumerate(names):
        if name in poses:
            every[place] = poses[name]
    if not known.any():
        raise DriveError(f"{what}: none of its {len(names)} images has a true pose")
    return PosedFrames(what, every, known, ~np.ones(len(names), bool), None, tuple(names))


def image_names(folder: str) -> list[str]:
    """Names without endings of the images in a folder, in drive order. Raises DriveError if there are none."""
    endings = (".png", ".jpg", ".jpeg")
    names = [f.name for f in storage.list_files(folder) if f.name.lower().endswith(endings)]
    if not names:
        raise DriveError(f"no images in {storage.redacted(folder)}")
    parts = re.compile(r"(\d+)")
    return [
        name.rpartition(".")[0]
        for name in sorted(
            names, key=lambda name: [int(part) if part.isdigit() else part for part in parts.split(name)]
        )
    ]


def text_rows(uri: str, columns: int | None, *, separator: str | None = None) -> list[list[str]]:
    """The words of each line that is not a comment. Raises DriveError, which names a line with another number of
    words."""
    rows = []
    for number, line in enumerate(storage.read_bytes(uri).decode("utf-8", "replace").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        words = line.split(separator)
        if columns is not None and len(words) != columns:
            name = storage.parent_and_name(uri)[1]
            raise DriveError(f"{name}: expected {columns} values in line {number}, got {line.strip()[:60]!r}")
        rows.append(words)
    return rows


def pose(rotation: FloatArray, position: FloatArray) -> FloatArray:
    """The rigid motion (4, 4) with a rotation (3, 3) and a position (3,)."""
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = rotation, position
    return matrix
