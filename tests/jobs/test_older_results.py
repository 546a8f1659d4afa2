"""Results of an older version: today's commands read them, and recognise them as results of the same settings.

`tests/publish/data/result-of-733c2cb.tar.xz` was made by commit 733c2cb of ten rendered frames (`jobs.reconstruct
--keep-predictions` and the SETTINGS below). The drive's calib.txt is left out: that version did not read it.
"""

import json
import tarfile
from pathlib import Path

import pytest

from jobs import export, realign, report, verify
from jobs.command import settings_from
from models.config import WEIGHTS_FOLDER
from pipeline.config import RunConfig
from pipeline.ingest.drives import find_drive
from pipeline.publish import open_drive, read_manifest
from pipeline.result_identity import decide
from pipeline.settings_file import settings_from_dict
from tests.jobs.runs import run

ARCHIVE = Path(__file__).parents[1] / "publish/data/result-of-733c2cb.tar.xz"
# --no-refine: the older version had no refinement
SETTINGS = ("--chunk-size", 6, "--overlap", 3, "--publish.voxel-size", 0.3, "--no-stops", "--no-refine")


@pytest.fixture
def older(tmp_path):
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path)  # the archive is this project's own; tarfile has filters since Python 3.11.4
    return tmp_path


def decided(older, *words):
    """What a run with these options would do for the drive."""
    arguments = [str(word) for word in (older / "city/sequences/00", *SETTINGS, *words)]
    config = settings_from(RunConfig, arguments, prog="jobs.reconstruct").with_arithmetic(on_gpus=False, bfloat16=False)
    drive = find_drive(config.input, stride=config.stride, start=config.start, camera=config.camera)
    return decide(drive, config.network.sha256(), config, str(older / "out"), of_many=True)


def test_an_older_result_is_not_made_again(older, capsys):
    before = (older / "out/00/manifest.json").read_bytes()
    assert run(older / "city/sequences/00", "--output", older / "out", *SETTINGS) == 0
    assert "published already, nothing to do" in capsys.readouterr().out
    assert (older / "out/00/manifest.json").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "done"),
    [
        ((), True),
        (("--preset", "city_tiny"), True),
        (("--start", 0), True),
        (("--preset", "city_tiny", "--start", 0), True),
        (("--workers", 2, "--fleet.lease-s", 60, "--keep-predictions"), True),
        (("--weights", WEIGHTS_FOLDER / "city_tiny.safetensors", "--preset", "city_tiny"), True),
        (("--overlap", 2), False),
        (("--backend.max-pixels", 512), False),
        (("--rotate", 0), False),
        (("--camera.no-square-pixels",), False),
    ],
)
def test_equivalent_settings_keep_an_older_result_and_other_settings_do_not(older, words, done):
    assert decided(older, *words).done == done


def test_an_older_result_is_read_checked_exported_and_shown(older, capsys):
    drive = open_drive(str(older / "out"), "00")
    assert drive.poses.num_rows == drive.manifest.counts.frames == 10
    assert drive.points().num_rows == drive.manifest.counts.points > 0
    assert verify.main([str(older / "out")]) == 0
    assert "1 of 1 drives" in capsys.readouterr().out
    formats = ("colmap", "nerfstudio", "ply", "kitti", "tum", "depth")
    to, moved = older / "exported", older / "city/sequences/00/image_0"
    assert export.main([str(older / "out"), "00", "--format", *formats, "--to", str(to)]) == 0
    assert len((to / "poses.txt").read_text().splitlines()) == 10
    assert report.main([str(older / "out"), "--site", str(older / "site"), "--images-from", str(moved)][:3]) == 0
    assert (older / "site/index.html").is_file()


def test_an_older_result_is_joined_again_from_its_kept_predictions(older):
    before = read_manifest(str(older / "out"), "00")
    assert realign.main([str(older / "out"), "00"]) == 0
    after = read_manifest(str(older / "out"), "00")
    assert after.published_at != before.published_at
    assert (after.identity, after.counts.frames) == (before.identity, 10)


def test_former_settings_that_are_constants_now_are_accepted_with_the_constants_value(older):
    config = json.loads((older / "out/00/manifest.json").read_text())["config"]
    assert config["backend"]["rounds"] == 5
    assert settings_from_dict(config).backend.rounds == 5
    config["backend"]["rounds"] = 7
    with pytest.raises(ValueError, match="rounds cannot be set any more, it is always 5"):
        settings_from_dict(config)
