"""What a run of jobs.fuse says of itself in the output."""

import os
import time

import pytest

from pipeline.backend.sim3 import Sim3
from pipeline.common.secrets import learn
from pipeline.errors import StorageError
from pipeline.fuse import FuseConfig, run_fuse
from pipeline.fuse.progress import read_fuse_run
from tests.fuse.rendered_drives import Rendered, publish
from tests.fuse.test_run import SETTINGS, During


def stop():
    raise KeyboardInterrupt


def fail():
    raise StorageError("cannot write s3://key:hidden-secret@bucket/x (hidden-secret was refused)")


@pytest.mark.parametrize(("end", "said"), [(stop, "interrupted; start jobs.fuse again"), (fail, "cannot write s3://")])
def test_a_run_that_ended_early_says_why_without_secrets_and_leaves_no_lease(tmp_path, end, said):
    out = tmp_path / "out"
    publish(out, tmp_path / "images", "a", Rendered(range(2)), Sim3.identity())
    learn("s3://key:hidden-secret@bucket")
    with pytest.raises((KeyboardInterrupt, StorageError)):
        run_fuse(FuseConfig(str(out), **SETTINGS), During(end))
    run = read_fuse_run(str(out), time.time())
    assert run.state == "failed" and said in run.message and "hidden-secret" not in run.line(time.time())
    assert not os.path.exists(out / "_leases") and not list((out / "_city").glob("0*/manifest.json"))
