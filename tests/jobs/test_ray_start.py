"""Where Ray does not start, one line says what happened and what to do; it is not reported as a bug."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


def reconstruct(drive, weights, out, *arguments, meanwhile=None, **environment):
    """Run the command in a new process (this one must not start a second Ray); returns exit code and errors."""
    command = [sys.executable, "-m", "jobs.reconstruct", "--input", str(drive), "--weights", weights]
    command += ["--output", str(out), *arguments]
    env = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    env |= {"PYTHONPATH": str(ROOT), **environment}
    process = subprocess.Popen(command, cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True, start_new_session=True)
    if meanwhile is not None:
        threading.Thread(target=meanwhile, args=(psutil.Process(process.pid),), daemon=True).start()
    said = process.communicate(timeout=200)[1]
    return process.returncode, [line for line in said.splitlines() if line.startswith("error:")], said


def test_an_address_that_cannot_be_joined_is_reported(drive, weights, tmp_path):
    code, errors, said = reconstruct(drive, weights, tmp_path / "out", "--address", "127.0.0.1")
    assert code == 1 and len(errors) == 1 and "Traceback" not in said
    assert "cannot join the Ray cluster at 127.0.0.1" in errors[0] and "check --address" in errors[0]
    assert not list((tmp_path / "out").rglob("_leases/*"))


def test_the_reason_is_reported_where_ray_cannot_start(drive, weights, tmp_path):
    long = tmp_path / ("x" * 100)  # the path is too long for the names of Ray's sockets
    long.mkdir()
    code, errors, said = reconstruct(drive, weights, tmp_path / "out", RAY_TMPDIR=str(long))
    assert code == 1 and len(errors) == 1 and "Traceback" not in said
    assert "Ray does not start on this machine" in errors[0] and "AF_UNIX" in errors[0]


LISTENERS = """
import json, os, psutil, ray, ray.train, tempfile
from pathlib import Path
from pipeline.common.ray_session import start_ray
start_ray(ranks=2)
ray.get(ray.remote(lambda: 1).options(num_cpus=1).remote())
from pipeline.common.process_group import torch_config
from ray.train.torch import TorchTrainer
folder = tempfile.mkdtemp()
def rank(config):
    import torch
    import torch.distributed as dist
    one = torch.ones(1)
    dist.all_reduce(one)  # the ranks are connected now
    mine = [c for c in psutil.Process().net_connections("inet") if c.status == "LISTEN"]
    mine = [(f"rank of {int(one)}", c.laddr.ip) for c in mine]
    Path(config["folder"], str(dist.get_rank())).write_text(json.dumps(mine))
    dist.barrier()
scaling = ray.train.ScalingConfig(num_workers=2, resources_per_worker={"CPU": 1})
settings = {"torch_config": torch_config(False, 60), "scaling_config": scaling}
settings["run_config"] = ray.train.RunConfig(storage_path=tempfile.mkdtemp())
TorchTrainer(rank, train_loop_config={"folder": folder}, **settings).fit()
ranks = [one for file in Path(folder).iterdir() for one in json.loads(file.read_text())]
family = [psutil.Process(), *psutil.Process().children(recursive=True)]
ports = []
for p in family:
    try:
        ports += [(p.name(), c.laddr.ip) for c in p.net_connections("inet") if c.status == "LISTEN"]
    except psutil.NoSuchProcess:
        pass  # an idle worker has ended since the list was made
print(json.dumps([ports + ranks, ray.nodes()[0]["NodeManagerAddress"], sorted(os.environ)]))
ray.shutdown()
"""


def test_a_ray_for_this_machine_listens_on_the_loopback_interface_only():
    """Every port of every process that was started; what told Ray so is gone from this process's environment. The user
    has no home to write to, as in many containers: Ray's token is in the environment then."""
    env = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "RAY_AUTH_MODE")}
    env |= {"PYTHONPATH": str(ROOT), "HOME": "/proc/nowhere"}
    done = subprocess.run([sys.executable, "-c", LISTENERS], env=env, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    ports, node, names = json.loads(done.stdout.splitlines()[-1])
    assert {"gcs_server", "raylet", "rank of 2"} <= {process for process, _ in ports} and node == "127.0.0.1"
    assert {place for _, place in ports} <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}, ports
    assert not {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "GLOO_SOCKET_IFNAME"} & (set(names) - set(env))
    assert "RAY_AUTH_TOKEN" in names


@pytest.mark.full
def test_where_ray_starts_too_slowly_the_error_says_that_the_machine_is_busy(drive, weights, tmp_path):
    stopped = []

    def stop_the_raylet(command):
        while not stopped:
            for child in command.children(recursive=True):
                if child.name() == "raylet":
                    child.send_signal(signal.SIGSTOP)
                    stopped.append(child)
            time.sleep(0.02)

    code, errors, said = reconstruct(drive, weights, tmp_path / "out", meanwhile=stop_the_raylet)
    assert stopped and code == 1 and len(errors) == 1, said
    assert "did not start on this machine within its 30 s" in errors[0] and "run the same command again" in errors[0]
    _, alive = psutil.wait_procs(stopped, timeout=10)
    for process in alive:
        process.kill()
    assert not alive
