"""The small tables of a city, and the place descriptors of its drives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline import storage
from pipeline.backend.loop_detection import whiten
from pipeline.fuse.city_files import CityFile, city_uri
from pipeline.fuse.city_schema import DRIVES, LINKS, POSES
from pipeline.fuse.evidence import Verified
from pipeline.fuse.lost_drives import lost_if_unreadable
from pipeline.fuse.placement import Placement
from pipeline.fuse.published_drives import FusibleDrive
from pipeline.fuse.solve import City
from pipeline.publish.files import publish_file
from pipeline.publish.poses import quaternion_from_rotation

# Components of a whitened descriptor; fewer where there are so many descriptors that comparing all pairs takes minutes.
_COMPONENTS, _COMPONENTS_OF_MANY, _MANY = 96, 64, 100_000


def place_rows(
    drives: Sequence[FusibleDrive],
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64], set[int]]:
    """Place descriptors of all drives: (M, K), whitened over all of them, of unit length; the drive (M,) of each; the
    index of its frame (M,) in the drive's arrays; and the drives without descriptors, or with those of another length
    than the first drive's. Raises LostDriveError, StorageError."""
    rows: list[NDArray[np.float32]] = []
    of: list[NDArray[np.int64]] = []
    frame: list[NDArray[np.int64]] = []
    blind: set[int] = set()
    width = 0
    for n, drive in enumerate(drives):
        with lost_if_unreadable(drive.opened):
            places = drive.opened.places
        if places is None or not places.num_rows:
            blind.add(n)
            continue
        own = np.stack(places["descriptor"].to_numpy(zero_copy_only=False))
        if width and own.shape[1] != width:
            blind.add(n)
            continue
        width = own.shape[1]
        at = drive.opened.cameras.places(places["frame_index"].to_numpy())
        use = np.flatnonzero(at >= 0)
        # Of a rig the rows of a camera follow each other: rows near each other support one another.
        use = use[np.argsort(drive.rig.camera[at[use]], kind="stable")]
        rows.append(own[use].astype(np.float32))
        frame.append(at[use])
        of.append(np.full(len(use), n, np.int64))
    if not rows:
        return np.zeros((0, 0), np.float32), np.zeros(0, np.int64), np.zeros(0, np.int64), blind
    count = sum(len(one) for one in rows)
    components = _COMPONENTS if count < _MANY else _COMPONENTS_OF_MANY
    return whiten(np.concatenate(rows), components), np.concatenate(of), np.concatenate(frame), blind


def tables_of(
    drives: Sequence[FusibleDrive], verified: Sequence[Verified], city: City, placements: Sequence[Placement]
) -> Mapping[str, pa.Table]:
    """The tables drives, poses and links of a version, by name."""
    return {
        "drives": _drives(drives, verified, city, placements),
        "poses": _poses(placements),
        "links": _links(drives, verified, city),
    }


def write_table(output: str, version: str, name: str, table: pa.Table, scratch: Path) -> CityFile:
    """Write a table of a version as Parquet; scratch: a local folder. Raises StorageError."""
    local, path = scratch / f"{name}.parquet", f"{version}/{name}.parquet"
    pq.write_table(table, local, compression="zstd", write_page_checksum=True)
    written = publish_file(local, storage.join(city_uri(output), *path.split("/")), path, rows=table.num_rows)
    return CityFile(path, written.size, written.sha256, written.rows)


def _table(kind: pa.Schema, columns: Mapping[str, object]) -> pa.Table:
    return pa.Table.from_arrays([pa.array(columns[one.name]).cast(one.type) for one in kind], schema=kind)


def _drives(
    drives: Sequence[FusibleDrive], verified: Sequence[Verified], city: City, placements: Sequence[Placement]
) -> pa.Table:
    links = [one.link for one in verified if one.link is not None]
    counts = np.zeros((len(drives), 2), np.int64)
    compared = np.zeros((len(drives), 2), np.int64)  # pairs of frames; of these, with a frame that cannot be read
    for one in verified:
        for number in (one.candidate.first, one.candidate.second):
            compared[number] += 1, not one.lasting
    for link, verdict in zip(links, city.links, strict=True):
        for end in (link.first, link.second):
            counts[end, 0 if verdict.accepted else 1] += 1
    fixes = [0 if drive.fixes is None else len(drive.fixes) for drive in drives]
    moves = city.city_from_drive
    columns: dict[str, object] = {
        "drive_index": np.arange(len(drives)),
        "drive_id": [drive.drive_id for drive in drives],
        "key": [drive.key for drive in drives],
        "recorded_s": [drive.recorded_s for drive in drives],
        "frame": [placement.frame for placement in placements],
        "on_earth": [fused.on_earth for fused in city.drives],
        "scale": [move.scale for move in moves],
        **_pose_columns(np.stack([move.rotation for move in moves]), np.stack([move.translation for move in moves])),
        "deviation": [fused.deviation for fused in city.drives],
        "scale_range": [fused.scale_range for fused in city.drives],
        "links": counts[:, 0],
        "links_rejected": counts[:, 1],
        "fixes": fixes,
        "evidence": [
            _evidence(links.tolist(), number if fused.on_earth else 0, pairs.tolist(), len(drives))
            for links, number, pairs, fused in zip(counts, fixes, compared, city.drives, strict=True)
        ],
    }
    return _table(DRIVES, columns)


def _evidence(links: tuple[int, int], fixes: int, pairs: tuple[int, int], drives: int) -> str:
    """What a drive's place follows from, in words. links: accepted, rejected; fixes: used; pairs: of frames that were
    to be compared, and those of them with a frame that cannot be read."""
    parts = [f"{links[0]} link{'s' if links[0] != 1 else ''}"] if links[0] else []
    if fixes:
        parts.append(f"{fixes} positions")
    if parts:
        return " and ".join(parts)
    if drives == 1:
        return "nothing: it is the only drive"
    if not pairs[0]:
        return "nothing: no frame of another drive looks similar"
    unread = f" ({pairs[1]} could not be compared)" if pairs[1] else ""
    if links[1]:
        return f"nothing: its {links[1]} links contradict others; {pairs[0]} pairs of frames were candidates{unread}"
    return f"nothing: none of {pairs[0]} pairs of frames shows one place{unread}"


def _pose_columns(rotation: NDArray[np.float64], translation: NDArray[np.float64]) -> dict[str, object]:
    quaternion = quaternion_from_rotation(rotation)
    return {
        **{axis: translation[:, n] for n, axis in enumerate("xyz")},
        **{f"q{part}": quaternion[:, n] for n, part in enumerate("wxyz")},
    }


def _poses(placements: Sequence[Placement]) -> pa.Table:
    pose = np.concatenate([one.city_from_camera for one in placements])
    columns: dict[str, object] = {
        "drive_index": np.repeat(np.arange(len(placements)), [len(one.frame_index) for one in placements]),
        "frame_index": np.concatenate([one.frame_index for one in placements]),
        **_pose_columns(pose[:, :3, :3], pose[:, :3, 3]),
        "scale": np.concatenate([one.scale for one in placements]),
    }
    return _table(POSES, columns)


def _links(drives: Sequence[FusibleDrive], verified: Sequence[Verified], city: City) -> pa.Table:
    verdicts = iter(city.links)
    rows: list[dict[str, object]] = []
    for one in verified:
        verdict = next(verdicts) if one.link is not None else None
        ends = ((one.candidate.first, one.candidate.first_frame), (one.candidate.second, one.candidate.second_frame))
        (first, first_frame), (second, second_frame) = (
            (drives[n].drive_id, int(drives[n].frame_index[place])) for n, place in ends
        )
        rows.append(
            {
                "first_drive": first,
                "first_frame": first_frame,
                "second_drive": second,
                "second_frame": second_frame,
                "by": one.candidate.by,
                "score": one.candidate.score,
                "verified": one.link is not None,
                "accepted": verdict is not None and verdict.accepted,
                "matches": one.matches,
                "chi2": float("nan") if verdict is None else float(verdict.chi2),
                "reason": one.reason if verdict is None else f"{one.reason}; {verdict.reason}",
            }
        )
    return pa.Table.from_pylist(rows, schema=LINKS)
