"""Staged drives are joined and published; a drive whose result is published is never reported as failed."""

import shutil
from dataclasses import replace

import pytest

from pipeline.errors import StorageError
from pipeline.fleet.schedule.finisher import finish_drive, finish_here
from pipeline.leases import Leases
from pipeline.publish import open_drive
from pipeline.staged_drive import read_staged_drive
from pipeline.storage import NotFoundError
from tests.jobs.conftest import folder_of_images, weights  # noqa: F401
from tests.jobs.runs import PLAIN, run

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("one_ray")]


@pytest.fixture
def staged(tmp_path, weights):  # noqa: F811
    """A published drive d with kept predictions: the staged drive, its settings, the output; a run holds its lease."""
    drive, out = folder_of_images(tmp_path / "d"), tmp_path / "out"
    assert run("--input", drive, "--output", out, "--weights", weights, *PLAIN, "--keep-predictions") == 0
    with Leases(str(out), "me", 60) as leases:
        leases.take("d")
        what, config = read_staged_drive(str(out), "d")
        yield what, replace(config, keep_predictions=False), out


def a_chunk_goes(out):
    sorted((out / "_staging" / "d").glob("*/*.safetensors"))[0].unlink()


def test_a_drive_published_by_an_earlier_try_is_done_even_if_its_staged_files_are_gone(staged):
    what, config, out = staged
    a_chunk_goes(out)
    before = open_drive(str(out), "d").manifest
    done = finish_drive(what, config, str(out), "me")
    assert (done.frames, done.points, done.verdict) == (15, before.counts.points, before.quality["verdict"])
    assert open_drive(str(out), "d").manifest == before and not (out / "_staging").exists()


def test_with_overwrite_an_existing_result_does_not_count_as_the_new_one(staged):
    what, config, out = staged
    again = replace(config, overwrite=True, keep_predictions=True)
    first = open_drive(str(out), "d").manifest.timings
    assert finish_here(what, again, str(out), "me").frames == 15
    assert open_drive(str(out), "d").manifest.timings != first
    a_chunk_goes(out)
    with pytest.raises(NotFoundError):
        finish_here(what, again, str(out), "me")


def test_without_a_result_a_missing_chunk_gives_an_error(staged):
    what, config, out = staged
    shutil.rmtree(out / "d")
    a_chunk_goes(out)
    with pytest.raises(NotFoundError):
        finish_here(what, config, str(out), "me")
    assert (out / "_staging").exists()


def test_staged_files_that_cannot_be_removed_do_not_fail_the_drive(staged, monkeypatch):
    what, config, out = staged
    shutil.rmtree(out / "d")

    def refused(uri):
        raise StorageError(f"{uri}: refused")

    monkeypatch.setattr("pipeline.storage.remove_tree", refused)
    assert finish_here(what, config, str(out), "me").frames == 15
    assert open_drive(str(out), "d").poses.num_rows == 15
