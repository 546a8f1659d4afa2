"""Names in another order than EXIF's times give a note; EXIF's times give no other note."""

import pytest
from PIL import Image

from pipeline.ingest.drives import find_drive


def picture(path, taken=None, fraction=None):
    exif = Image.Exif()
    if taken is not None:
        exif.get_ifd(0x8769)[0x9003] = taken
        if fraction is not None:
            exif.get_ifd(0x8769)[0x9291] = fraction
    Image.new("L", (64, 48), 90).save(path, exif=exif)


def drive(folder, seconds, names="{:03d}.jpg"):
    folder.mkdir()
    for number, second in enumerate(seconds):
        taken = None if second is None else f"2024:05:01 10:00:{int(second):02d}"
        fraction = None if second is None else f"{second % 1:.2f}"[2:]
        picture(folder / names.format(number), taken, fraction)
    return find_drive(str(folder)).notes


def test_pictures_in_the_order_of_their_times_give_no_note(tmp_path):
    assert drive(tmp_path / "a", range(30)) == ()
    assert drive(tmp_path / "b", [n / 10 for n in range(30)]) == ()
    assert drive(tmp_path / "same", [7] * 30) == ()
    assert drive(tmp_path / "none", [None] * 5) == () == drive(tmp_path / "some", [1, None, 2, None])


@pytest.mark.parametrize("seconds", [range(30, 0, -1), [*range(15, 30), *range(15)], [0.9, 0.5]])
def test_a_different_order_gives_a_note_with_both_pictures(tmp_path, seconds):
    notes = drive(tmp_path / "a", seconds)
    assert len(notes) == 1 and "order of names is not that of EXIF's times" in notes[0] and ".jpg" in notes[0]


@pytest.mark.parametrize("taken", ["0000:00:00 00:00:00", "yesterday", "2024:13:45 99:99:99", "    "])
def test_an_invalid_time_gives_no_note(tmp_path, taken):
    (tmp_path / "a").mkdir()
    for number in range(4):
        picture(tmp_path / "a" / f"{number}.jpg", taken)
    assert find_drive(str(tmp_path / "a")).notes == ()
