"""A real process is killed between the files of a drive: the files that it leaves are never taken for a result."""

import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.errors import DriveError
from pipeline.publish import is_published, open_drive, versions
from tests.publish.drives import small_drive
from tests.publish.test_drive import files_in, publish

ROOT = Path(__file__).resolve().parents[2]

KILLED = """
import os, signal, sys
sys.path.insert(0, {root!r})
left = {nth}
def hook(event, arguments):
    # os.rename: the file is written, its name is not; os.remove: what is before it is gone, it is not
    global left
    if event == {event!r} and str(arguments[event == "os.rename"]).endswith({name!r}):
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
from tests.publish.test_drive import publish, small_drive
publish({output!r}, small_drive(10, seed={seed}), overwrite={overwrite})
"""


def publish_and_be_killed(output, at, *, event="os.rename", nth=1, seed=0, overwrite=False):
    code = KILLED.format(
        root=str(ROOT), event=event, name=at, nth=nth, output=str(output), seed=seed, overwrite=overwrite
    )
    scratch = output.parent / "scratch"  # files that the kill leaves there are removed with the folder of the test
    scratch.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"TMPDIR": str(scratch)},
    )
    assert done.returncode == -9, done.stderr


STEPS = ["part-00000.parquet", "part-00002.parquet", "poses.parquet", "loops.parquet", "manifest.json"]


@pytest.mark.parametrize("at", STEPS)
def test_a_killed_publish_leaves_no_result_and_can_be_repeated(tmp_path, at):
    publish_and_be_killed(tmp_path / "out", at)
    assert not is_published(str(tmp_path / "out"), "drive-1")
    with pytest.raises(DriveError, match=r"not finished"):
        open_drive(str(tmp_path / "out"), "drive-1")
    for path in (tmp_path / "out").rglob("*.parquet"):
        pq.read_metadata(path)  # a file that has its final name is complete
    again = publish(tmp_path / "out", small_drive(10))
    assert again.files == publish(tmp_path / "calm", small_drive(10)).files
    assert files_in(tmp_path / "out") == files_in(tmp_path / "calm")  # no unfinished file is left


@pytest.mark.parametrize(
    "event, at, nth, seed",
    [("os.rename", name, 1, 0) for name in STEPS[::2]]  # before the new manifest: the old drive is kept
    # after it, while files get their usual names: the new drive is complete
    + [("os.rename", name, 2, 1) for name in STEPS[::2]]
    + [("os.remove", "part-00008.parquet", 1, 1)],
)
def test_an_overwrite_that_is_killed_leaves_the_whole_old_drive_or_the_whole_new_one(tmp_path, event, at, nth, seed):
    out = tmp_path / "out"
    publish(out, small_drive(20))
    publish_and_be_killed(out, at, event=event, nth=nth, seed=1, overwrite=True)
    left = open_drive(str(out), "drive-1")
    publish(tmp_path / "whole", small_drive(20 if seed == 0 else 10, seed=seed))
    whole = open_drive(str(tmp_path / "whole"), "drive-1")
    assert left.poses.equals(whole.poses) and left.points().equals(whole.points())
    again = publish(out, small_drive(10, seed=2), overwrite=True)
    assert again.files == publish(tmp_path / "calm", small_drive(10, seed=2)).files
    assert files_in(out) == files_in(tmp_path / "calm")


def test_a_reader_of_a_replaced_version_gets_an_error_and_never_a_mixture(tmp_path):
    publish(tmp_path, small_drive(20))
    old = open_drive(str(tmp_path), "drive-1")
    publish(tmp_path, small_drive(10, seed=1), overwrite=True)
    with pytest.raises(DriveError, match="open it again"):
        old.points()


def test_a_drive_opened_before_its_files_get_their_usual_names_can_still_be_read(tmp_path, monkeypatch):
    publish(tmp_path, small_drive(20))
    opened = []
    whole = versions.settle

    def settle(output, drive_id, *more):
        opened.append(open_drive(output, drive_id))
        return whole(output, drive_id, *more)

    monkeypatch.setattr("pipeline.publish.drive.settle", settle)
    publish(tmp_path, small_drive(10, seed=1), overwrite=True)
    assert all(file.path.startswith("_version-") for file in opened[0].manifest.files)
    assert opened[0].points().equals(open_drive(str(tmp_path), "drive-1").points())
    assert not list(tmp_path.rglob("_version-*"))


@pytest.mark.parametrize("steps", [0, 3, 9])
def test_a_publish_whose_lease_is_lost_stops_before_its_next_visible_change(tmp_path, steps):
    publish(tmp_path, small_drive(10))
    before = open_drive(str(tmp_path), "drive-1").manifest
    left = [steps]

    def guard():
        left[0] -= 1
        if left[0] < 0:
            raise DriveError("the lease is lost")

    with pytest.raises(DriveError, match="lease is lost"):
        publish(tmp_path, small_drive(10, seed=1), overwrite=True, guard=guard)
    drive = open_drive(str(tmp_path), "drive-1")
    assert (drive.manifest == before) == (steps < 8)
    assert drive.poses.num_rows == 10
