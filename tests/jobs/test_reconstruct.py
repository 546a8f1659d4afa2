"""The main job as users start it: real frames, real Ray, real process groups, and every kind of bad input."""

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from jobs import realign
from models import Reconstructor
from models.checkpoint import save_checkpoint
from pipeline.publish import open_drive
from tests.jobs.conftest import FRAMES, NETWORK, folder_of_images, image
from tests.jobs.runs import run

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("one_ray")]


def error_of(capsys, *arguments):
    """Run a job that must fail; returns its one line on stderr."""
    capsys.readouterr()
    assert run(*arguments) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    return lines[0]


def no_result_in(output):
    kinds = ("manifest.json", "chunk-*.safetensors", "_staging", "*.parquet")
    return not any(list(output.rglob(kind)) for kind in kinds)


@pytest.fixture(scope="module")
def finished(weights, tmp_path_factory):
    """A drive reconstructed by one worker: its folder, the output, what the command printed. Tests only read it."""
    place = tmp_path_factory.mktemp("finished")
    drive, out, said = folder_of_images(place / "drive-1"), place / "out", io.StringIO()
    with contextlib.redirect_stdout(said):
        assert run("--input", drive, "--output", out, "--weights", weights) == 0
    return drive, out, said.getvalue()


def test_a_drive_becomes_parquet_that_plain_pyarrow_reads(finished):
    _, out, summary = finished
    poses = pq.read_table(out / "drive-1" / "poses.parquet").to_pylist()
    assert [row["frame_index"] for row in poses] == list(range(FRAMES))
    assert poses[2]["uri"].endswith("frame2.png")
    assert [round(poses[0][c], 6) for c in ("x", "y", "z", "qw", "qx", "qy", "qz")] == [0, 0, 0, 1, 0, 0, 0]
    assert {row["status"] for row in poses} == {"ok"}
    assert (poses[0]["width"], poses[0]["height"], poses[0]["cx"]) == (120, 62, 60)
    chunks = pq.read_table(out / "drive-1" / "chunks.parquet")
    assert chunks.num_rows == 4
    assert pq.read_table(out / "drive-1" / "loops.parquet").num_rows == 0
    points = pq.read_table(out / "drive-1" / "points" / "part-00000.parquet")
    assert points.num_rows > 0
    manifest = json.loads((out / "drive-1" / "manifest.json").read_text())
    assert manifest["counts"]["points"] == points.num_rows
    assert manifest["config"]["chunk_size"] == 6
    assert "15 ok, 0 filled" in summary
    assert f"{points.num_rows:,}" in summary
    assert not (out / "_staging").exists()


def test_the_same_command_does_nothing_and_other_settings_or_overwrite_do_the_drive_again(
    finished, weights, tmp_path, capsys
):
    drive, published, _ = finished
    out = shutil.copytree(published, tmp_path / "out")
    arguments = ("--input", drive, "--output", out, "--weights", weights)
    before = (out / "drive-1" / "manifest.json").read_bytes()
    capsys.readouterr()
    assert run(*arguments) == 0
    assert "published already, nothing to do" in capsys.readouterr().out
    assert (out / "drive-1" / "manifest.json").read_bytes() == before
    assert run(*arguments, "--chunk-size", 8) == 0
    assert "made from other input, weights or settings: doing it again" in capsys.readouterr().err
    again = open_drive(str(out), "drive-1").manifest
    assert again.config["chunk_size"] == 8
    assert run(*arguments, "--chunk-size", 8, "--overwrite") == 0
    assert open_drive(str(out), "drive-1").manifest.files == again.files
    assert sorted(p.name for p in (out / "drive-1").iterdir()) == [
        "cameras.parquet",
        "chunks.parquet",
        "loops.parquet",
        "manifest.json",
        "places.parquet",
        "points",
        "poses.parquet",
    ]


@pytest.mark.slow
def test_one_and_two_workers_give_the_same_result(finished, weights, tmp_path):
    drive, out_of_one, _ = finished
    out_of_two = tmp_path / "out"
    assert run("--input", drive, "--output", out_of_two, "--weights", weights, "--workers", 2) == 0
    found = []
    for out in (out_of_one, out_of_two):  # tests/forward/test_memory_sync.py uses three processes
        poses = open_drive(str(out), "drive-1").poses
        points = open_drive(str(out), "drive-1").points()
        order = np.lexsort([points[c].to_numpy() for c in ("z", "y", "x", "frame_index")])
        found.append(
            (
                np.stack([poses[c].to_numpy() for c in ("x", "y", "z", "qw", "qx", "qy", "qz")], -1),
                np.sort(points["confidence"].to_numpy()[order]),
            )
        )
    (poses_of_one, confidence_of_one), (poses_of_two, confidence_of_two) = found
    np.testing.assert_allclose(poses_of_two, poses_of_one, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(confidence_of_two, confidence_of_one, rtol=1e-4)


@pytest.mark.full  # in CI, tests/jobs/test_evaluate_benchmark.py reconstructs and scores this clip
def test_real_kitti_frames_run_in_two_processes(shared, tmp_path, capsys):
    frames = shared / "data" / "kitti" / "sequences" / "90" / "image_0"
    settings = ("--preset", "city_tiny", "--chunk-size", 20, "--overlap", 10, "--workers", 2)
    assert run("--input", frames, "--output", tmp_path / "out", *settings) == 0
    poses = pq.read_table(tmp_path / "out" / "90" / "poses.parquet")
    assert poses.num_rows == 51
    assert poses["width"][0].as_py() == 1226
    assert poses["timestamp_ns"][0].as_py() == 0


def test_a_drive_of_one_frame_is_one_pose_at_the_identity(weights, tmp_path):
    drive = folder_of_images(tmp_path / "single", count=1)
    assert run("--input", drive, "--output", tmp_path / "out", "--weights", weights) == 0
    row = open_drive(str(tmp_path / "out"), "single").poses.to_pylist()
    assert len(row) == 1
    assert [row[0][c] for c in ("x", "y", "z")] == pytest.approx([0, 0, 0], abs=1e-12)
    assert abs(row[0]["qw"]) == pytest.approx(1)


def test_bad_images_are_filled_in_and_counted_with_their_reasons(drive, weights, tmp_path, capsys):
    (drive / "frame4.png").write_bytes(b"")
    (drive / "frame9.png").write_bytes((drive / "frame8.png").read_bytes()[:200])
    image(3, size=(60, 62)).save(drive / "frame3.png")
    out = tmp_path / "out"
    assert run("--input", drive, "--output", out, "--weights", weights) == 0
    poses = open_drive(str(out), "drive-1").poses.to_pylist()
    assert [row["frame_index"] for row in poses if row["status"] == "filled"] == [3, 4, 9]
    summary = capsys.readouterr().out
    assert "12 ok, 3 filled" in summary
    assert "frame 3:" in summary and "60x62" in summary and "120x62" in summary
    bad = open_drive(str(out), "drive-1").manifest.quality["bad_frames"]
    assert sorted(bad) == ["3", "4", "9"]
    frames = set(open_drive(str(out), "drive-1").points()["frame_index"].to_pylist())
    assert not frames & {3, 4, 9}


def test_too_many_bad_images_fail_the_drive_and_leave_nothing(drive, weights, tmp_path, capsys):
    for number in (2, 4, 6, 8):
        (drive / f"frame{number}.png").write_bytes(b"")
    line = error_of(capsys, "--input", drive, "--output", tmp_path / "out", "--weights", weights)
    assert "4 of 15 frames are bad" in line and "--max-bad-share" in line
    assert no_result_in(tmp_path / "out")


def test_a_video_is_reconstructed_also_where_it_ends_early(weights, tmp_path):
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.gop_size = 120, 62, 4
        for number in range(20):
            for packet in stream.encode(av.VideoFrame.from_image(image(number))):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    assert run("--input", path, "--output", tmp_path / "out", "--weights", weights, "--fps", 5) == 0
    poses = open_drive(str(tmp_path / "out"), "clip").poses.to_pylist()
    assert len(poses) == 10
    assert poses[1]["timestamp_ns"] == 200_000_000
    data = path.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: int(len(data) * 0.9)])
    assert (
        run("--input", tmp_path / "cut.mp4", "--output", tmp_path / "out", "--weights", weights, "--max-bad-share", 0.5)
        == 0
    )
    status = [row["status"] for row in open_drive(str(tmp_path / "out"), "cut").poses.to_pylist()]
    assert 10 < len(status) < 20
    assert status[0] == "ok"
    notes = open_drive(str(tmp_path / "out"), "cut").manifest.quality["notes"]
    assert any("ends early" in note for note in notes)


def test_staged_predictions_can_be_kept(drive, weights, tmp_path):
    out = tmp_path / "out"
    assert run("--input", drive, "--output", out, "--weights", weights, "--keep-predictions") == 0
    assert len(list((out / "_staging" / "drive-1").rglob("chunk-*.safetensors"))) == 4


def test_voxels_and_the_confidence_threshold_thin_out_the_points(drive, weights, tmp_path):
    counts = []
    for name, settings in (
        ("all", ("--publish.confidence-share", 0)),
        ("sure", ("--publish.confidence-share", 1.0)),
        ("coarse", ("--publish.confidence-share", 0, "--publish.voxel-size", 0.2)),
    ):
        arguments = ("--input", drive, "--output", tmp_path / name, "--weights", weights, *settings)
        assert run(*arguments) == 0
        counts.append(open_drive(str(tmp_path / name), "drive-1").manifest.counts.points)
    assert counts[1] < counts[0] and counts[2] < counts[0]


BAD_INPUT = {
    "no such folder": (lambda p: ("--input", p / "nowhere"), "nowhere"),
    "no images in it": (lambda p: ("--input", p / "empty"), "no images"),
    "overlap too large": (lambda p: ("--chunk-size", 6, "--overlap", 6), "--overlap 6 must be smaller"),
    "overlap over the network's chunks": (lambda p: ("--overlap", 60), "overlap"),
    "no such weights": (lambda p: ("--weights", p / "none.pt"), "none.pt"),
    "wrong weights": (lambda p: ("--weights", p / "wrong.pt"), "missing"),
    "wrong weights for a group": (lambda p: ("--weights", p / "wrong.pt", "--workers", 2), "missing"),
    "no drive id": (lambda p: ("--drive-id", "../up"), "../up"),
    "no times for fps": (lambda p: ("--fps", 3), "times"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_gives_one_line_that_names_it_and_no_files(case, drive, weights, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    torch.save({"some.tensor": torch.zeros(2)}, tmp_path / "wrong.pt")
    arguments, expected = BAD_INPUT[case]
    base = {"--input": drive, "--weights": weights, "--output": tmp_path / "out"}
    given = [str(a) for a in arguments(tmp_path)]
    for option, value in base.items():
        if option not in given:
            given += [option, str(value)]
    line = error_of(capsys, *given)
    assert expected in line
    assert no_result_in(tmp_path)


def test_an_output_that_cannot_be_written_is_reported_before_any_work(drive, weights, tmp_path, capsys):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    line = error_of(capsys, "--input", drive, "--output", blocked / "out", "--weights", weights)
    assert "cannot be written" in line


def test_a_decompression_bomb_is_a_bad_frame_and_costs_no_memory(drive, weights, tmp_path):
    bomb = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(bomb, "PNG")
    (drive / "frame5.png").write_bytes(bomb.getvalue())
    assert run("--input", drive, "--output", tmp_path / "out", "--weights", weights) == 0
    bad = open_drive(str(tmp_path / "out"), "drive-1").manifest.quality["bad_frames"]
    assert list(bad) == ["5"] and "bomb" in bad["5"]


@pytest.mark.parametrize("bias, named", [(float("nan"), "not finite numbers: "), (1e4, "drive-1")])
def test_weights_that_give_values_that_are_not_finite_fail_the_drive(drive, tmp_path, capsys, bias, named):
    model = Reconstructor(NETWORK)
    with torch.no_grad():
        model.depth_head.output2[2].bias.fill_(bias)  # depth is the exponential of this value
    save_checkpoint(model, tmp_path / "bad.safetensors")
    line = error_of(capsys, "--input", drive, "--output", tmp_path / "out", "--weights", tmp_path / "bad.safetensors")
    assert named in line and "not finite" in line
    assert no_result_in(tmp_path / "out")


@pytest.mark.slow
def test_a_killed_job_leaves_no_result_and_the_next_one_completes_it(weights, tmp_path):
    out = tmp_path / "out"
    drive = tmp_path / "drive-1"
    drive.mkdir()
    for number in range(100):  # so many frames that the job is not done before the signal comes
        image(number % 40).save(drive / f"frame{number}.png")
    command = [
        sys.executable,
        "-m",
        "jobs.reconstruct",
        "--input",
        str(drive),
        "--output",
        str(out),
        "--weights",
        weights,
    ]
    job = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    for line in job.stderr:
        if line.startswith("frames:"):
            break
    os.killpg(job.pid, 9)
    job.wait()
    assert not list(out.rglob("manifest.json"))
    assert run("--input", drive, "--output", out, "--weights", weights) == 0
    assert open_drive(str(out), "drive-1").poses.num_rows == 100
    assert not (out / "_staging").exists()


def test_a_store_that_vanishes_fails_the_drive_with_its_name(drive, weights, tmp_path, capsys, monkeypatch):
    from pipeline.ingest import drives

    found = drives.find_drive(str(drive))
    shutil.rmtree(drive)
    monkeypatch.setattr("pipeline.prepare.find_drive", lambda *a, **k: found)
    line = error_of(capsys, "--input", drive, "--output", tmp_path / "out", "--weights", weights)
    assert "drive-1" in line
    assert no_result_in(tmp_path / "out")


def test_frames_in_which_the_car_stands_are_left_out_but_have_a_row(weights, tmp_path, capsys):
    drive = tmp_path / "light"
    drive.mkdir()
    for number, place in enumerate([*range(8), *[7] * 20, *range(8, 15)]):
        image(place).save(drive / f"frame{number}.png")
    (drive / "frame30.png").write_bytes(b"")
    out = tmp_path / "out"
    assert run("--input", drive, "--output", out, "--weights", weights, "--keep-predictions") == 0
    summary = capsys.readouterr().out
    assert "14 ok, 21 filled (20 of them stood still)" in summary
    assert "frame 30:" in summary
    found = open_drive(str(out), "light")
    poses = found.poses.to_pylist()
    assert [row["frame_index"] for row in poses if row["status"] == "filled"] == [*range(8, 28), 30]
    place = np.array([[row[c] for c in ("x", "y", "z", "qw", "qx", "qy", "qz", "fx")] for row in poses])
    assert (place[8:28] == place[7]).all()
    assert not np.allclose(place[28], place[7])
    assert {row["chunk_index"] for row in poses[8:28]} == {poses[7]["chunk_index"]}
    assert found.chunks.num_rows == 4
    assert found.chunks["frame_stop"].to_pylist()[-1] == 35
    assert not set(found.points()["frame_index"].to_pylist()) & {*range(8, 28), 30}
    assert realign.main(["--output", str(out), "--drive", "light"]) == 0
    assert open_drive(str(out), "light").poses.equals(found.poses)
    assert run("--input", drive, "--output", out, "--weights", weights, "--no-stops", "--overwrite") == 0
    assert "34 ok, 1 filled," in capsys.readouterr().out
    assert open_drive(str(out), "light").chunks.num_rows == 11
