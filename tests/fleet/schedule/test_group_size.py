"""Where groups run is decided once: on GPUs where there are any or the user asks for them, never silently without."""

import subprocess
import sys

import pytest
import torch

from pipeline.config import RunConfig
from tests.jobs.conftest import folder_of_images, weights  # noqa: F401
from tests.jobs.runs import PLAIN, ROOT, command, environment, run

SIZES = """
import sys
from ray.cluster_utils import Cluster
from pipeline.config import RunConfig
from pipeline.fleet.schedule.group_size import GroupSize
from pipeline.common.ray_session import start_ray
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 0, "include_dashboard": False})
start_ray(cluster.address)

def sizes():
    for settings in ({}, {"workers": 4}, {"device": "gpu", "groups": 2}, {"device": "cpu"}):
        size = GroupSize.of(RunConfig(address=cluster.address, **settings))
        print(size.said, "|", size.gpus, size.in_process, size.rank_bytes == sys.maxsize, flush=True)

sizes()
cluster.add_node(num_cpus=1, num_gpus=1)
cluster.wait_for_nodes()
sizes()
print(cluster.address, flush=True)
sys.stdin.readline()
"""
NO_GPU = [
    "1 group of 1 CPU rank | 0 False False",
    "1 group of 4 CPU ranks | 0 False False",
    "2 groups of 1 GPU | 2 False True",
    "1 group of 1 CPU rank | 0 False False",
]
ONE_GPU = [
    "1 group of 1 GPU | 1 False False",
    "1 group of 4 GPUs | 4 False False",  # the autoscaler may add three more
    "2 groups of 1 GPU | 2 False False",
    "1 group of 1 CPU rank | 0 False False",
]


@pytest.mark.cluster
def test_groups_are_on_gpus_where_the_cluster_has_one_and_wait_for_what_is_missing(tmp_path, weights):  # noqa: F811
    words = [sys.executable, "-c", SIZES]
    with subprocess.Popen(words, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as nodes:
        said = [nodes.stdout.readline().strip() for _ in range(9)]
        assert (said[:4], said[4:8]) == (NO_GPU, ONE_GPU)
        drive = folder_of_images(tmp_path / "drive", 3)
        arguments = ("--input", drive, "--output", tmp_path / "out", "--weights", weights, *PLAIN, "--workers", 2)
        job = subprocess.Popen(
            command(*arguments, "--address", said[8], "--device", "gpu"),
            cwd=ROOT,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        lines = []
        for line in job.stdout:
            lines.append(line)
            if "waits for room" in line:
                break
        job.kill()
        job.communicate()
        nodes.communicate("end\n", timeout=60)
    assert "a group waits for room: it needs 2 GPUs, and the cluster has 1 now" in lines[-1], "".join(lines)
    assert "the network runs on 2 GPUs\n" in "".join(lines)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize("many", [False, True])
def test_a_gpu_that_can_never_exist_is_reported_before_any_work(tmp_path, capsys, many):
    folder_of_images(tmp_path / "fleet" / "a", 3)
    source = tmp_path / "fleet" if many else tmp_path / "fleet" / "a"
    assert run("--input", source, "--output", tmp_path / "out", "--device", "gpu", "--workers", 2) == 1
    assert "needs as many GPUs, and this machine has 0: join a cluster" in capsys.readouterr().err
    assert not (tmp_path / "out" / "_runs").exists()


def test_the_device_is_not_part_of_a_results_identity():
    assert RunConfig(device="cpu").result_settings() == RunConfig().result_settings()
