"""Joining and publishing again from kept predictions, without the input and without Ray."""

import json
import shutil

import numpy as np
import pytest
import torch

from jobs import realign
from models import Reconstructor
from models.checkpoint import save_checkpoint
from pipeline.publish import open_drive
from tests.jobs.conftest import NETWORK, folder_of_images
from tests.jobs.runs import run

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("one_ray")]


@pytest.fixture
def kept(drive, weights, tmp_path):
    """A published drive with kept predictions; its input is removed."""
    out = tmp_path / "out"
    arguments = ("--input", drive, "--output", out, "--weights", weights, "--keep-predictions")
    assert run(*arguments, "--publish.confidence-share", 0.5) == 0
    shutil.rmtree(drive)
    return out


def positions(out):
    poses = open_drive(str(out), "drive-1").poses
    return np.stack([poses[c].to_numpy() for c in "xyz"], -1)


def test_the_same_settings_give_the_same_result(kept, capsys):
    before, manifest = positions(kept), open_drive(str(kept), "drive-1").manifest
    assert realign.main(["--output", str(kept), "--drive", "drive-1"]) == 0
    after = open_drive(str(kept), "drive-1").manifest
    np.testing.assert_array_equal(positions(kept), before)
    assert after.counts == manifest.counts
    assert after.identity == manifest.identity
    assert "verdict" in capsys.readouterr().out


def test_other_settings_change_the_result_and_nothing_else(kept):
    before = open_drive(str(kept), "drive-1").manifest
    arguments = ["--output", str(kept), "--drive", "drive-1", "--publish.voxel-size", "0.5"]
    assert realign.main(arguments) == 0
    after = open_drive(str(kept), "drive-1").manifest
    assert after.counts.points < before.counts.points
    assert after.config["publish"]["confidence_share"] == 0.5  # the time of the first run
    assert after.identity != before.identity


def test_another_output_gets_the_result_and_the_drive_stays_as_it_was(kept, tmp_path, capsys):
    before = open_drive(str(kept), "drive-1").manifest
    arguments = ["--output", str(kept), "--drive", "drive-1", "--publish.voxel-size", "0.5"]
    assert realign.main([*arguments, "--to", str(tmp_path / "coarse")]) == 0
    assert open_drive(str(kept), "drive-1", check_hashes=True).manifest == before
    coarse = open_drive(str(tmp_path / "coarse"), "drive-1", check_hashes=True).manifest
    assert 0 < coarse.counts.points < before.counts.points
    assert f"{tmp_path / 'coarse' / 'drive-1'}" in capsys.readouterr().out
    assert realign.main([*arguments, "--to", f"{kept}/"]) == 1
    assert "--to names its own output" in capsys.readouterr().err


def test_the_error_for_a_drive_without_kept_predictions_says_what_to_do(tmp_path, capsys):
    assert realign.main(["--output", str(tmp_path), "--drive", "nowhere"]) == 1
    assert "--keep-predictions" in capsys.readouterr().err


def test_kept_predictions_and_the_result_survive_a_failed_overwrite(kept, tmp_path):
    folder_of_images(tmp_path / "drive-1")
    model = Reconstructor(NETWORK)
    with torch.no_grad():
        model.depth_head.output2[2].bias.fill_(float("nan"))
    save_checkpoint(model, tmp_path / "nan.safetensors")
    before = positions(kept)
    failed = run(
        "--input", tmp_path / "drive-1", "--output", kept, "--weights", tmp_path / "nan.safetensors", "--overwrite"
    )
    assert failed == 1
    np.testing.assert_array_equal(positions(kept), before)
    assert realign.main(["--output", str(kept), "--drive", "drive-1"]) == 0


def test_a_damaged_staged_json_is_named_in_the_error(kept, capsys):
    note = kept / "_staging" / "drive-1" / "staged.json"
    values = json.loads(note.read_text())
    del values["staged"]["attempt"]
    note.write_text(json.dumps(values))
    assert realign.main(["--output", str(kept), "--drive", "drive-1"]) == 1
    assert "staged.json is damaged" in capsys.readouterr().err


def test_an_unsafe_drive_id_is_refused(kept, capsys):
    assert realign.main(["--output", str(kept), "--drive", "../x"]) == 1
    assert "../x" in capsys.readouterr().err
