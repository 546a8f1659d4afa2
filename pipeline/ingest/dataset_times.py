"""Times of frames from files that data sets keep beside a camera's folder of pictures: KITTI raw and EuRoC."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline import storage
from pipeline.errors import DriveError
from pipeline.ingest.frame_times import check_rising, read_times
from pipeline.storage import Listing, NotFoundError

PICTURES = "data"
"""The folder of a camera's pictures in both: image_02/data, cam0/data."""
_KITTI_RAW, _EUROC = "timestamps.txt", "data.csv"


def camera_folder(folder: str) -> str | None:
    """The camera's folder above a folder of pictures named data; None for other folders."""
    parent, name = storage.parent_and_name(folder)
    return parent if name == PICTURES and storage.parent_and_name(parent)[1] else None


def dataset_times(folder: str, files: Listing) -> list[int] | None:
    """Times of the pictures in a folder in nanoseconds, from the data set's file beside it; None without such a file.

    KITTI raw: image_02/timestamps.txt has one line for each picture; the number of the picture is that of its line.
    EuRoC: cam0/data.csv has rows of a time in nanoseconds and the name of the picture.

    Args:
        folder: the folder of the pictures. files: the pictures, in order.

    Raises:
        DriveError: a file that does not fit the pictures; names the file. StorageError: the store failed.
    """
    camera = camera_folder(folder)
    if camera is None:
        return None
    for name, read in ((_KITTI_RAW, _kitti_raw_times), (_EUROC, _euroc_times)):
        place = storage.join(camera, name)
        try:
            data = storage.read_bytes(place)
        except NotFoundError:
            continue
        times = read(data, place, files.names)
        check_rising(times, place)
        return times
    return None


def _kitti_raw_times(data: bytes, place: str, names: Sequence[str]) -> list[int]:
    times = read_times(data, place)
    numbers = [name.rpartition(".")[0] for name in names]
    if all(number.isdecimal() and int(number) < len(times) for number in numbers):
        return [times[int(number)] for number in numbers]
    if len(times) != len(names):
        raise DriveError(
            f"{place}: expected a line for each of {len(names)} images, got {len(times)} lines; correct or remove it"
        )
    return times


def _euroc_times(data: bytes, place: str, names: Sequence[str]) -> list[int]:
    rows = [line.split(",") for line in data.decode("utf-8-sig", errors="replace").splitlines()]
    rows = [[cell.strip() for cell in row] for row in rows if len(row) >= 2 and not row[0].lstrip().startswith("#")]
    texts = {row[1]: row[0] for row in rows}
    missing = [name for name in names if name not in texts]
    if missing:
        raise DriveError(f"{place}: no row for {missing[0]!r} ({len(missing)} images in all); correct or remove it")
    return read_times("\n".join(texts[name] for name in names).encode(), place)
