import numpy as np
import pytest

from pipeline.errors import DriveError
from pipeline.evaluation import open_estimate, open_truth, read_poses
from tests.evaluation.paths import publish, true_depth, walk, write_kitti_poses, write_truth, write_tum


def test_both_kinds_of_files_hold_the_same_poses(tmp_path):
    poses = walk(7, 3)
    write_kitti_poses(tmp_path / "a.txt", poses)
    write_tum(tmp_path / "b.txt", poses, 0.1 * np.arange(7))
    kitti, tum = read_poses(str(tmp_path / "a.txt")), read_poses(str(tmp_path / "b.txt"))
    assert np.allclose(kitti.world_from_camera, poses)
    assert np.allclose(tum.world_from_camera, poses, atol=1e-7)
    assert kitti.timestamps_s is None
    assert np.allclose(tum.timestamps_s, 0.1 * np.arange(7))


def test_comments_and_empty_lines_are_no_poses(tmp_path):
    write_tum(tmp_path / "a.txt", walk(4), np.arange(4.0))
    text = (tmp_path / "a.txt").read_text()
    (tmp_path / "a.txt").write_text("# time x y z\n\n" + text)
    assert len(read_poses(str(tmp_path / "a.txt"))) == 4


LINE = "1 0 0 0 0 1 0 0 0 0 1 {}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "contains no poses"),
        ("1 2 3\n" * 4, r"expected 12 \(KITTI\) or 8 \(TUM\) finite numbers in line 1"),
        (LINE.format(0) * 2 + LINE.format("nan"), r"12 finite numbers in line 3 \(frame 2\)"),
        (LINE.format(0) * 2 + "1 2 3\n", "12 finite numbers in line 3"),
        (LINE.format("x") * 3, "in line 1"),
        (LINE.format(0) * 2, "at least 3 poses are needed, got 2"),
        ("2 0 0 0 0 1 0 0 0 0 1 0\n" * 3, "a rotation in frame 0"),
        ("0 0 0 0 0 0 0 0\n1 0 0 0 0 0 0 1\n2 0 0 0 0 0 0 1\n", "unit quaternion in frame 0"),
        ("1 0 0 0 0 0 0 1\n" * 3, "frame 1 is no later than the one before"),
    ],
)
def test_a_file_without_poses_is_reported_in_one_line(tmp_path, text, message):
    (tmp_path / "poses.txt").write_text(text)
    with pytest.raises(DriveError, match=message) as caught:
        read_poses(str(tmp_path / "poses.txt"))
    assert "\n" not in str(caught.value)


def test_a_published_drive_is_found_by_its_folder_or_by_output_and_id(tmp_path):
    poses = walk(6)
    depth = np.stack([true_depth(i) for i in range(6)])
    folder = publish(tmp_path / "out", poses, depth, bad=(2,))
    first, second = open_estimate(folder), open_estimate(str(tmp_path / "out"), "07")
    assert first.name == second.name == "07"
    expected = np.linalg.inv(poses[0]) @ poses
    good = [0, 1, 3, 4, 5]
    assert np.allclose(first.frames.world_from_camera[good], expected[good])
    assert first.frames.filled.tolist() == [False, False, True, False, False, False]
    assert first.frames.known.all()
    assert first.frames.names[3] == "000003"
    assert np.allclose(second.frames.timestamps_s, 0.1 * np.arange(6))


def test_a_drive_of_bad_frames_has_no_poses(tmp_path):
    folder = publish(tmp_path, walk(4), np.zeros((4, 6, 8)), bad=(0, 1, 2, 3), times=False)
    frames = open_estimate(folder).frames
    assert not frames.known.any()
    assert frames.timestamps_s is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: (p / "nothing", None), "no prediction at"),
        (lambda p: (p, None), "is not a published drive"),
        (lambda p: (p, "12"), "no drive 12 in"),
        (lambda p: ((p / "07").mkdir() or p, "07"), "is not finished"),
    ],
)
def test_a_missing_prediction_is_reported_in_one_line(tmp_path, make, message):
    uri, drive_id = make(tmp_path)
    with pytest.raises(DriveError, match=message):
        open_estimate(str(uri), drive_id)


def test_truth_is_a_sequence_folder_a_root_with_an_id_or_a_file(tmp_path):
    poses = walk(5)
    sequence = write_truth(tmp_path, poses)
    for truth in (open_truth(str(sequence)), open_truth(str(tmp_path), "07"), open_truth(f"{sequence}/")):
        assert np.allclose(truth.frames.world_from_camera, poses)
        assert truth.drive is not None and truth.frames.names[4] == "000004"
    assert open_truth(str(tmp_path / "poses/07.txt")).drive is None


def test_missing_truth_is_reported_in_one_line(tmp_path):
    sequence = write_truth(tmp_path / "kitti", walk(5))
    for uri, drive_id, message in (
        (tmp_path / "nothing", None, "no truth at"),
        (tmp_path, None, "is not a drive with truth"),
        (tmp_path / "kitti", None, "give <root>/sequences/<id>, or --drive ID"),
        (tmp_path / "kitti", "11", "no drive 11 in"),
        (tmp_path / "kitti", "../x", "drive id"),
    ):
        with pytest.raises(DriveError, match=message):
            open_truth(str(uri), drive_id)
    (tmp_path / "kitti/poses/07.txt").unlink()
    with pytest.raises(DriveError, match="drive 07 has no truth"):
        open_truth(str(sequence))


def test_the_real_clip_has_truth(shared):
    truth = open_truth(str(shared / "data/kitti/sequences/90"))
    assert len(truth.frames) == 51
    assert truth.drive.depth_uris is None
