"""Reads the frames again of which a published drive was made: from image files or videos."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from PIL import Image

from pipeline.errors import PipelineError
from pipeline.ingest import preprocess, video
from pipeline.publish import PublishedDrive
from pipeline.publish.frame_source import FRAME_MARK, FrameSource

_READERS = 8  # files that are read at a time: reading is bound by the latency of the store
_VIDEO_RUN = 32  # frames of a video that are decoded together


def read_frames(drive: PublishedDrive, frames: Sequence[int]) -> Iterator[tuple[int, Image.Image | str]]:
    """The source images (RGB) of these frames (rising numbers), or the reason why one cannot be read: the input may be
    gone."""
    turn = drive.manifest.turn
    uris = drive.poses["uri"].to_pylist()
    if any(FRAME_MARK in uris[frame] for frame in frames):
        for start in range(0, len(frames), _VIDEO_RUN):
            run = frames[start : start + _VIDEO_RUN]
            yield from _video_frames(drive.frame_source, [uris[frame] for frame in run], run, turn)
        return
    source = drive.frame_source
    with ThreadPoolExecutor(_READERS, thread_name_prefix="frames") as pool:
        yield from zip(frames, pool.map(lambda frame: _read(source, uris[frame], turn), frames), strict=True)


def _read(source: FrameSource, uri: str, turn: int | None) -> Image.Image | str:
    try:
        image = preprocess.decode_image(source.read_image(uri), turn=turn)
        rgb = preprocess.prepare_image(image, image.height, image.width)
    except PipelineError as error:
        return " ".join(str(error).split())
    return Image.fromarray(rgb)


def _video_frames(
    source: FrameSource, uris: Sequence[str], frames: Sequence[int], turn: int | None
) -> Iterator[tuple[int, Image.Image | str]]:
    """Frames of a video, which may consist of several files; uris: of these frames, "FILE#frame=NUMBER"."""
    named = [uri.rpartition(FRAME_MARK) for uri in uris]
    for film, group in itertools.groupby(zip(frames, named, strict=True), key=lambda one: one[1][0]):
        here = list(group)
        numbers = [int(name[2]) for _, name in here]
        given = 0
        try:
            decoded = video.decode_numbers(source.locate(film), numbers, turn)
            for (frame, _), image in zip(here, decoded, strict=True):
                given += 1
                yield frame, image if isinstance(image, Image.Image) else str(image)
        except PipelineError as error:
            reason = " ".join(str(error).split())
            yield from ((frame, reason) for frame, _ in here[given:])
