"""Writes a rendered drive to storage in the layout of KITTI odometry, so that the pipeline reads it like any other.

<output>/sequences/<id>/image_0/000000.jpg    colour frames
<output>/sequences/<id>/depth_0/000000.png    z-depth, 16 bit: metres * 256, 0 for sky (beyond 250 m)
<output>/sequences/<id>/masks/000000.png      with a bonnet: its mask (black), upright, in the format of --masks
<output>/sequences/<id>/calib.txt             P0: 3 x 4 projection; pixels counted from 0, as KITTI does (with a lens:
                                              fx,fy,cx,cy,model,params, pixel centres at +0.5)
<output>/sequences/<id>/times.txt             seconds, one line per frame
<output>/poses/<id>.txt                       world_from_camera 3 x 4 row by row, metres; the first frame is the
                                              identity
<output>/sequences/<id>/cam_left/, ...        frames of further cameras (image_1/ in a stereo pair); depth_cam_left/
<output>/sequences/<id>/cam_left/calib.txt    the camera's own calibration, only where it is not that of the front one
<output>/sequences/<id>/rig_config.json       poses of the cameras, as COLMAP has them; only with several cameras
<output>/sequences/<id>/city.json             for several drives through one city: the drive's start in the city
<output>/sequences/<id>/drive.json            the spec of the drive; written last: without it the drive is unfinished
"""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline import storage
from pipeline.cameras.orientation import EXIF_ORIENTATION, UPRIGHT, stored
from pipeline.errors import DriveError
from pipeline.synthetic.bonnet import bonnet_mask, bonnet_motion, with_bonnet
from pipeline.synthetic.drive import CityDrive
from pipeline.synthetic.lens import LensDrive, named_lens
from pipeline.synthetic.one_city import CityDriveSpec, parking_place
from pipeline.synthetic.read import DEPTH_PER_METRE
from pipeline.synthetic.rig import FRONT, RIG_FILE, STEREO_BASELINE_M, rig_cameras, rig_file

Progress = Callable[[int, int], None]  # frames done, frames in all
_JPEG_QUALITY = 92  # with 4:4:4 the error is below a camera's noise, and the file has a tenth of the size of a PNG
_BATCH = 8  # frames rendered between two reports of progress
_MOST_PROCESSES = 8  # each takes 0.4 GB
_SMALL = 5_000_000  # rays, some eight seconds of one core; new processes start in three
MASKS = "masks"
_BEGUN = "rendering.json"  # what is being rendered; removed once drive.json is written
CITY_FILE = "city.json"
"""Where a drive through a common city starts in it: `city_from_first` (4 x 4, metres), and what it was made of."""
_FORMAT = 2  # of drive.json; raise it if the appearance of a seed's city or the meaning of a file changes


@dataclass(frozen=True)
class DriveSpec:
    """All parameters of a rendered drive; see `CityDrive`."""

    seed: int
    frames: int
    height: int = 168
    width: int = 336
    supersample: int = 2
    lens: str | None = None
    """fisheye, barrel or equirectangular (`named_lens`); None: a pinhole."""
    bonnet: bool = False
    """Whether the car's bonnet is in the image; it has no depth, and its masks are written."""
    orientation: int = 1
    """EXIF orientation in which the frames are stored; readers show them upright."""
    cameras: int = 1
    """Cameras of the car, the front one first (`rig_cameras`)."""
    field_of_view: float | None = None
    """Horizontal, degrees, of a pinhole; None: drawn from the seed between 76 and 84."""
    bonnet_shake: float = 0.0
    """Pixels by which the bonnet moves in the image at most, with the car's pitch and roll and the camera's shaking."""

    side_field_of_view: float | None = None
    """Horizontal, degrees, of the cameras beside the front one; None: as the front one."""
    side_height: int | None = None
    """Height of the pictures of the cameras beside the front one; None: as the front one's."""
    city: CityDriveSpec | None = None
    """One of several drives through the same streets of one city; None: a city of its own, of the drive's seed."""

    def __post_init__(self) -> None:
        """Raises ValueError for a lens with a field of view, which is the lens' own, or in a common city, and for a
        bonnet that shakes without being there or by too much."""
        if self.lens is not None and self.city is not None:
            raise ValueError("drives through one city are of pinholes; leave out the lens")
        if self.lens is not None and self.field_of_view is not None:
            raise ValueError(f"field_of_view is of a pinhole; the lens {self.lens} has its own")
        if not 0 <= self.bonnet_shake < self.height / 4:
            raise ValueError(f"bonnet_shake must be 0 to a quarter of the height, not {self.bonnet_shake:g}")
        if self.bonnet_shake and not self.bonnet:
            raise ValueError("bonnet_shake needs a bonnet; add --bonnet")

    def described(self) -> dict[str, object]:
        """Its values for drive.json; what is new and left alone is not said, so that earlier drives stay the same."""
        said = asdict(self)
        for name in ("field_of_view", "side_field_of_view", "side_height"):
            if said[name] is None:
                del said[name]
        if self.cameras == 1:
            del said["cameras"]
        if not self.bonnet_shake:
            del said["bonnet_shake"]
        if self.city is None:
            del said["city"]
        return said


def write_drive(
    spec: DriveSpec,
    output_uri: str,
    drive_id: str,
    progress: Progress | None = None,
    *,
    device: str = "cpu",
    processes: int = 1,
) -> str:
    """Render a drive and write it below `output_uri`; returns the URI of its sequence folder.

    A finished drive of the same spec is kept. `progress` is called after every few frames. processes: on the CPU, a
    drive that takes longer than some seconds is rendered in so many new processes, with the same result; this needs a
    main module that can be imported (multiprocessing, "spawn").

    Raises DriveError if another drive has this id there or a rendering process is killed, ValueError for a spec that
    cannot be rendered (a lens on several cameras), StorageError if a file cannot be written; the unfinished drive then
    has no drive.json, and is written again next time.
    """
    storage.check_drive_id(drive_id)
    if spec.cameras > 1 and spec.lens is not None:
        raise ValueError("several cameras have no lens")
    if spec.cameras == 1 and (spec.side_field_of_view, spec.side_height) != (None, None):
        raise ValueError("one camera has none beside it; leave out side_field_of_view and side_height, or add cameras")
    sequence = storage.join(output_uri, "sequences", drive_id)
    marker = storage.join(sequence, "drive.json")
    about = {"format": _FORMAT, "renderer": "pipeline.synthetic", "drive_id": drive_id, **spec.described()}
    if storage.exists(marker):
        _refuse_another(marker, about, drive_id)
        if progress is not None:
            progress(spec.frames, spec.frames)
        return sequence
    begun = storage.join(sequence, _BEGUN)
    _check_free(output_uri, sequence, begun, about, drive_id)
    storage.write_bytes_atomically(begun, json.dumps(about, indent=1).encode())
    drive = _drive(spec, device)
    storage.make_dir(storage.join(output_uri, "poses"))
    for folder in (FRONT, *(camera.folder for camera in rig_cameras(spec.cameras))):
        storage.make_dir(storage.join(sequence, folder))
        storage.make_dir(storage.join(sequence, _depth_folder(folder)))
    if spec.bonnet:
        storage.make_dir(storage.join(sequence, MASKS))
    rays = spec.frames * spec.cameras * spec.height * spec.width * spec.supersample**2
    if device == "cpu" and processes > 1 and rays > _SMALL:
        _write_in_processes(spec, sequence, progress, processes)
    else:
        for numbers in _batches(spec):
            _write_batch(spec, drive, sequence, numbers)
            if progress is not None:
                progress(numbers.stop, spec.frames)
    texts = _texts(spec, drive, output_uri, sequence, drive_id)
    texts[marker] = json.dumps(about, indent=1) + "\n"
    for uri, text in texts.items():
        storage.write_bytes_atomically(uri, text.encode())
    storage.remove_file(begun)
    return sequence


def usual_processes() -> int:
    """The number of processes that render a drive unless the user says otherwise: one for each core, at most 8."""
    return min(os.cpu_count() or 1, _MOST_PROCESSES)


def _batches(spec: DriveSpec) -> list[range]:
    return [range(first, min(first + _BATCH, spec.frames)) for first in range(0, spec.frames, _BATCH)]


def _write_batch(spec: DriveSpec, drive: CityDrive | LensDrive, sequence: str, numbers: range) -> None:
    """Render these frames of all cameras, and write images, depths and masks of the bonnet."""
    rendered = drive.render(numbers)
    images, depths = rendered.images, rendered.depth
    if spec.bonnet:
        moves = bonnet_motion(drive.world_from_camera, spec.seed, spec.bonnet_shake)[numbers.start : numbers.stop]
        images = with_bonnet(images, spec.seed, moves)
        bonnets = bonnet_mask(spec.seed, spec.height, spec.width, moves)
        depths = np.where(bonnets, np.float32(0), depths)
        for number, bonnet in zip(numbers, bonnets, strict=True):
            mask = _png(np.where(bonnet, 0, 255).astype(np.uint8))
            storage.write_bytes_atomically(storage.join(sequence, MASKS, f"{number:06d}.png"), mask)
    _write_frames(sequence, FRONT, numbers, images, depths, spec.orientation)
    for camera in rig_cameras(spec.cameras):
        assert isinstance(drive, CityDrive)  # a lens has no rig
        side = drive.seen_by(spec.side_field_of_view, spec.side_height)
        seen = side.render_poses(drive.world_from_camera[numbers.start : numbers.stop] @ camera.front_from_camera)
        _write_frames(sequence, camera.folder, numbers, seen.images, seen.depth, spec.orientation)


def _write_in_processes(spec: DriveSpec, sequence: str, progress: Progress | None, processes: int) -> None:
    """The same in several processes of one thread each: threads of one process wait for each other on a busy
    machine."""
    batches = _batches(spec)
    count = min(processes, len(batches))
    context = multiprocessing.get_context("spawn")
    done = 0
    with ProcessPoolExecutor(count, context, _begin_process, (spec,)) as pool:
        try:
            for batch in as_completed([pool.submit(_write_in_this_process, sequence, batch) for batch in batches]):
                done += batch.result()
                if progress is not None:
                    progress(done, spec.frames)
        except BrokenProcessPool:
            raise DriveError(
                f"{storage.redacted(sequence)}: a process that rendered this drive was killed, perhaps for memory; run "
                "the same command again, jobs.synthesize with fewer --processes"
            ) from None
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


_rendered: list[tuple[DriveSpec, CityDrive | LensDrive]] = []  # of this process, which renders one drive


def _begin_process(spec: DriveSpec) -> None:
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the process that waits for this one
    torch.set_num_threads(1)
    _rendered[:] = [(spec, _drive(spec, "cpu"))]


def _write_in_this_process(sequence: str, numbers: range) -> int:
    ((spec, drive),) = _rendered
    _write_batch(spec, drive, sequence, numbers)
    return len(numbers)


def _texts(
    spec: DriveSpec, drive: CityDrive | LensDrive, output_uri: str, sequence: str, drive_id: str
) -> dict[str, str]:
    """URI -> text of the files of a drive that are not pictures: calibration, times, true poses, rig, city."""
    poses = np.linalg.inv(drive.world_from_camera[0]) @ drive.world_from_camera
    texts = {
        storage.join(sequence, "calib.txt"): _calibration(drive, spec.cameras == 2) + "\n",
        storage.join(sequence, "times.txt"): "".join(f"{t:.6e}\n" for t in drive.route.timestamps_s),
        storage.join(output_uri, "poses", f"{drive_id}.txt"): "".join(_numbers(p[:3]) + "\n" for p in poses),
    }
    others = rig_cameras(spec.cameras)
    if others:
        texts[storage.join(sequence, RIG_FILE)] = rig_file(others)
    if isinstance(drive, CityDrive) and (spec.side_field_of_view, spec.side_height) != (None, None):
        side = _calibration(drive.seen_by(spec.side_field_of_view, spec.side_height), False) + "\n"
        texts |= {storage.join(sequence, camera.folder, "calib.txt"): side for camera in others}
    if spec.city is not None:
        known = {"city_from_first": drive.world_from_camera[0].tolist(), **asdict(spec.city)}
        known["parked"] = list(parking_place(spec.city, spec.frames)) if spec.city.parked else None
        texts[storage.join(sequence, CITY_FILE)] = json.dumps(known, indent=1) + "\n"
    return texts


def sample_drive(progress: Progress | None = None) -> str:
    """URI of the sequence folder of the drive that the default run uses; it is rendered once, into the user's cache
    folder.

    `progress` is called with the numbers of frames done and in all. `read_drive(uri)` gives the drive with its truth.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    look = f"{SAMPLE.seed}-{SAMPLE.frames}x{SAMPLE.width}x{SAMPLE.height}"
    root = cache / "city-reconstruction" / f"sample-{_FORMAT}-{look}"
    done = 0

    def each(count: int, total: int) -> None:
        nonlocal done
        while done < count:  # one call a frame, as the caller counts
            done += 1
            if progress is not None:
                progress(done, total)

    return write_drive(SAMPLE, str(root), "city", each, processes=usual_processes())


SAMPLE = DriveSpec(seed=1_000_031, frames=120)  # large enough for corners to be followed (refinement)


def _check_free(output_uri: str, sequence: str, begun: str, about: dict[str, object], drive_id: str) -> None:
    """Raises DriveError if rendering could replace files of others: the drive's folder must be empty, or contain what
    an earlier, unfinished rendering of the same drive left."""
    if storage.exists(begun):
        _refuse_another(begun, about, drive_id)
        return
    taken = [storage.join(sequence, path) for path in storage.some_below(sequence, 1)]
    poses = storage.join(output_uri, "poses", f"{drive_id}.txt")
    if not taken and storage.exists(poses):
        taken = [poses]
    if taken:
        raise DriveError(
            f"drive {drive_id}: {storage.redacted(taken[0])} exists, and this program did not render it; choose "
            "another output or id, or move it away"
        )


def _refuse_another(marker: str, about: dict[str, object], drive_id: str) -> None:
    try:
        found = json.loads(storage.read_bytes(marker))
    except (ValueError, RecursionError):
        found = None
    # the module that renders is not compared: it had another name in older versions
    if not isinstance(found, dict) or {**found, "renderer": ""} != {**about, "renderer": ""}:
        raise DriveError(
            f"drive {drive_id}: another drive has this id at {storage.redacted(marker)}: expected {about}, "
            f"found {found}; choose another output or id, or remove it"
        )


def _drive(spec: DriveSpec, device: str) -> CityDrive | LensDrive:
    if spec.lens is None:
        city = spec.city
        return CityDrive(
            spec.seed,
            spec.frames,
            spec.height,
            spec.width,
            supersample=spec.supersample,
            field_of_view=spec.field_of_view,
            city_seed=None if city is None else city.city,
            streets=None if city is None else city.streets,
            opposite=city is not None and city.opposite,
            light=None if city is None else city.light,
            parked=parking_place(city, spec.frames) if city is not None and city.parked else None,
            device=device,
        )
    lens = named_lens(spec.lens, spec.width, spec.height)
    return LensDrive(spec.seed, spec.frames, lens, supersample=spec.supersample, device=device)


def _depth_folder(folder: str) -> str:
    """depth_0 of image_0, depth_cam_left of cam_left."""
    return "depth_" + folder.removeprefix("image_")


def _write_frames(
    sequence: str,
    folder: str,
    numbers: range,
    images: NDArray[np.uint8],
    depths: NDArray[np.float32],
    orientation: int,
) -> None:
    for number, image, depth in zip(numbers, images, depths, strict=True):
        frame = storage.join(sequence, folder, f"{number:06d}.jpg")
        storage.write_bytes_atomically(frame, _jpeg(image, orientation))
        depth_file = storage.join(sequence, _depth_folder(folder), f"{number:06d}.png")
        storage.write_bytes_atomically(depth_file, _depth_png(depth))


def _calibration(drive: CityDrive | LensDrive, is_stereo: bool) -> str:
    if isinstance(drive, LensDrive):
        lens = drive.lens
        return ",".join([*(f"{value:.12g}" for value in lens.intrinsics), lens.model, *map(str, lens.params)])
    projection = np.hstack([drive.intrinsics, np.zeros((3, 1))])
    projection[:2, 2] -= 0.5  # our pixel centres lie at +0.5
    text = "P0: " + _numbers(projection)
    if is_stereo:
        projection[0, 3] = -projection[0, 0] * STEREO_BASELINE_M
        text += "\nP1: " + _numbers(projection)
    return text


def _numbers(matrix: NDArray[np.float64]) -> str:
    return " ".join(f"{value:.9e}" for value in matrix.reshape(-1))


def _jpeg(image: NDArray[np.uint8], orientation: int = UPRIGHT) -> bytes:
    data = io.BytesIO()
    exif = Image.Exif()
    if orientation != UPRIGHT:
        exif[EXIF_ORIENTATION] = orientation
    picture = stored(Image.fromarray(image), orientation)
    picture.save(data, "JPEG", quality=_JPEG_QUALITY, subsampling=0, exif=exif)
    return data.getvalue()


def _depth_png(depth: NDArray[np.float32]) -> bytes:
    return _png(np.round(depth * DEPTH_PER_METRE).astype(np.uint16))


def _png(values: NDArray[np.uint8] | NDArray[np.uint16]) -> bytes:
    data = io.BytesIO()
    Image.fromarray(values).save(data, "PNG", compress_level=3)
    return data.getvalue()
