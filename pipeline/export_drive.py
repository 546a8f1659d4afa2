"""Exports a published drive: opens it, reads depth and images that formats need, writes a complete folder or none."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline import storage
from pipeline.cameras.orientation import UPRIGHT
from pipeline.cameras.rectify import View
from pipeline.common.progress import Reporter
from pipeline.common.secrets import without_credentials
from pipeline.errors import DecodeError, DriveError
from pipeline.ingest import preprocess, video
from pipeline.publish import PublishedDrive, Selection, open_drive
from pipeline.publish.exports import FORMATS, Earth, ExportFormat, ExportSource, ExportTask, FrameDepth, whole_folder
from pipeline.publish.exports.destination import KIND, MARKER, check_free
from pipeline.publish.frame_source import FRAME_MARK
from pipeline.publish.manifest import plain_object
from pipeline.refined_drive import kept_refinement
from pipeline.settings_file import settings_from_dict
from pipeline.staged_drive import join_staged, read_staged_drive, staged_frames, with_lens

_GEOREFERENCE = "georeference.json"


@dataclass(frozen=True)
class Exported:
    """The place of an export, for each format the content in words, and notes for the user."""

    uri: str
    written: dict[str, str]
    notes: tuple[str, ...]


def export_drive(
    output: str,
    drive_id: str,
    formats: Sequence[str],
    to: str,
    selection: Selection,
    reporter: Reporter,
    *,
    images: bool = False,
    images_from: str | None = None,
    undistorted: bool = False,
    depth_scale: float | None = None,
    crs: str | None = None,
    overwrite: bool = False,
) -> Exported:
    """Write the selected part of a drive to the folder `to`, which appears when it is complete.

    Every file of the drive is compared with its hash before it is used. images: copy the frames' images too, from the
    drive's input or from `images_from` (pipeline.publish.frame_source).

    Raises DriveError for a drive that is missing, not finished or of a newer schema, for depth where predictions were
    not kept, and for a target that may not be replaced; StorageError; ValueError for formats that this machine cannot
    write.
    """
    output = storage.absolute(output)
    wanted = _wanted(formats)
    drive = open_drive(output, drive_id, check_hashes=True, images_from=images_from)
    if not drive.manifest.counts.points and any(format.needs_points for format in wanted.values()):
        raise DriveError(
            f"drive {drive_id} was published without points: there are none to write as PLY, LAZ or 3D tiles"
        )
    if crs is not None or any(format.on_earth for format in wanted.values()):
        Earth.of(ExportSource(drive, selection, crs=crs)).projected  # noqa: B018 (raises for an invalid system)
    check_free(to, overwrite=overwrite)
    depths = depth_frames(drive, output) if any(format.from_depth for format in wanted.values()) else iter(())
    notes: list[str] = []
    written: dict[str, str] = {}
    with whole_folder(to, overwrite=overwrite) as folder:
        for name, format in wanted.items():
            advance = partial(_advance, reporter, name) if format.from_points else None
            source = ExportSource(drive, selection, advance, undistorted, crs)
            with reporter.timed(name):
                written[name] = format.write(ExportTask(source, folder, depths, depth_scale, notes))
        with_images = images or images_from is not None or (undistorted and drive.has_lens)
        if with_images:
            with reporter.timed("images"):
                source = ExportSource(drive, selection, undistorted=undistorted)
                written["images"] = _copy_images(source, folder, reporter, notes)
        for_trainers = any(format.for_trainers for format in wanted.values())
        notes += _hints(drive, selection, for_trainers, with_images, undistorted)
        _sign(folder, drive, output, selection, written)
    return Exported(storage.redacted(storage.absolute(to)), written, tuple(notes))


def _wanted(formats: Sequence[str]) -> dict[str, ExportFormat]:
    """The named formats. Raises ValueError for an unknown name, and for a format that this machine cannot write."""
    if not formats:
        raise ValueError(f"give one or more formats: {', '.join(FORMATS)}")
    unknown = [name for name in formats if name not in FORMATS]
    if unknown:
        raise ValueError(f"no format {unknown[0]!r}; there are {', '.join(FORMATS)}")
    wanted = {name: FORMATS[name] for name in formats}
    for format in wanted.values():
        format.check()
    return wanted


def _advance(reporter: Reporter, name: str, count: int, total: int) -> None:
    reporter.advance(name, count, total, "points")


def _hints(
    drive: PublishedDrive, selection: Selection, for_trainers: bool, with_images: bool, undistorted: bool
) -> list[str]:
    """Hints on options that may suit the user better."""
    hints = []
    if for_trainers and not with_images:
        hints.append("trainers expect the drive's images in images/: --images copies them")
    if undistorted and not drive.has_lens:
        hints.append("the drive's images are a pinhole's already: --undistorted changes nothing")
    if drive.manifest.counts.points and selection.voxel is None and for_trainers:
        hints.append("trainers start from every point: --voxel thins them")
    return hints


def _sign(folder: Path, drive: PublishedDrive, output: str, selection: Selection, written: dict[str, str]) -> None:
    """Write the marker with the origin of the export, and for a georeferenced drive the place of its world."""
    values = {
        "drive_id": drive.manifest.drive_id,
        "output": without_credentials(output),
        "identity": drive.manifest.identity,
        "selection": asdict(selection),
        "written": written,
        "world": "OpenCV axes of the first camera; units are the drive's own",
    }
    if drive.manifest.georeference is not None:
        values["world"] = "metres east, north, up at the origin in georeference.json; LAZ and maps: in their own"
        place = plain_object(drive.manifest.georeference)
        (folder / _GEOREFERENCE).write_text(json.dumps(place, indent=1) + "\n")
    storage.sign_folder(folder, MARKER, KIND, plain_object(values))


def depth_frames(drive: PublishedDrive, output: str) -> Iterator[FrameDepth]:
    """Depth of every frame that the network saw, in world units, from the predictions kept in `output`. Frames come in
    drive order; one chunk is in memory at a time.

    Raises DriveError where predictions were not kept, or are not those from which the published drive was made.
    """
    drive_id = drive.manifest.drive_id
    staged, _ = read_staged_drive(output, drive_id)
    config = settings_from_dict({"refine": False, **drive.manifest.config})
    known = staged.facts.camera
    if drive.lens is not None and (known is None or known.origin != "calibration"):
        staged = with_lens(staged, drive.lens, config.camera.fov)  # its tracks showed it
    frames = staged_frames(staged, config, output)
    refined = kept_refinement(frames) if config.refine else None
    join = join_staged(staged, frames, config, refined)
    chunks, joined = join.chunks, join.joined
    cameras = drive.cameras
    place = cameras.places(joined.frame_index)
    seen = place >= 0
    if not seen.any() or not np.allclose(
        cameras.world_from_camera[place[seen]][~cameras.filled[place[seen]]],
        joined.world_from_camera[seen][~cameras.filled[place[seen]]],
        atol=1e-6 * max(drive.manifest.counts.path_length, 1.0),
    ):
        raise DriveError(
            f"drive {drive_id}: the predictions kept are not those it was published from; "
            f"publish it again (python -m jobs.realign --output {storage.redacted(output)} --drive {drive_id})"
        )

    def depths() -> Iterator[FrameDepth]:
        for number in range(len(chunks)):
            chunk = chunks[number]
            own = np.flatnonzero(joined.owner == number)
            for frame, scale in zip(joined.frame_index[own], joined.depth_scale[own], strict=True):
                at = int(np.searchsorted(chunk.frame_index, frame))
                if chunk.ok[at]:
                    yield FrameDepth(
                        int(frame), chunk.depth[at] * np.float32(scale), chunk.confidence[at], chunk.intrinsics[at]
                    )

    return depths()


def _copy_images(source: ExportSource, folder: Path, reporter: Reporter, notes: list[str]) -> str:
    """Write the frames' images to images/: unchanged, or turned upright where needed; frames of a video as PNG."""
    target = folder / "images"
    target.mkdir()
    cameras = source.cameras
    bad = 0
    frames = source.drive.frame_source
    decoded = _film_frames(source) if FRAME_MARK in cameras.uris[0] else None
    for frame, uri, name in zip(cameras.frame_index.tolist(), cameras.uris, source.names, strict=True):
        view = source.view(frame)
        if decoded is None:
            try:
                _copy_image(frames.read_image(uri), target / name, source.drive.manifest.turn, view)
            except DecodeError:
                bad += 1
        else:
            image = next(decoded)
            if isinstance(image, DecodeError):
                bad += 1
            else:
                (image if view is None else _undistorted(image, view)).save(target / name)
        reporter.advance("images", 1, len(cameras), "images")
    if bad:
        notes.append(f"{bad} frames cannot be decoded and have no image")
    return f"images: {len(cameras) - bad} files"


def _film_frames(source: ExportSource) -> Iterator[Image.Image | DecodeError]:
    """The frames of a video that may consist of several files, one file after the other."""
    named = (uri.rpartition(FRAME_MARK) for uri in source.cameras.uris)
    for film, group in itertools.groupby(named, key=lambda name: name[0]):
        numbers = [int(name[2]) for name in group]
        try:
            place = source.drive.frame_source.locate(film)
            yield from video.decode_numbers(place, numbers, source.drive.manifest.turn)
        except DecodeError as error:  # this clip cannot be opened; its frames are flagged
            yield from [error] * len(numbers)


def _undistorted(image: Image.Image, view: View) -> Image.Image:
    return Image.fromarray(preprocess.rectified_image(image, view))


def _copy_image(data: bytes, target: Path, turn: int | None, view: View | None) -> None:
    """Write one image in the orientation of poses and intrinsics: few programs read EXIF, so a turned one is written
    upright."""
    try:
        orientation = preprocess.read_header(data, turn).orientation
    except DecodeError:  # a bad frame, whose pose was filled in from its neighbours
        orientation = UPRIGHT
    if orientation == UPRIGHT and view is None:
        target.write_bytes(data)
        return
    try:
        image = preprocess.decode_image(data, turn=turn)
    except DecodeError:
        target.write_bytes(data)
        return
    if view is not None:
        image = _undistorted(image, view)
    if target.suffix.lower() in (".jpg", ".jpeg"):
        image.convert("RGB").save(target, quality=95, subsampling=0)
    else:
        image.save(target)
