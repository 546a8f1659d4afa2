"""Makes two tables of a result from tracks: points that several frames see, and the evidence of pairs of frames."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from pipeline.backend import JoinResult
from pipeline.refine.chunk_result import read_result
from pipeline.refine.evidence import PairEvidence
from pipeline.refine.problem import inverse
from pipeline.refine.tracks import Tracks
from pipeline.refine.triangulate import triangulate
from pipeline.refined_drive import Refined, StagedFrames

Array = NDArray[np.float64]
Columns = Mapping[str, NDArray[np.generic]]

_FEWEST = 3  # a point must be seen by so many frames
# Largest reprojection error of an observation in pixels of the tracked picture: three deviations of a corner. Least
# squares without a robust loss, as in COLMAP, would follow observations with larger errors.
_MISSED = 0.6
_ANGLE = 0.3  # least angle between a point's first ray and another one, degrees
_ROUNDS = 3
_BLOCK = 50_000  # observations that are triangulated at a time; each needs half a kilobyte of memory then
_RAYS = np.array([1.0, 1.0, 0.0, 0.0])  # the camera whose pixels are rays


def track_columns(staged: StagedFrames, refined: Refined, joined: JoinResult) -> Columns | None:
    """Columns of schema.TRACKS: every corner that was used to adjust refined windows, triangulated again from the
    joined cameras. None where no window is refined. Raises StorageError, DriveError."""
    if not refined.taken or refined.camera is None:
        return None
    camera = staged.pictures.grid.camera_to_source(refined.camera.matrix[None])[0]
    places = staged.places(joined.frame_index)
    seen = _adjusted_tracks(staged, refined)
    row = np.minimum(np.searchsorted(places, seen.frame), len(places) - 1)
    good = (places[row] == seen.frame) & ~joined.filled[row]
    rays = Tracks(seen.track[good], row[good], (seen.xy[good] - camera[2:]) / camera[:2])
    limit = _MISSED * staged.pictures.tracked_scale / float(camera[0])
    cam_from_world = inverse(joined.world_from_camera)
    found = [consistent_points(block, cam_from_world, limit) for block in _blocks(rays)]
    rays, points = _together([block for block, _ in found]), np.concatenate([one for _, one in found])
    _, point = np.unique(rays.track, return_inverse=True)
    columns = {axis: points[point, number] for number, axis in enumerate("xyz")}
    columns |= {"u": rays.xy[:, 0], "v": rays.xy[:, 1]}
    return {"point_index": point, "frame_index": joined.frame_index[rays.frame], **columns}


def consistent_points(rays: Tracks, cam_from_world: Array, limit: float) -> tuple[Tracks, Array]:
    """Observations whose reprojection error is below `limit` (in x / z and y / z of a ray), and their points (P, 3), in
    order of tracks. Observations above the limit are dropped, then points that fewer than three frames see."""
    rays = rays.at_least(_FEWEST)
    for _ in range(_ROUNDS):
        if not len(rays):
            return rays, np.zeros((0, 3))
        _, point = np.unique(rays.track, return_inverse=True)
        points, angle = triangulate(cam_from_world, _RAYS, rays.frame, point, rays.xy)
        pose = cam_from_world[rays.frame]
        local = np.einsum("mij,mj->mi", pose[:, :3, :3], points[point]) + pose[:, :3, 3]
        with np.errstate(invalid="ignore", divide="ignore"):
            off = np.linalg.norm(local[:, :2] / local[:, 2:] - rays.xy, axis=1)
        keep = (local[:, 2] > 0) & (off < limit) & (angle > _ANGLE)[point]
        if keep.all():
            return rays, points
        rays = rays.select(keep).at_least(_FEWEST)
    if not len(rays):
        return rays, np.zeros((0, 3))
    _, point = np.unique(rays.track, return_inverse=True)
    return rays, triangulate(cam_from_world, _RAYS, rays.frame, point, rays.xy)[0]


def evidence_columns(pairs: Sequence[PairEvidence], joined: JoinResult) -> Columns:
    """Columns of schema.EVIDENCE. pairs: their frames are rows of the trajectory."""
    frames = joined.frame_index

    def column(name: str) -> Array:
        return np.array([getattr(pair, name) for pair in pairs], np.float64)

    return {
        "frame_index": frames[np.array([pair.first for pair in pairs], np.int64)],
        "second_frame_index": frames[np.array([pair.second for pair in pairs], np.int64)],
        "tracks": np.array([pair.tracks for pair in pairs], np.int64),
        **{name: column(name) for name in ("flow", "distance", "share", "depth", "spread")},
        "judged": np.array([pair.judged for pair in pairs], np.bool_),
    }


def _adjusted_tracks(staged: StagedFrames, refined: Refined) -> Tracks:
    """Observations of all windows that are part of the result, each once; frames are numbered by place."""
    parts: list[Tracks] = []
    for number, window in enumerate(refined.windows):
        result = read_result(staged.folder, number)
        if not result.accepted[0]:
            continue
        places = staged.window_places(window)
        rows = Tracks(result.track[result.point], places[result.frame], result.xy)
        for before in parts:
            if len(before) and before.frame.max() >= places[0]:
                rows = rows.select(~np.isin(_observation(rows), _observation(before)))
        parts.append(rows)
    rows = _together(parts)
    return Tracks.sorted(rows.track, rows.frame, rows.xy)


def _observation(rows: Tracks) -> NDArray[np.int64]:
    """(n,): one number for each pair of track and frame."""
    return np.asarray(rows.track << 32 | rows.frame)


def _together(parts: Sequence[Tracks]) -> Tracks:
    return Tracks(
        np.concatenate([part.track for part in parts]),
        np.concatenate([part.frame for part in parts]),
        np.concatenate([part.xy for part in parts]),
    )


def _blocks(rays: Tracks) -> Iterator[Tracks]:
    """The observations in blocks of about _BLOCK, with whole tracks; at least one block."""
    starts = np.append(np.flatnonzero(np.diff(rays.track, prepend=-1)), len(rays))
    cuts = np.unique(starts[np.searchsorted(starts, np.arange(0, len(rays), _BLOCK))])
    for begin, end in pairwise([*cuts, len(rays)] if len(rays) else [0, 0]):
        yield Tracks(rays.track[begin:end], rays.frame[begin:end], rays.xy[begin:end])
