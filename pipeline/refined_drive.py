"""Refines a staged drive: adjusts its windows to their tracks in Ray tasks, and reads the windows as chunks.

Staged files: the tasks that decode the frames write `tracks-<digest>/segment-*.arrow`; this module writes
`linked-*.arrow` beside them, and `refined-*.safetensors` beside the network's chunks. Without Ray (jobs.realign) the
same work runs in this process.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Protocol, TypeVar

import numpy as np
import ray
import threadpoolctl
from numpy.typing import NDArray

from pipeline import storage
from pipeline.backend import BackendConfig
from pipeline.backend.chunk import Chunk
from pipeline.backend.road import measure_road
from pipeline.cameras.camera import Camera
from pipeline.cameras.known_camera import KnownCamera
from pipeline.cameras.rig import Rig
from pipeline.forward.camera_chunks import CameraChunks, ChunkMasks
from pipeline.forward.staging import STAGING_FOLDER, ChunkPrediction, StagedChunks
from pipeline.publish.drive_facts import ListedFile
from pipeline.refine.chunk_result import WindowResult, has_result, read_result, write_result
from pipeline.refine.grid import Grid
from pipeline.refine.refine_window import common_focal, refine_window, window_focal
from pipeline.refine.stereo_files import StereoTracker
from pipeline.refine.stereo_motion import pair_of
from pipeline.refine.track_files import TRACKS_FOLDER, DriveTracks, SegmentTracker, link_segments
from pipeline.refine.tracks import LEAST_LONG_SIDE, LONG_SIDE, Tracks
from pipeline.refine.verdict import FocalEvidence
from pipeline.refine.window import Window, merge_chunks, plan_windows

Array = NDArray[np.float64]

_FOCAL_WINDOWS = 3  # windows from which the focal length is estimated
_NETWORK_FOCAL = 0.1  # deviation of the log of the network's focal length, which decides where tracks determine little
_HELD = 2  # merged windows in memory: neighbours are joined pairwise

_T = TypeVar("_T")


@dataclass(frozen=True)
class Pictures:
    """Sizes (width, height) of the tracked pictures, in whose pixels the tracks are, and of the network's grid."""

    source: tuple[int, int]
    net: tuple[int, int]

    @staticmethod
    def of(source: tuple[int, int], net: tuple[int, int], known: KnownCamera | None) -> Pictures:
        """The tracked pictures are the source's frames; with a lens they are the rectified frames."""
        view = known.view(*net) if known is not None else None
        if view is not None:
            large = view.enlarged(LONG_SIDE)
            return Pictures((large.width, large.height), net)
        return Pictures(source, net)

    @property
    def grid(self) -> Grid:
        """The conversion between both."""
        return Grid.of(self.source, self.net)

    @property
    def tracked_scale(self) -> float:
        """Source pixels in a pixel of the picture in which corners are searched."""
        return max(max(self.source) / LONG_SIDE, 1.0)


@dataclass(frozen=True)
class StagedFrames:
    """The place of a drive's staged chunks and tracks, and their cameras.

    folder: of the attempt; chunk_count, kept: as in StagedDrive; camera: of the network's pictures, if it is known;
    outlines: first and last place of each chunk, empty where the chunks themselves must be read; road: whether the
    height above the road keeps the scale constant.
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

    def chunks(self) -> CameraChunks:
        """The network's chunks, with the numbers of frames in the drive."""
        return CameraChunks(StagedChunks(self.folder, self.chunk_count, self.kept), self.camera, self.masks)

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
        return plan_windows([range(first, last + 1) for first, last in outlines])


class TrackedDrive(Protocol):
    """The facts of a drive on which tracks depend: its files, their upright size, how they are turned and rectified."""

    @property
    def drive_id(self) -> str: ...
    @property
    def listing(self) -> Sequence[ListedFile]: ...
    @property
    def source_width(self) -> int: ...
    @property
    def source_height(self) -> int: ...
    @property
    def picture(self) -> Mapping[str, object]: ...
    @property
    def camera(self) -> KnownCamera | None: ...


@dataclass(frozen=True)
class Refined:
    """The result of refinement.

    windows: chunks of each window, empty where refinement is off; taken: the number of windows that are refined; focal:
    the focal length in use, and the one that the images give, None where they do not determine it; camera: of the
    network's pictures.
    """

    windows: tuple[range, ...]
    taken: int
    focal: FocalEvidence | None
    camera: Camera | None

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for the user: windows that keep the network's prediction."""
        if not self.windows or self.taken == len(self.windows):
            return ()
        if not self.taken:
            return ("not refined: too few corners could be tracked, or held-back tracks did not agree better",)
        return (f"{len(self.windows) - self.taken} of {len(self.windows)} windows keep the prediction of the network",)


def tracks_uri(output: str, facts: TrackedDrive, kept: Sequence[int]) -> str:
    """The folder of a drive's staged tracks. They depend only on the frames that are used and on how these are shown.
    So all attempts share one folder, and another stride or rotation has another one."""
    digest = hashlib.sha256(np.asarray(kept, np.int64).tobytes())
    for file in facts.listing:
        digest.update(f"{file.name} {file.size} {file.etag}\n".encode(errors="surrogateescape"))
    shown = {name: value for name, value in facts.picture.items() if name != "positions"}
    look = {"picture": shown, "size": [facts.source_width, facts.source_height]}
    digest.update(json.dumps(look, sort_keys=True, default=str).encode())
    return storage.join(output, STAGING_FOLDER, facts.drive_id, f"{TRACKS_FOLDER}-{digest.hexdigest()[:12]}")


def tracker_of(output: str, drive: TrackedDrive, kept: Sequence[int]) -> SegmentTracker | None:
    """The function that follows corners while the drive is decoded; None where its pictures are too small."""
    if max(drive.source_width, drive.source_height) < LEAST_LONG_SIDE:
        return None
    return SegmentTracker(tracks_uri(output, drive, kept))


def stereo_tracker_of(
    output: str, drive: TrackedDrive, rig: Rig, kept: Sequence[int], net: tuple[int, int]
) -> StereoTracker | None:
    """The function that measures a rig's motions in metres while the drive is decoded; None where its cameras are not
    calibrated, no camera of known place looks the same way as the reference, or pictures are too small. net: size
    (width, height) of the network's pictures."""
    size = (drive.source_width, drive.source_height)
    known = drive.camera
    if known is None or known.origin != "calibration" or max(size) < LEAST_LONG_SIDE:
        return None
    view = known.view(*net)
    large = known.camera if view is None else view.enlarged(LONG_SIDE).pinhole
    pair = pair_of(rig.poses, large.intrinsics)
    return None if pair is None else StereoTracker(tracks_uri(output, drive, kept), pair)


def link_tracks(staged: StagedFrames) -> bool:
    """Link the tracks of segments to tracks of the drive. Returns whether any corner was followed. Raises StorageError,
    DriveError."""
    return link_segments(staged.tracks) > 0


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
        return Refined((), 0, focal, staged.camera)
    if staged.camera is None and focal is not None:
        trust = 1 / (1 + (focal.deviation / _NETWORK_FOCAL) ** 2)
        used = float(begin[0] ** (1 - trust) * focal.asked**trust)
        begin[:2] = used
        focal = replace(focal, used=used)
    taken = _run(_refine, [(staged, number, window, begin) for number, window in enumerate(windows)], progress)
    return Refined(windows, sum(taken), focal, _network_camera(staged, grid, begin))


def kept_refinement(staged: StagedFrames) -> Refined | None:
    """The refinement of a published drive that is still staged; None where there is none."""
    windows = staged.windows()
    if not all(has_result(staged.folder, number) for number in range(len(windows))):
        return None
    results = [read_result(staged.folder, number) for number in range(len(windows))]
    camera = _network_camera(staged, staged.pictures.grid, results[0].camera)
    return Refined(windows, sum(bool(one.accepted[0]) for one in results), None, camera)


class RefinedChunks(Sequence[ChunkPrediction]):
    """The windows of a drive as chunks. Joining and publishing read them instead of the network's chunks."""

    def __init__(self, staged: StagedFrames, refined: Refined) -> None:
        self._staged = staged
        self._chunks = staged.chunks()
        self._windows = refined.windows
        self._camera = refined.camera
        self._recent: dict[int, ChunkPrediction] = {}

    @property
    def bad_frames(self) -> dict[int, str]:
        """Frame number -> why the frame is bad, for all windows that were read so far."""
        return self._chunks.bad_frames

    @property
    def static(self) -> tuple[NDArray[np.bool_], ...]:
        """Masks of all frames, False for pixels that were left out: none, one, or one for each camera of a rig."""
        return self._chunks.static

    @property
    def camera(self) -> Camera | None:
        """The camera of the network's pictures."""
        return self._camera

    def with_one_camera(self, square_pixels: bool) -> RefinedChunks:
        """These chunks: they have one camera with square pixels already."""
        return self

    @property
    def shared(self) -> int:
        """The least number of frames that two neighbouring windows should share; 0 for one window."""
        parts = [self._part_frames(window) for window in self._windows]
        common = [last[1] - first[0] + 1 for last, first in pairwise(parts)]
        return max(min(common, default=0), 0)

    def __len__(self) -> int:
        return len(self._windows)

    def __getitem__(self, number: int) -> ChunkPrediction:  # type: ignore[override]
        if not -len(self) <= number < len(self):
            raise IndexError(number)
        number %= len(self)
        if number not in self._recent:
            while len(self._recent) >= _HELD:
                del self._recent[next(iter(self._recent))]
            window = _merged(self._chunks, self._windows[number])
            window = read_result(self._staged.folder, number).applied(window, self._staged.pictures.grid)
            self._recent[number] = _prediction(window, self._chunks.bad_frames)
        return self._recent[number]

    def _part_frames(self, window: range) -> tuple[int, int]:
        outlines = self._staged.outlines
        if outlines:
            return outlines[window.start][0], outlines[window.stop - 1][1]
        first, last = self._chunks[window.start], self._chunks[window.stop - 1]
        return int(self._staged.places(first.frame_index)[0]), int(self._staged.places(last.frame_index)[-1])


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
    return staged.camera or Camera("pinhole", width, height, fx, fy, cx, cy)


def _focal(staged: StagedFrames, window: range) -> tuple[Array, FocalEvidence | None]:
    merged, tracks = _with_tracks(staged, window)
    begin = _guess(staged, merged)
    return begin, window_focal(merged, tracks, begin, staged.pictures.grid)


def _refine(staged: StagedFrames, number: int, window: range, camera: Array) -> bool:
    merged, tracks = _with_tracks(staged, window)
    pictures = staged.pictures
    result: WindowResult = refine_window(
        merged, tracks, camera, pictures.grid, pictures.tracked_scale, _log_heights if staged.road else None
    )
    write_result(staged.folder, number, result)
    return bool(result.accepted[0])


def _log_heights(window: Window) -> Array:
    return measure_road(Chunk.read(_prediction(window, {}), max_pixels=BackendConfig.max_pixels)).log_height


def _with_tracks(staged: StagedFrames, window: range) -> tuple[Window, Tracks]:
    """A merged window and its tracks, both with frames numbered by place; tracks on masked pixels are left out."""
    merged = _merged(staged.chunks(), window)
    places = staged.places(merged.frame_index)
    tracks = DriveTracks(staged.tracks).of(int(places[0]), int(places[-1]) + 1)
    known = np.isin(tracks.frame, places)
    tracks = tracks.select(known)
    hidden = staged.pictures.grid.hidden(merged.confidence, np.searchsorted(places, tracks.frame), tracks.xy)
    return replace(merged, frame_index=places), tracks.select(~hidden)


def _merged(chunks: CameraChunks, window: range) -> Window:
    return merge_chunks([chunks[number] for number in window])


def _prediction(window: Window, bad_frames: dict[int, str]) -> ChunkPrediction:
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
