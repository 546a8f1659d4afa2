"""The nightly submission on a real head: never two runs at once, even if the pod that followed the last run is gone."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.local_head import local_head

CRONJOB = Path(__file__).resolve().parents[2] / "cluster" / "cronjob.yaml"


def night(head, seconds):
    """Start the container's command; in place of the reconstruction it sleeps for this many seconds."""
    pod = yaml.safe_load(CRONJOB.read_text())["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    (script,) = pod["containers"][0]["args"]
    script, count = re.subn(r"-- python -m .*", f"-- sleep {seconds}", script)
    assert count == 1
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.Popen(
        ["sh", "-c", script],
        env={**head.environment, "PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.cluster
@pytest.mark.full
def test_a_nightly_run_is_refused_while_the_last_one_goes_on_although_its_pod_is_gone():
    with local_head() as head:
        first = night(head, 60)
        while "city-nightly" not in (line := first.stdout.readline()) or "submitted" not in line:
            assert line, "the first night's job was not submitted"
        first.kill()  # the pod is gone; the run goes on
        second = night(head, 1)
        said = second.communicate(timeout=100)[0]
        assert second.returncode != 0 and "city-nightly already exists" in said, said
        ray = str(Path(sys.executable).with_name("ray"))
        for words in (["stop"], ["delete"]):  # Ray refuses to delete a job that has not ended
            end = time.monotonic() + 60
            while subprocess.run([ray, "job", *words, "city-nightly"], env=head.environment).returncode:
                assert time.monotonic() < end
        third = night(head, 1)
        said = third.communicate(timeout=100)[0]
        assert third.returncode == 0 and "succeeded" in said, said
