"""A real process, killed between the files of a drive: what it leaves is never taken for a result."""

import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.errors import DriveError
from pipeline.publish import is_published, open_drive
from tests.publish.drives import small_drive
from tests.publish.test_drive import files_in, publish

ROOT = Path(__file__).resolve().parents[2]

KILLED = """
import os, signal, sys
sys.path.insert(0, {root!r})
def hook(event, arguments):
    # os.rename: the file is written, its name is not; os.remove: what is before it is gone, it is not
    if event == {event!r} and str(arguments[event == "os.rename"]).endswith({name!r}):
        os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
from tests.publish.test_drive import publish, small_drive
publish({output!r}, small_drive(10, seed={seed}), overwrite={overwrite})
"""


def publish_and_be_killed(output, at, *, event="os.rename", seed=0, overwrite=False):
    code = KILLED.format(
        root=str(ROOT), event=event, name=at, output=str(output), seed=seed, overwrite=overwrite
    )
    scratch = output.parent / "scratch"  # what a kill leaves there is cleared with the test's folder
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
def test_a_publish_that_is_killed_leaves_nothing_that_looks_whole_and_can_be_repeated(tmp_path, at):
    publish_and_be_killed(tmp_path / "out", at)
    assert not is_published(str(tmp_path / "out"), "drive-1")
    with pytest.raises(DriveError, match=r"not finished"):
        open_drive(str(tmp_path / "out"), "drive-1")
    for path in (tmp_path / "out").rglob("*.parquet"):
        pq.read_metadata(path)  # what has its name is complete
    again = publish(tmp_path / "out", small_drive(10))
    assert again.files == publish(tmp_path / "calm", small_drive(10)).files
    assert files_in(tmp_path / "out") == files_in(tmp_path / "calm")  # nor does rubbish stay


@pytest.mark.parametrize(
    "event, at",
    [("os.rename", name) for name in STEPS[::2]]
    + [("os.remove", "loops.parquet"), ("os.remove", "1.parquet")],
)
def test_an_overwrite_that_is_killed_does_not_look_like_the_old_drive_nor_the_new(tmp_path, event, at):
    out = tmp_path / "out"
    publish(out, small_drive(20))
    publish_and_be_killed(out, at, event=event, seed=1, overwrite=True)
    assert not is_published(str(out), "drive-1")
    again = publish(out, small_drive(10))
    assert again.files == publish(tmp_path / "calm", small_drive(10)).files
    assert files_in(out) == files_in(tmp_path / "calm")
