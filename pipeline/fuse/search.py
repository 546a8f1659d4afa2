"""Selects candidates: by positions between drives on Earth, by place descriptors between all others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.fuse import city_tables
from pipeline.fuse.candidates import Candidate, Track, by_descriptors, by_positions, within_budget
from pipeline.fuse.config import FuseConfig
from pipeline.fuse.own_positions import from_origin
from pipeline.fuse.published_drives import FusibleDrive
from pipeline.fuse.tasks import Tasks


def candidates_of(
    drives: Sequence[FusibleDrive], config: FuseConfig, tasks: Tasks | None = None
) -> tuple[list[Candidate], tuple[str, ...]]:
    """Candidates, and notes on drives that have neither positions nor descriptors. tasks: that compare descriptors
    where there are many. Raises DriveError and StorageError where descriptors cannot be read."""
    notes: list[str] = []
    located = [n for n, drive in enumerate(drives) if drive.opened.origin is not None]
    made = by_positions(_tracks(drives, located), config.cell, config.per_pair, config.budget)
    on_earth = set(located)
    blind: set[int] = set()
    if len(on_earth) < len(drives):
        rows, of, frame, blind = city_tables.place_rows(drives)
        alike = by_descriptors(rows, of, frame, config.similarity, config.per_pair, config.budget, tasks=tasks)
        made += [one for one in alike if not {one.first, one.second} <= on_earth]
    for n in sorted(blind - on_earth):
        notes.append(
            f"drive {drives[n].drive_id} has neither positions nor place descriptors: nothing is compared with it; "
            "reconstruct it again with loops on (--overwrite)"
        )
    return within_budget(made, config.budget), tuple(notes)


def _tracks(drives: Sequence[FusibleDrive], located: Sequence[int]) -> list[Track]:
    """The drives `located` with coordinates from the origin of the first of them."""
    tracks: list[Track] = []
    if not located:
        return tracks
    origin = drives[located[0]].opened.origin
    assert origin is not None
    for n in located:
        own, pose = drives[n].opened.origin, drives[n].opened.cameras.world_from_camera
        assert own is not None
        frame = np.arange(len(pose), dtype=np.int64)
        place, turn = from_origin(pose[:, :3, 3], own, origin)
        tracks.append(Track(n, frame, place, pose[:, :3, 2] @ turn.T, drives[n].rig.camera == 0))
    return tracks
