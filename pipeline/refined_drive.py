"""Refines a staged drive: adjusts its windows to their tracks in Ray tasks.

Staged files: the tasks that decode the frames write `tracks-<digest>/segment-*.arrow`; this module writes
`linked-*.arrow` beside them, and `refined-*.safetensors` beside the network's chunks. Without Ray (jobs.realign) the
same work runs in this process.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
import ray
import threadpoolctl
from numpy.typing import NDArray

from pipeline.backend import BackendConfig
from pipeline.backend.chunk import Chunk
from pipeline.backend.road import measure_road
from pipeline.cameras.camera import Camera
from pipeline.cameras.rig import Rig
from pipeline.forward.camera_chunks import CameraChunks, ChunkMasks
from pipeline.forward.staging import ChunkPrediction, StagedChunks
from pipeline.refine.camera_estimate import (
    PrincipalEvidence,
    common_focal,
    used_focal,
    used_principal,
    window_focal,
    window_principal,
)
from pipeline.refine.chunk_result import WindowResult, has_result, read_result, write_result
from pipeline.refine.grid import Grid
from pipeline.refine.lens_estimate import CommonLens, LensEvidence, common_lens, window_lens
from pipeline.refine.refine_window import refine_window
from pipeline.refine.rig_frames import Mount
from pipeline.refine.rig_mount import (
    MountEvidence,
    common_mount,
    mount_evidence,
    place_deviation,
    place_notes,
    poses_alone,
    with_turns,
)
from pipeline.refine.rig_tracks import RigTracks, link_rig
from pipeline.refine.rig_window import RigView, refine_rig_window
from pipeline.refine.stereo_files import read_motions
from pipeline.refine.track_files import DriveTracks, link_segments
from pipeline.refine.tracks import Tracks
from pipeline.refine.verdict import FocalEvidence
from pipeline.refine.window import FRAMES, Window, merge_chunks, plan_windows
from pipeline.straightened import Bent, StraightChunks, StraightTracks
from pipeline.tracked_drive import Pictures

Array = NDArray[np.float64]

_FOCAL_WINDOWS = 3  # windows from which the focal length is estimated
_NETWORK_FOCAL = 0.1  # deviation of the log of the network's focal length, which decides where tracks determine little
_EXIF_FOCAL = 0.05  # the same of the focal length in EXIF: the 35 mm equivalent is rounded, videos are cut
_MOST_CAMERAS = 4  # a window has 60 frames for each, of more cameras fewer, so that its memory has a limit

_T = TypeVar("_T")


@dataclass(frozen=True)
class StagedFrames:
    """The place of a drive's staged chunks and tracks, and their cameras.

    folder: of the attempt; chunk_count, kept: as in StagedDrive; camera: of the network's pictures, if it is known;
    outlines: first and last place of each chunk, empty where the chunks themselves must be read; road: whether the
    height above the road keeps the scale constant; rig: the cameras that take turns in the frames, None for one;
    guessed: the camera is a guess (EXIF), which the tracks may correct; bent: the lens that tracks showed, by which
    everything staged must be straightened.
    """

    folder: str
    tracks: str
    chunk_count: int
    kept: tuple[int, ...]
    pictures: Pictures
    camera: Camera | None = None
    masks: ChunkMasks = field(default_factory=ChunkMasks)
    outlines: tuple[tuple[int, int], ...] = ()
    road: bool = True
    rig: Rig | None = None
    guessed: bool = False
    bent: Bent | None = None

    @property
    def calibration(self) -> Camera | None:
        """The camera of the network's pictures where it is held; None where it is not known, or only guessed."""
        return None if self.guessed else self.camera

    @property
    def cameras(self) -> int:
        """The number of cameras that take turns in the frames."""
        return 1 if self.rig is None else len(self.rig)

    def drive_tracks(self) -> DriveTracks | StraightTracks | RigTracks:
        """The linked tracks; frames are numbered by place."""
        if self.rig is not None:
            return RigTracks(self.tracks, len(self.rig))
        tracks = DriveTracks(self.tracks)
        return tracks if self.bent is None else StraightTracks(tracks, self.bent)

    def chunks(self) -> CameraChunks:
        """The network's chunks, with the numbers of frames in the drive."""
        return CameraChunks(self.staged_chunks(self.chunk_count), self.camera, self.masks)

    def staged_chunks(self, count: int, first: int = 0) -> StagedChunks | StraightChunks:
        """So many staged chunks from `first` on, straightened where a lens bends them."""
        chunks = StagedChunks(self.folder, count, self.kept, first)
        return chunks if self.bent is None else StraightChunks(chunks, self.bent)

    def places(self, frame_index: NDArray[np.int64]) -> NDArray[np.int64]:
        """Places among the kept frames of these frames of the drive."""
        return np.searchsorted(np.asarray(self.kept, np.int64), frame_index)

    def window_places(self, window: range) -> NDArray[np.int64]:
        """Places of the frames of a window. window: the numbers of its chunks."""
        if len(self.outlines) == self.chunk_count:  # chunks are made of neighbouring places
            return np.arange(self.outlines[window.start][0], self.outlines[window.stop - 1][1] + 1)
        chunks = self.chunks()
        frames = [self.places(chunks[number].frame_index) for number in window]
        return np.unique(np.concatenate(frames))

    def windows(self) -> tuple[range, ...]:
        """The numbers of the chunks of each window."""
        outlines = self.outlines
        if len(outlines) != self.chunk_count:  # staged by an older version, which did not record them
            chunks = self.chunks()
            index = [self.places(chunks[number].frame_index) for number in range(len(chunks))]
            outlines = tuple((int(one[0]), int(one[-1])) for one in index)
        return plan_windows(
            [range(first, last + 1) for first, last in outlines], FRAMES * min(self.cameras, _MOST_CAMERAS)
        )


@dataclass(frozen=True)
class Refined:
    """The result of refinement.

    windows: chunks of each window, empty where refinement is off; accepted: which of them are refined; focal: the focal
    length in use, and the one that the images give, None where they do not determine it; camera: of the network's
    pictures; metre_sigma: of a rig, for each window the deviation of the log of a metre's length that known places of
    cameras give; NaN where none do; of_rig: notes on the places of its cameras.
    """

    windows: tuple[range, ...]
    accepted: tuple[bool, ...]
    focal: FocalEvidence | None
    camera: Camera | None
    metre_sigma: tuple[float, ...] = ()
    of_rig: tuple[str, ...] = ()

    @property
    def taken(self) -> int:
        """The number of windows that are refined."""
        return sum(self.accepted)

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for the user: windows that keep the network's prediction, cameras whose place is not determined."""
        if self.windows and not self.taken:
            return ("not refined: too few corners could be tracked, or held-back tracks did not agree better",)
        left = len(self.windows) - self.taken
        kept = (f"{left} of {len(self.windows)} windows keep the prediction of the network",) if left else ()
        return (*kept, *self.of_rig)


def link_tracks(staged: StagedFrames) -> bool:
    """Link the tracks of segments to tracks of the drive, each border in a Ray task. Returns whether any corner was
    followed. Raises StorageError, DriveError."""
    if staged.rig is None:
        return link_segments(staged.tracks, _run) > 0
    return link_rig(staged.tracks, len(staged.rig), _run) > 0


def refine_staged(
    staged: StagedFrames, refine: bool = True, progress: Callable[[int, int], None] = lambda done, of: None
) -> Refined:
    """Estimate the focal length from the images; adjust every window of a drive and stage the results, if refinement is
    on.

    progress: called with the number of windows that are done, and of all. Raises StorageError, DriveError where staged
    files are damaged.
    """
    windows, grid = staged.windows(), staged.pictures.grid
    asked = sorted({round(n) for n in np.linspace(0, len(windows) - 1, _FOCAL_WINDOWS)})
    found = _run(_focal, [(staged, windows[n]) for n in asked])
    begin = np.median([guess for guess, _ in found], axis=0)
    focal = common_focal([one for _, one in found])
    if focal is not None:
        focal = replace(focal, used=float(np.sqrt(begin[0] * begin[1])))
    if not refine:
        return Refined((), (), focal, staged.camera)
    if staged.calibration is None and focal is not None:
        used = used_focal(focal, float(begin[0]), _EXIF_FOCAL if staged.guessed else _NETWORK_FOCAL)
        begin[:2] = used
        focal = replace(focal, used=used)
    if staged.calibration is None:
        centre = begin[2:].copy()
        begin[2:] = used_principal(_run(_principal, [(staged, windows[n], begin) for n in asked]), centre)
    mount, of_rig = None, tuple[str, ...]()
    if staged.rig is not None:
        mount, of_rig = _mount(staged, staged.rig, [windows[n] for n in asked], begin)
    done = _run(_refine, [(staged, number, window, begin, mount) for number, window in enumerate(windows)], progress)
    return replace(_refined(windows, done, focal, _network_camera(staged, grid, begin)), of_rig=of_rig)


def drive_lens(staged: StagedFrames) -> CommonLens | None:
    """The lens that tracks show in a drive without calibration; None where they do not tell its pictures from a
    pinhole's. Raises StorageError, DriveError where staged files are damaged."""
    if staged.calibration is not None or staged.rig is not None or staged.bent is not None:
        return None
    windows = staged.windows()
    asked = sorted({round(n) for n in np.linspace(0, len(windows) - 1, _FOCAL_WINDOWS)})
    size = np.array(staged.pictures.source)
    return common_lens(_run(_lens, [(staged, windows[n]) for n in asked]), size / 2, float(size[0] / 2))


def _lens(staged: StagedFrames, window: range) -> LensEvidence | None:
    merged, tracks = _with_tracks(staged, window)
    begin = _guess(staged, merged)
    return window_lens(merged, tracks, begin, staged.pictures.source[0] / 2, staged.pictures.grid)


def kept_refinement(staged: StagedFrames) -> Refined | None:
    """The refinement of a published drive that is still staged; None where there is none."""
    windows = staged.windows()
    if not all(has_result(staged.folder, number) for number in range(len(windows))):
        return None
    results = [read_result(staged.folder, number) for number in range(len(windows))]
    camera = _network_camera(staged, staged.pictures.grid, results[0].camera)
    return _refined(windows, [(bool(one.accepted[0]), one.metre_sigma) for one in results], None, camera)


def _refined(
    windows: tuple[range, ...], done: Sequence[tuple[bool, Array]], focal: FocalEvidence | None, camera: Camera
) -> Refined:
    """done: of each window whether it is refined, and WindowResult.metre_sigma."""
    sigma = tuple(float(one[0]) if accepted and len(one) else float("nan") for accepted, one in done)
    return Refined(windows, tuple(accepted for accepted, _ in done), focal, camera, sigma)


def _guess(staged: StagedFrames, merged: Window) -> Array:
    """fx fy cx cy of the tracked pictures: the known ones, else the network's with square pixels. Its horizontal focal
    length is used for both axes, because it is more accurate than the vertical one."""
    grid = staged.pictures.grid
    if staged.camera is not None:
        return np.asarray(grid.camera_to_source(staged.camera.matrix[None])[0])
    camera = np.median(grid.camera_to_source(merged.intrinsics[merged.ok | ~merged.ok.any()]), axis=0)
    width, height = staged.pictures.source
    return np.array([camera[0], camera[0], width / 2, height / 2])


def _network_camera(staged: StagedFrames, grid: Grid, camera: Array) -> Camera:
    matrix = grid.camera_from_source(camera)
    width, height = staged.pictures.net
    fx, fy, cx, cy = float(matrix[0, 0]), float(matrix[1, 1]), float(matrix[0, 2]), float(matrix[1, 2])
    return staged.calibration or Camera("pinhole", width, height, fx, fy, cx, cy)


def _focal(staged: StagedFrames, window: range) -> tuple[Array, FocalEvidence | None]:
    merged, tracks = _with_tracks(staged, window)
    begin = _guess(staged, merged)
    seen = _of_reference(staged, merged, tracks)
    return begin, None if seen is None else window_focal(*seen, begin, staged.pictures.grid)


def _principal(staged: StagedFrames, window: range, camera: Array) -> PrincipalEvidence | None:
    seen = _of_reference(staged, *_with_tracks(staged, window))
    return None if seen is None else window_principal(*seen, camera, staged.pictures.grid)


def _of_reference(staged: StagedFrames, merged: Window, tracks: Tracks) -> tuple[Window, Tracks] | None:
    """Of a rig, a window and tracks of the reference camera alone; None where it has no whole instants."""
    if staged.rig is None:
        return merged, tracks
    view = RigView.of(merged, tracks, staged.cameras)
    return None if view is None else (view.of_camera(0), view.tracks_of(0, view.tracks))


def _mount(staged: StagedFrames, rig: Rig, windows: Sequence[range], camera: Array) -> tuple[Mount, tuple[str, ...]]:
    """The cameras on the car, as far as the rig file leaves them unknown, by some windows; and notes."""
    mount = Mount.of(rig.poses, rig.lateness)
    if mount.free_turn.any():
        mount = with_turns(mount, _run(_alone, [(staged, window, camera) for window in windows]))
    found = _run(_mounted, [(staged, window, camera, mount) for window in windows])
    return common_mount(mount, found), place_notes(rig.cameras, place_deviation(mount, found))


def _alone(staged: StagedFrames, window: range, camera: Array) -> list[Array | None] | None:
    merged, tracks = _with_tracks(staged, window)
    return poses_alone(merged, tracks, camera, staged.pictures.grid, staged.cameras)


def _mounted(staged: StagedFrames, window: range, camera: Array, mount: Mount) -> MountEvidence | None:
    merged, tracks = _with_tracks(staged, window)
    return mount_evidence(merged, tracks, camera, staged.pictures.grid, mount)


def _refine(staged: StagedFrames, number: int, window: range, camera: Array, mount: Mount | None) -> tuple[bool, Array]:
    merged, tracks = _with_tracks(staged, window)
    pictures = staged.pictures
    result: WindowResult
    if mount is None:
        result = refine_window(
            merged, tracks, camera, pictures.grid, pictures.tracked_scale, _road if staged.road else None
        )
    else:
        result = refine_rig_window(
            merged,
            tracks,
            camera,
            pictures.grid,
            pictures.tracked_scale,
            mount,
            _motions(staged),
        )
    write_result(staged.folder, number, result)
    return bool(result.accepted[0]), result.metre_sigma


def _motions(staged: StagedFrames) -> dict[int, Array]:
    """The measured steps of a rig's reference camera in metres, by the instant at which each begins."""
    instants, this_from_next = read_motions(staged.tracks)
    return dict(zip(instants.tolist(), this_from_next, strict=True))


def _road(window: Window) -> tuple[Array, Array]:
    road = measure_road(Chunk.read(as_prediction(window, {}), max_pixels=BackendConfig.max_pixels))
    return road.log_height, road.normal


def _with_tracks(staged: StagedFrames, window: range) -> tuple[Window, Tracks]:
    """A merged window and its tracks, both with frames numbered by place; tracks on masked pixels are left out."""
    merged = merged_window(staged.chunks(), window)
    places = staged.places(merged.frame_index)
    tracks = staged.drive_tracks().of(int(places[0]), int(places[-1]) + 1)
    known = np.isin(tracks.frame, places)
    tracks = tracks.select(known)
    hidden = staged.pictures.grid.hidden(merged.confidence, np.searchsorted(places, tracks.frame), tracks.xy)
    return replace(merged, frame_index=places), tracks.select(~hidden)


def merged_window(chunks: CameraChunks, window: range) -> Window:
    """The chunks of a window (their numbers), chained."""
    return merge_chunks([chunks[number] for number in window])


def as_prediction(window: Window, bad_frames: dict[int, str]) -> ChunkPrediction:
    """A window as one chunk. bad_frames: frame number -> why the frame is bad."""
    index = window.frame_index
    mine = {int(frame): bad_frames[int(frame)] for frame in index if int(frame) in bad_frames}
    return ChunkPrediction(
        index,
        window.cam_from_window[:, :3].astype(np.float32),
        window.intrinsics.astype(np.float32),
        window.depth,
        window.confidence,
        window.rgb,
        window.ok,
        mine,
    )


def _run(
    work: Callable[..., _T], of: Sequence[tuple[object, ...]], progress: Callable[[int, int], None] | None = None
) -> list[_T]:
    """The results of work(*arguments), in order: in Ray tasks of one CPU where Ray runs and there are several, else in
    this process.

    The work runs on one thread in both cases, so that sums are the same everywhere.
    """
    if len(of) < 2 or not ray.is_initialized():
        answers = []
        with threadpoolctl.threadpool_limits(1):
            for done, arguments in enumerate(of):
                answers.append(work(*arguments))
                if progress is not None:
                    progress(done + 1, len(of))
        return answers
    remote = ray.remote(num_cpus=1)(_on_one_thread)
    refs = [remote.remote(work, *arguments) for arguments in of]
    waiting = list(refs)
    while waiting:
        done_refs, waiting = ray.wait(waiting, num_returns=1)
        ray.get(done_refs)
        if progress is not None:
            progress(len(refs) - len(waiting), len(refs))
    return ray.get(refs)


def _on_one_thread(work: Callable[..., _T], *arguments: object) -> _T:
    with threadpoolctl.threadpool_limits(1):
        return work(*arguments)
