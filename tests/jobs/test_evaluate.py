"""jobs.evaluate compares a result with the truth."""

import json

import numpy as np
import pytest

from jobs.evaluate import main
from tests.evaluation.paths import (
    drifted,
    moved,
    publish,
    true_depth,
    walk,
    write_kitti_poses,
    write_truth,
    write_tum,
)

FRAMES = 20


@pytest.fixture
def drive(tmp_path):
    poses = walk(FRAMES, 4)
    truth = write_truth(tmp_path / "truth", poses)
    depth = np.stack([true_depth(i) for i in range(FRAMES)])
    estimate = moved(drifted(poses, position=0.05), 0.5)
    return publish(tmp_path / "out", estimate, np.where(depth > 0, depth, 50) * 0.5, bad=(7,)), str(truth)


def test_a_published_drive_is_measured_printed_written_and_drawn(drive, tmp_path, capsys):
    pred, truth = drive
    figure, file = tmp_path / "path.png", tmp_path / "errors.json"
    assert main(["--pred", pred, "--truth", truth, "--json", str(file), "--figure", str(figure)]) == 0
    out = capsys.readouterr().out
    for words in (
        "drive 07: 20 of 20 frames",
        "1 of them with an interpolated pose",
        "ATE rmse",
        "after Sim(3)",
        "depth: abs-rel",
        "path < 100 m",
    ):
        assert words in out
    said = json.loads(file.read_text())
    assert said["drive_id"] == "07"
    assert 0 < said["trajectory"]["sim3"]["ate"]["rmse"] < 1
    assert said["trajectory"]["sim3"]["scale"] == pytest.approx(2, rel=0.1)
    assert said["trajectory"]["sim3"]["kitti"]["translation_percent"] is None
    assert said["depth"]["abs_rel"] < 1e-3
    assert said["depth"]["coverage"] == pytest.approx(19 / 20, abs=0.01)
    assert f"{said['trajectory']['sim3']['ate']['rmse']:.4f}" in out
    assert figure.stat().st_size > 20_000


def test_the_drives_name_is_given_once_for_an_output_and_a_folder_of_truths(drive, tmp_path, capsys):
    output, root = str(tmp_path / "out"), str(tmp_path / "truth")
    assert main(["--pred", output, "--drive", "07", "--truth", root, "--json", "-"]) == 0
    whole = json.loads(capsys.readouterr().out)
    assert main(["--pred", drive[0], "--truth", root, "--json", "-", "--no-depth", "--filled", "skip"]) == 0
    less = json.loads(capsys.readouterr().out)
    assert (whole["frames"]["compared"], less["frames"]["compared"]) == (20, 19)
    assert less["frames"]["filled_skipped"] == 1
    assert less["depth"] is None and less["depth_note"] == "not requested"
    assert less["trajectory"]["sim3"]["rpe"]["over_1_frame"]["pairs"] == 17  # no pair of frames spans the gap


def test_files_of_poses_can_be_compared(tmp_path, capsys):
    poses = walk(30)
    write_kitti_poses(tmp_path / "truth.txt", poses)
    write_tum(tmp_path / "pred.txt", drifted(poses), 0.1 * np.arange(30))
    files = ["--pred", str(tmp_path / "pred.txt"), "--truth", str(tmp_path / "truth.txt")]
    assert main(files) == 0
    out = capsys.readouterr().out
    assert "matched by index" in out
    assert "depth: not compared (the prediction is a file of poses)" in out


def test_the_numbers_of_kitti_00_are_those_that_evo_gives(shared, capsys):
    folder = shared / "data/trajectories"
    expected = json.loads((folder / "KITTI_00_ORB.expected.json").read_text())
    files = ["--pred", str(folder / "KITTI_00_ORB.txt"), "--truth", str(folder / "KITTI_00_gt.txt")]
    assert main([*files, "--json", "-"]) == 0
    said = json.loads(capsys.readouterr().out)["trajectory"]
    for name in ("se3", "sim3"):
        assert said[name]["ate"]["rmse"] == pytest.approx(expected[f"ate_rmse_{name}"])
        rpe = said[name]["rpe"]["over_100m_of_estimate"]
        assert rpe["translation_mean"] == pytest.approx(expected[f"rpe100m_trans_mean_{name}"], rel=1e-6)
        assert rpe["rotation_mean"] == pytest.approx(expected[f"rpe100m_rot_deg_mean_{name}"], rel=1e-6)


def test_an_impossible_comparison_gives_one_line_and_exit_code_1(drive, tmp_path, capsys):
    pred, truth = drive
    short, nan = tmp_path / "short.txt", tmp_path / "nan.txt"
    write_kitti_poses(short, walk(19))
    write_kitti_poses(nan, walk(20) * np.where(np.arange(20) == 5, np.nan, 1)[:, None, None])
    for arguments, message in (
        (["--pred", str(short), "--truth", truth], "lengths differ: short.txt has 19 poses"),
        (["--pred", str(nan), "--truth", truth], "line 6 (frame 5)"),
        (["--pred", pred, "--truth", str(tmp_path / "none")], "no truth at"),
        (["--pred", str(tmp_path / "out"), "--drive", "99", "--truth", truth], "no drive 99"),
        (["--pred", str(tmp_path / "out"), "--truth", truth], "--drive ID"),
        (["--pred", str(short), "--truth", truth, "--match", "time"], "short.txt has no times"),
    ):
        assert main(arguments) == 1
        err = capsys.readouterr().err
        assert err.startswith("error: ")
        assert message in err
        assert err.count("\n") == 1


@pytest.mark.parametrize("wrong", [["--tolerance", "-1"], ["--tolerance", "nan"], ["--max-depth", "0"]])
def test_invalid_settings_give_one_line_that_names_them(drive, wrong, capsys):
    assert main(["--pred", drive[0], "--truth", drive[1], *wrong]) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: " + wrong[0].strip("-").replace("-", "_"))
    assert err.count("\n") == 1


def test_an_unknown_way_to_match_is_a_usage_error(drive, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--pred", drive[0], "--truth", drive[1], "--match", "guess"])
    assert stopped.value.code == 2
    assert "index" in capsys.readouterr().err
