"""jobs.synthesize renders drives."""

import numpy as np
import pytest

from jobs.synthesize import main
from jobs.train import main as train
from pipeline.synthetic import list_drives, read_drive
from tests.s3_server import s3, s3_server  # noqa: F401

SMALL = ["--drives", "2", "--frames", "9", "--seed", "7", "--height", "28", "--width", "56"]


def test_drives_are_rendered_and_a_summary_is_printed(tmp_path, capsys) -> None:
    assert main(["--output", str(tmp_path), *SMALL]) == 0
    out, err = capsys.readouterr()
    assert "drive 00: 9 frames" in out
    assert "2 drives in" in out
    assert "9/9 frames" in err
    assert list_drives(str(tmp_path)) == ("00", "01")
    first, second = (read_drive(str(tmp_path), k) for k in ("00", "01"))
    assert not np.allclose(first.world_from_camera, second.world_from_camera)


def test_drives_are_rendered_into_a_bucket_and_training_reads_them_there(s3, tmp_path) -> None:  # noqa: F811
    root = f"{s3}/city"
    assert main(["--output", root, *SMALL]) == 0
    assert read_drive(root, "01").depth(8).shape == (28, 56)
    assert (
        train(
            [
                "--output",
                str(tmp_path),
                "--data",
                root,
                "--steps",
                "1",
                "--batch.frames",
                "4",
                "--batch.longest",
                "3",
                "--validation.drives",
                "0",
            ]
        )
        == 0
    )
    assert (tmp_path / "final.safetensors").exists()


def test_a_second_run_leaves_drives_as_they_are_and_another_seed_is_refused(tmp_path, capsys) -> None:
    assert main(["--output", str(tmp_path), *SMALL]) == 0
    image = tmp_path / "sequences/00/image_0/000000.jpg"
    stamp = image.stat().st_mtime_ns
    assert main(["--output", str(tmp_path), *SMALL]) == 0
    assert image.stat().st_mtime_ns == stamp
    assert main(["--output", str(tmp_path), *SMALL, "--seed", "8"]) == 1
    assert "another drive has this id" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [["--frames", "0"], ["--height", "2"], ["--supersample", "0"]])
def test_settings_that_cannot_be_rendered_end_in_one_line_that_names_the_field(tmp_path, capsys, wrong) -> None:
    assert main(["--output", str(tmp_path), *wrong]) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"error: {wrong[0].strip('-')} must be")
    assert err.count("\n") == 1


def test_an_unknown_device_is_a_usage_error(tmp_path) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--output", str(tmp_path), "--device", "tpu"])
    assert stopped.value.code == 2


def test_an_output_that_cannot_be_written_ends_in_one_line(tmp_path, capsys) -> None:
    (tmp_path / "file").write_text("in the way")
    assert main(["--output", str(tmp_path / "file"), *SMALL]) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_a_rig_that_cannot_be_rendered_is_refused_with_its_reason(tmp_path, capsys) -> None:
    assert main(["--output", str(tmp_path), *SMALL, "--cameras", "7"]) != 0
    assert "cameras must be 1 to 6" in capsys.readouterr().err
    assert main(["--output", str(tmp_path), *SMALL, "--cameras", "2", "--lens", "barrel"]) != 0
    assert "have no lens" in capsys.readouterr().err
