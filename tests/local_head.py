"""Starts a real `ray start --head` with token authentication, with its own ports and folder; stops it by pid."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.s3_server import free_ports


@dataclass(frozen=True)
class LocalHead:
    """How to reach the head: export `environment`, as a user does in a shell."""

    environment: dict[str, str]
    dashboard: str
    metrics: str
    gcs: str
    folder: Path


@contextlib.contextmanager
def local_head(environment: Mapping[str, str] = {}, num_cpus: int = 3) -> Iterator[LocalHead]:
    """A head with its processes in one session, ended together. environment: what its workers shall see besides."""
    port, dashboard, agent, metrics, worker = free_ports(5)
    # a short path: paths of sockets have at most 107 characters
    folder = Path(tempfile.mkdtemp(prefix="rh", dir="/tmp"))
    env = {
        **{name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(16),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DISABLE_DOCKER_CPU_WARNING": "1",
        **environment,
    }
    ray = str(Path(sys.executable).with_name("ray"))
    command = [
        ray,
        "start",
        "--head",
        "--block",
        "--node-ip-address=127.0.0.1",
        f"--port={port}",
        "--dashboard-host=127.0.0.1",
        f"--dashboard-port={dashboard}",
        f"--dashboard-agent-listen-port={agent}",
        f"--metrics-export-port={metrics}",
        f"--temp-dir={folder}",
        f"--min-worker-port={worker + 11000}",
        f"--max-worker-port={worker + 11400}",
        f"--num-cpus={num_cpus}",
        "--object-store-memory=200000000",
        "--disable-usage-stats",
    ]
    log = open(folder / "start.log", "wb")  # noqa: SIM115  (the process keeps it)
    process = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
    try:
        address = f"http://127.0.0.1:{dashboard}"
        head = LocalHead(
            {**env, "RAY_ADDRESS": address},
            address,
            f"http://127.0.0.1:{metrics}/metrics",
            f"127.0.0.1:{port}",
            folder,
        )
        _wait(ray, head, process)
        yield head
    finally:
        _end(process)
        subprocess.run(["rm", "-rf", str(folder)], check=False)


def _wait(ray: str, head: LocalHead, process: subprocess.Popen[bytes], deadline_s: float = 120) -> None:
    """Wait until the head answers a job list with the token: its agent starts a little later than the page."""
    end = time.monotonic() + deadline_s
    while True:
        done = subprocess.run([ray, "job", "list"], env=head.environment, capture_output=True, text=True)
        if done.returncode == 0:
            return
        if process.poll() is not None or time.monotonic() > end:
            log = (head.folder / "start.log").read_text(errors="replace")[-2000:]
            raise RuntimeError(f"the head did not come up:\n{log}\n{done.stderr[-500:]}")
        time.sleep(1)


def _end(process: subprocess.Popen[bytes]) -> None:
    """The session of `ray start --block`: its head processes and all workers are in it or below it."""
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(15)
        for one in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        psutil.wait_procs(family, timeout=10)
    if process.poll() is None:
        process.kill()
    process.wait()
