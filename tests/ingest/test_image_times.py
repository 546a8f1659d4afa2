"""Times of pictures come from their names or from EXIF where no file of a data set has them."""

from PIL import Image

from pipeline.ingest.drives import find_drive
from tests.ingest.makers import picture, write_images

SECOND = 10**9
MAY_FIRST = 1_714_550_400 * SECOND  # 2024-05-01 08:00:00 UTC


def write_taken(folder, moments):
    """Pictures with DateTimeOriginal, SubSecTimeOriginal, OffsetTimeOriginal."""
    folder.mkdir(parents=True)
    for number, (moment, fraction, zone) in enumerate(moments):
        exif = Image.Exif()
        block = exif.get_ifd(0x8769)
        block[0x9003] = moment
        if fraction is not None:
            block[0x9291] = fraction
        if zone is not None:
            block[0x9011] = zone
        Image.fromarray(picture(number)).save(folder / f"frame{number}.jpg", exif=exif)
    return str(folder)


def test_times_are_read_from_exif_with_fractions_and_time_zones(tmp_path):
    moments = [
        ("2024:05:01 08:00:00", "25", None),
        ("2024:05:01 08:00:00", "750", None),
        ("2024:05:01 10:00:01", "5", "+02:00"),
    ]
    times = find_drive(write_taken(tmp_path / "d", moments)).timestamps_ns
    assert times == tuple(MAY_FIRST + round(s * SECOND) for s in (0.25, 0.75, 1.5))
    assert find_drive(str(tmp_path / "d"), fps=1).frame_count == 2


def test_times_that_do_not_rise_or_are_incomplete_are_not_used(tmp_path):
    same = [("2024:05:01 08:00:00", None, None)] * 3
    assert find_drive(write_taken(tmp_path / "same", same)).timestamps_ns is None
    some = [("2024:05:01 08:00:00", "1", None), ("not a time", None, None)]
    assert find_drive(write_taken(tmp_path / "some", some)).timestamps_ns is None


def test_times_in_the_names_of_pictures_are_used(tmp_path):
    for number, path in enumerate(write_images(tmp_path / "d", 4)):
        path.rename(path.with_name(f"{MAY_FIRST + number * SECOND // 10}.png"))
    assert find_drive(str(tmp_path / "d")).timestamps_ns == tuple(MAY_FIRST + n * SECOND // 10 for n in range(4))
    assert find_drive(str(tmp_path / "d"), start=1, end=3).timestamps_ns[0] == MAY_FIRST + SECOND // 10
    write_images(tmp_path / "counted", 3)
    assert find_drive(str(tmp_path / "counted")).timestamps_ns is None
