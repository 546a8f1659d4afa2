"""KITTI raw and EuRoC store times beside the folder of pictures; an error names a file that does not fit."""

import pytest
from PIL import Image

from pipeline import storage
from pipeline.errors import DriveError
from pipeline.ingest.dataset_times import dataset_times
from pipeline.ingest.drives import find_drive
from tests.ingest.makers import picture

SECOND = 10**9


def pictures(folder, names):
    folder.mkdir(parents=True)
    for number, name in enumerate(names):
        Image.fromarray(picture(number)).save(folder / name)
    return folder


def test_kitti_raw_takes_its_times_and_its_name_from_its_camera(tmp_path):
    camera = tmp_path / "drive_sync" / "image_02"
    pictures(camera / "data", [f"{number:010d}.png" for number in (0, 1, 3)])  # drives of KITTI raw have gaps
    lines = [f"2011-09-26 13:02:{25 + number}.5000000{number:02d}\n" for number in range(4)]
    (camera / "timestamps.txt").write_text("".join(lines))
    for given in (camera, camera / "data"):
        drive = find_drive(str(given))
        assert (drive.drive_id, drive.frame_count) == ("image_02", 3)
        assert [time - drive.timestamps_ns[0] for time in drive.timestamps_ns] == [0, SECOND + 1, 3 * SECOND + 3]
    assert find_drive(str(camera), fps=0.5).frame_count == 2


def test_euroc_takes_its_times_from_the_names_in_its_table(tmp_path):
    stamps = [1403636579763555584, 1403636579813555456, 1403636579863555584]
    camera = tmp_path / "mav0" / "cam0"
    pictures(camera / "data", [f"{stamp}.png" for stamp in stamps])
    rows = "".join(f"{stamp},{stamp}.png\r\n" for stamp in stamps)
    (camera / "data.csv").write_text("#timestamp [ns],filename\r\n" + rows)
    drive = find_drive(str(camera / "data"))
    assert (drive.drive_id, drive.timestamps_ns) == ("cam0", tuple(stamps))


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("timestamps.txt", "2011-09-26 13:02:25.0\n", "timestamps.txt: expected a line for each of 2 images, got 1"),
        ("timestamps.txt", "2011-09-26 13:02:25.0\n" * 2, "expected increasing times"),
        ("timestamps.txt", "soon\nlater\n", "line 1: expected a time"),
        ("data.csv", "1,0.png\n", "data.csv: no row for '1.png'"),
        ("data.csv", "", "data.csv: no row for '0.png'"),
    ],
)
def test_times_that_do_not_fit_the_pictures_give_an_error_that_names_the_file(tmp_path, file, text, said):
    folder = pictures(tmp_path / "cam" / "data", ["0.png", "1.png"])
    (tmp_path / "cam" / file).write_text(text)
    with pytest.raises(DriveError, match=said):
        find_drive(str(folder))


def test_other_folders_have_no_times_beside_them(tmp_path):
    folder = pictures(tmp_path / "cam" / "frames", ["0.png", "1.png"])
    (tmp_path / "cam" / "data.csv").write_text("nothing of theirs\n")
    assert dataset_times(str(folder), storage.list_files(str(folder))) is None
    assert find_drive(str(folder)).timestamps_ns is None
