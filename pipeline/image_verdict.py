"""Judges a joined drive by its images: tracks that no adjustment has used give findings for the verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.backend import Finding, JoinResult, QualityConfig, Verdict
from pipeline.backend.quality import with_findings
from pipeline.cameras.camera import Camera
from pipeline.forward.staging import ChunkPrediction
from pipeline.refine.evidence import PairEvidence, collect_evidence, held_back
from pipeline.refine.tracks import Tracks
from pipeline.refine.verdict import drive_figures, image_findings
from pipeline.refined_drive import Refined, StagedFrames

Array = NDArray[np.float64]

_LEAST_RESIDUAL = 0.01  # share of the length of a window's path
_BLOCK = 256  # frames whose evidence is collected at a time: memory does not grow with the drive


class DriveChunks(Protocol):
    """The chunks of a drive, the network's or refined ones, with the attributes that publishing reads."""

    @property
    def bad_frames(self) -> dict[int, str]: ...
    @property
    def static(self) -> tuple[NDArray[np.bool_], ...]: ...
    @property
    def camera(self) -> Camera | None: ...
    def __len__(self) -> int: ...
    def __getitem__(self, number: int) -> ChunkPrediction: ...


class WitnessedChunks(Sequence[ChunkPrediction]):
    """Chunks that record, when they are read, the data of the evidence: cameras, and depth at held-back tracks."""

    def __init__(self, chunks: DriveChunks, staged: StagedFrames) -> None:
        self._chunks = chunks
        self._staged = staged
        self._tracks = staged.drive_tracks()
        self.cameras: dict[int, tuple[NDArray[np.int64], Array]] = {}
        self.depths: dict[int, tuple[Tracks, Array]] = {}

    def __len__(self) -> int:
        return len(self._chunks)

    def __getitem__(self, number: int) -> ChunkPrediction:  # type: ignore[override]
        chunk = self._chunks[number]
        number %= len(self)
        if number not in self.cameras:
            grid = self._staged.pictures.grid
            places = self._staged.places(chunk.frame_index)
            intrinsics = np.broadcast_to(np.asarray(chunk.intrinsics, np.float64), (len(places), 3, 3))
            self.cameras[number] = (places, grid.camera_to_source(intrinsics))
            rows = self._tracks.of(int(places[0]), int(places[-1]) + 1)
            rows = rows.select(held_back(rows) & np.isin(rows.frame, places))
            at = np.searchsorted(places, rows.frame)
            seen = ~grid.hidden(chunk.confidence, at, rows.xy)
            rows, at = rows.select(seen), at[seen]
            with np.errstate(invalid="ignore", divide="ignore"):
                depth = np.log(grid.sample(chunk.depth, at, rows.xy))
            self.depths[number] = (rows, np.where(np.isfinite(depth), depth, np.nan))
        return chunk


def least_residual(refined: Refined | None) -> float:
    """The positions of an overlap of refined windows count as equal if they differ by less than this share of the
    window's path (see `assess_quality`).

    On six good rendered drives they differ by 0.02 % in the median, and by up to 0.7 % (ATE 0.07 %), which is 36 times
    as much; those of unrefined chunks differ by 0.7 to 1.5 % in the median. Larger differences are also visible in the
    images.
    """
    return _LEAST_RESIDUAL if refined is not None and refined.taken else 0.0


def judged_windows(quality: QualityConfig, refined: Refined | None) -> QualityConfig:
    """The thresholds for overlaps. Those of refined windows agree to a thousandth of their path, and the images judge
    the rest; so an overlap that is a few times as noisy as the median gives no warning."""
    if refined is None or not refined.taken:
        return quality
    return replace(quality, noise_warn=min(2 * quality.noise_warn, quality.noise_fail))


def judge_images(
    verdict: Verdict,
    joined: JoinResult,
    witnessed: WitnessedChunks,
    staged: StagedFrames,
    refined: Refined,
    camera: Camera | None,
) -> tuple[Verdict, list[PairEvidence]]:
    """The verdict with the findings of the images, and the evidence of every frame.

    camera: the published one, of the network's pictures; None: each frame has its own.
    """
    grid, scale = staged.pictures.grid, staged.pictures.tracked_scale
    places = staged.places(joined.frame_index)
    count = len(places)
    cameras = np.full((count, 4), np.nan)
    for number, (where, found) in witnessed.cameras.items():
        mine = np.flatnonzero(joined.owner == number)
        cameras[mine] = found[np.searchsorted(where, places[mine])]
    if camera is not None:
        cameras[:] = grid.camera_to_source(camera.matrix[None])
    pairs: list[PairEvidence] = []
    more = 4 * staged.cameras  # pairs and steps of scale continue into the next block
    for begin in range(0, count, _BLOCK):
        rows = slice(begin, min(begin + _BLOCK + more, count))
        tracks, depth = _witness_rows(witnessed, joined, places, rows)
        found_pairs = collect_evidence(
            joined.world_from_camera[rows],
            cameras[rows],
            ~joined.filled[rows],
            tracks,
            depth,
            scale,
            begin,
            staged.cameras,
        )
        known = pairs[-1].first if pairs else -1
        pairs += [pair for pair in found_pairs if pair.first > known]
    names = () if staged.rig is None else staged.rig.cameras
    findings = image_findings(
        pairs, joined.owner, cameras, staged.pictures.source[0], scale, refined.focal, names=names
    )
    frames = joined.frame_index
    in_drive = [
        Finding(
            one.level,
            one.kind,
            range(int(frames[one.frames.start]), int(frames[one.frames.stop - 1]) + 1),
            one.chunk,
            one.reason,
        )
        for one in findings
    ]
    return with_findings(verdict, in_drive, _figures(pairs, refined)), pairs


def _figures(pairs: list[PairEvidence], refined: Refined) -> dict[str, float]:
    """The figures for the manifest that are finite."""
    share, distance = drive_figures(pairs)
    figures = {
        "image_share": share,
        "image_distance": distance,
        "image_pairs": float(sum(pair.judged for pair in pairs)),
        "windows": float(len(refined.windows)),
        "windows_refined": float(refined.taken),
    }
    if refined.focal is not None:
        figures |= {"focal": refined.focal.used, "focal_of_images": refined.focal.asked}
    return {name: value for name, value in figures.items() if np.isfinite(value)}


def _witness_rows(
    witnessed: WitnessedChunks, joined: JoinResult, places: NDArray[np.int64], rows: slice
) -> tuple[Tracks, Array]:
    """Held-back tracks in these rows of the trajectory, with frames as rows, and the log depths in world units."""
    first, last = int(places[rows][0]), int(places[rows][-1])
    parts: list[Tracks] = []
    depths: list[Array] = []
    for number in np.unique(joined.owner[rows]):
        tracks, depth = witnessed.depths[int(number)]
        inside = (tracks.frame >= first) & (tracks.frame <= last)
        row = np.searchsorted(places, tracks.frame)
        mine = inside & (row < len(places))
        mine[mine] &= joined.owner[row[mine]] == number
        parts.append(Tracks(tracks.track[mine], row[mine], tracks.xy[mine]))
        depths.append(depth[mine] + np.log(joined.depth_scale[row[mine]]))
    if not parts:
        return Tracks.none(), np.zeros(0)
    return (
        Tracks(
            np.concatenate([part.track for part in parts]),
            np.concatenate([part.frame for part in parts]),
            np.concatenate([part.xy for part in parts]),
        ),
        np.concatenate(depths),
    )
