"""jobs.drain: runs see that the node will go, it gets no new work, and the command returns once the node is idle."""

import subprocess
import sys

import pytest

from jobs import drain
from tests.jobs.runs import ROOT
from tests.local_head import local_head

WORK = """
import os, sys, time, ray
from pipeline.fleet.schedule.runtime import cluster_nodes
ray.init(log_to_driver=False, logging_level="error")

started, told = sys.argv[1:]

@ray.remote(num_cpus=1)
def drive():
    open(started, "x").close()
    while not os.path.exists(told):
        time.sleep(0.1)

node = ray.get_runtime_context().get_node_id()
in_work = drive.remote()
while not os.path.exists(started):  # a task that waits for its process is no work yet: the node would go at once
    time.sleep(0.1)
print("at work", flush=True)
while node not in cluster_nodes()[1]:
    time.sleep(0.1)
print("told to go", flush=True)
open(told, "x").close()
ray.get(in_work)
print("done", flush=True)
"""


@pytest.mark.cluster
def test_a_draining_node_finishes_its_work_and_the_command_returns_before_the_deadline(tmp_path):
    with local_head() as head:
        env = {**head.environment, "RAY_ADDRESS": head.gcs, "PYTHONPATH": str(ROOT)}
        words = [sys.executable, "-c", WORK, str(tmp_path / "started"), str(tmp_path / "told")]
        work = subprocess.Popen(words, env=env, stdout=subprocess.PIPE, text=True)
        assert work.stdout.readline() == "at work\n"
        words = [sys.executable, "-m", "jobs.drain", "--seconds", "60", "--address", head.gcs]
        told = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, timeout=90)
        assert (told.returncode, told.stdout) == (0, "this machine is idle\n"), told.stderr
        assert work.communicate(timeout=30)[0] == "told to go\ndone\n"


def test_no_time_at_all_is_refused(capsys):
    assert drain.main(["--seconds", "0"]) == 1
    assert "--seconds must be above zero" in capsys.readouterr().err
