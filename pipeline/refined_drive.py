"""Refinement of a staged drive: its windows adjusted to their tracks in Ray tasks, and read as chunks from there on.

What is staged: `tracks-<digest>/segment-*.arrow` by the tasks that decoded the frames, `linked-*.arrow` beside them and
`refined-*.safetensors` beside the network's chunks by this module. Without Ray (jobs.realign) the same runs here.
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
from pipeline.forward.camera_chunks import CameraChunks, ChunkMasks
from pipeline.forward.staging import STAGING_FOLDER, ChunkPrediction, StagedChunks
from pipeline.publish.drive_facts import ListedFile
from pipeline.refine.chunk_result import WindowResult, has_result, read_result, write_result
from pipeline.refine.grid import Grid
from pipeline.refine.refine_window import common_focal, refine_window, window_focal
from pipeline.refine.track_files import TRACKS_FOLDER, DriveTracks, SegmentTracker, link_segments
from pipeline.refine.tracks import LEAST_LONG_SIDE, LONG_SIDE, Tracks
from pipeline.refine.verdict import FocalEvidence
from pipeline.refine.window import Window, merge_chunks, plan_windows

Array = NDArray[np.float64]

_FOCAL_WINDOWS = 3  # windows that are asked for the focal length
_NETWORK_FOCAL = 0.1  # deviation of the log of the network's focal length: it decides where tracks hardly tell
_HELD = 2  # merged windows in memory: neighbours are joined pairwise

_T = TypeVar("_T")


@dataclass(frozen=True)
class Pictures:
    """Sizes (width, height) of the pictures that are tracked, in whose pixels tracks are, and of the network's grid."""

    source: tuple[int, int]
    net: tuple[int, int]

    @staticmethod
    def of(source: tuple[int, int], net: tuple[int, int], known: KnownCamera | None) -> Pictures:
        """The source's frames, or of a lens what the decoding tasks make of them."""
        view = known.view(*net) if known is not None else None
        if view is not None:
            large = view.enlarged(LONG_SIDE)
            return Pictures((large.width, large.height), net)
        return Pictures(source, net)

    @property
    def grid(self) -> Grid:
        """Between both."""
        return Grid.of(self.source, self.net)

    @property
    def tracked_scale(self) -> float:
        """Source pixels in a pixel that is looked at."""
        return max(max(self.source) / LONG_SIDE, 1.0)


@dataclass(frozen=True)
class StagedFrames:
    """Where a drive's chunks and tracks are staged, and how they are seen.

    folder: of the attempt; chunk_count, kept: as in StagedDrive; camera: known one of the network's pictures; outlines:
    first and last place of each chunk, empty where the chunks must be asked; road: whether the height above the road
    holds the scale.
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
        """The network's chunks, frames under their numbers in the drive."""
        return CameraChunks(StagedChunks(self.folder, self.chunk_count, self.kept), self.camera, self.masks)

    def places(self, frame_index: NDArray[np.int64]) -> NDArray[np.int64]:
        """Places among the kept frames of these frames of the drive."""
        return np.searchsorted(np.asarray(self.kept, np.int64), frame_index)

    def window_places(self, window: range) -> NDArray[np.int64]:
        """Places of the frames of a window, the chunks of which are given."""
        if len(self.outlines) == self.chunk_count:  # chunks are made of neighbouring places
            return np.arange(self.outlines[window.start][0], self.outlines[window.stop - 1][1] + 1)
        chunks = self.chunks()
        frames = [self.places(chunks[number].frame_index) for number in window]
        return np.unique(np.concatenate(frames))

    def windows(self) -> tuple[range, ...]:
        """The chunks of each window."""
        outlines = self.outlines
        if len(outlines) != self.chunk_count:  # staged by a version that did not note them
            chunks = self.chunks()
            index = [self.places(chunks[number].frame_index) for number in range(len(chunks))]
            outlines = tuple((int(one[0]), int(one[-1])) for one in index)
        return plan_windows([range(first, last + 1) for first, last in outlines])


class TrackedDrive(Protocol):
    """What tracks depend on, of a drive or of the facts of one: its files, their size upright, how they are shown."""

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


@dataclass(frozen=True)
class Refined:
    """What refinement came to.

    windows: chunks of each window, none where it was not asked for; taken: how many of them are refined; focal: length
    in use and asked for by the images, None where they do not tell; camera: of the network's pictures.
    """

    windows: tuple[range, ...]
    taken: int
    focal: FocalEvidence | None
    camera: Camera | None

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader should know: windows that stay as the network said."""
        if not self.windows or self.taken == len(self.windows):
            return ()
        if not self.taken:
            return ("not refined: too little can be followed through the images, or it did not get better by it",)
        return (f"{len(self.windows) - self.taken} of {len(self.windows)} windows stay as the network said",)


def tracks_uri(output: str, facts: TrackedDrive, kept: Sequence[int]) -> str:
    """Where a drive's tracks are staged. They depend on the frames that are used and on how those look, so all attempts
    share them, and another stride or rotation has a folder of its own."""
    digest = hashlib.sha256(np.asarray(kept, np.int64).tobytes())
    for file in facts.listing:
        digest.update(f"{file.name} {file.size} {file.etag}\n".encode(errors="surrogateescape"))
    shown = {name: value for name, value in facts.picture.items() if name != "positions"}
    look = {"picture": shown, "size": [facts.source_width, facts.source_height]}
    digest.update(json.dumps(look, sort_keys=True, default=str).encode())
    return storage.join(output, STAGING_FOLDER, facts.drive_id, f"{TRACKS_FOLDER}-{digest.hexdigest()[:12]}")


def tracker_of(output: str, drive: TrackedDrive, kept: Sequence[int]) -> SegmentTracker | None:
    """What follows corners while the drive is decoded; None where its pictures are too small for that."""
    if max(drive.source_width, drive.source_height) < LEAST_LONG_SIDE:
        return None
    return SegmentTracker(tracks_uri(output, drive, kept))


def link_tracks(staged: StagedFrames) -> bool:
    """Make the segments' tracks tracks of the drive; whether any corner could be followed. Raises StorageError,
    DriveError."""
    return link_segments(staged.tracks) > 0


def refine_staged(
    staged: StagedFrames, refine: bool = True, progress: Callable[[int, int], None] = lambda done, of: None
) -> Refined:
    """Ask the images for the focal length, and adjust every window of a drive and stage the results where asked to.

    progress: told how many windows of how many are done. Raises StorageError, DriveError where what is staged is
    damaged.
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
    """The refinement that is staged already, of a drive that was published with it; None where there is none."""
    windows = staged.windows()
    if not all(has_result(staged.folder, number) for number in range(len(windows))):
        return None
    results = [read_result(staged.folder, number) for number in range(len(windows))]
    camera = _network_camera(staged, staged.pictures.grid, results[0].camera)
    return Refined(windows, sum(bool(one.accepted[0]) for one in results), None, camera)


class RefinedChunks(Sequence[ChunkPrediction]):
    """The windows of a drive as chunks: what joining and publishing see in place of the network's own."""

    def __init__(self, staged: StagedFrames, refined: Refined) -> None:
        self._staged = staged
        self._chunks = staged.chunks()
        self._windows = refined.windows
        self._camera = refined.camera
        self._recent: dict[int, ChunkPrediction] = {}

    @property
    def bad_frames(self) -> dict[int, str]:
        """Why frames were bad, by frame number, of all windows read so far."""
        return self._chunks.bad_frames

    @property
    def static(self) -> NDArray[np.bool_] | None:
        """What of all frames alike was left out: False there; None for nothing."""
        return self._chunks.static

    @property
    def camera(self) -> Camera | None:
        """Of the network's pictures."""
        return self._camera

    def with_one_camera(self, square_pixels: bool) -> RefinedChunks:
        """These: they have one camera already, with square pixels."""
        return self

    @property
    def shared(self) -> int:
        """Least frames that two neighbouring windows were meant to share; 0 for one window."""
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
    """fx fy cx cy of the tracked pictures: known, else as the network says, with square pixels: what it sees across is
    surer than what it sees down."""
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
    """A merged window whose frames are counted by place, as its tracks are; without tracks of what is masked."""
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
    """work(*arguments) for each, in tasks of one CPU where Ray runs and there are several, else here; answers in order.

    On one thread either way: sums are then the same wherever they are made.
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
