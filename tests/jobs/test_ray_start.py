"""A Ray that does not come up is one line that says what happened and what to do, never a bug of the program."""

import contextlib
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
    """The command in a process of its own (never a second Ray in this one): exit code and its errors."""
    command = [sys.executable, "-m", "jobs.reconstruct", "--input", str(drive), "--weights", weights]
    command += ["--output", str(out), *arguments]
    env = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    env |= {"PYTHONPATH": str(ROOT), **environment}
    process = subprocess.Popen(command, cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True, start_new_session=True)
    if meanwhile is not None:
        threading.Thread(target=meanwhile, args=(psutil.Process(process.pid),), daemon=True).start()
    said = process.communicate(timeout=200)[1]
    return process.returncode, [line for line in said.splitlines() if line.startswith("error:")], said


def test_an_address_that_cannot_be_joined_is_said(drive, weights, tmp_path):
    code, errors, said = reconstruct(drive, weights, tmp_path / "out", "--address", "127.0.0.1")
    assert code == 1 and len(errors) == 1 and "Traceback" not in said
    assert "cannot join the Ray cluster at 127.0.0.1" in errors[0] and "check --address" in errors[0]
    assert not list((tmp_path / "out").rglob("_leases/*"))


def test_a_ray_that_cannot_start_says_why(drive, weights, tmp_path):
    long = tmp_path / ("x" * 100)  # no room for the names of its sockets
    long.mkdir()
    code, errors, said = reconstruct(drive, weights, tmp_path / "out", RAY_TMPDIR=str(long))
    assert code == 1 and len(errors) == 1 and "Traceback" not in said
    assert "Ray does not start on this machine" in errors[0] and "AF_UNIX" in errors[0]


def test_a_ray_for_this_machine_listens_on_loopback_alone(drive, weights, tmp_path):
    """Every port of every process that the command started, looked up while it runs: two ranks, which talk too."""
    listening: dict[str, set[str]] = {}

    def look(command):
        with contextlib.suppress(psutil.NoSuchProcess):
            while command.is_running():
                for process in [command, *command.children(recursive=True)]:
                    with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                        for one in process.net_connections("inet"):
                            if one.status == psutil.CONN_LISTEN:
                                listening.setdefault(one.laddr.ip, set()).add(process.name())
                time.sleep(0.3)

    code, _, said = reconstruct(drive, weights, tmp_path / "out", "--workers", "2", "--device", "cpu", meanwhile=look)
    assert code == 0, said
    assert {"gcs_server", "raylet"} <= set().union(*listening.values())
    assert set(listening) <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}, listening


@pytest.mark.full
def test_a_ray_that_is_too_slow_to_start_says_that_the_machine_is_busy(drive, weights, tmp_path):
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
