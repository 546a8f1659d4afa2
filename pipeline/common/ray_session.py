"""Joins a Ray cluster or starts Ray on this machine, for every job, and says in one line why that fails."""

from __future__ import annotations

import logging
import os
import re
import secrets
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray
from ray._private import auto_init_hook, ray_constants
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.core.generated.autoscaler_pb2 import DrainNodeReason

from pipeline.common.waits import long_call, say_wait
from pipeline.errors import ClusterError

_LOOK_EVERY_S = 0.5
# A head that is being restarted comes back within seconds. Ray itself tries a dead address for seven minutes.
_ANSWERS_WITHIN_S = 20.0
_STARTS_WITHIN_S = 60.0  # on a busy machine; its own limit is 30 s for one of its processes
# Where the processes of a Ray for this machine alone listen. The names are read by Ray, by Gloo and by NCCL.
_LOOPBACK = "127.0.0.1"
_ONLY_HERE = {ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR: "0", "GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
_ADDRESS = re.compile(r"(?:ray://)?(\[[0-9a-fA-F:]+\]|[^:/\[\]]+):(\d+)")


# Without this, a thread that still runs when a run is stopped would join any cluster that it finds on this machine.
auto_init_hook.enable_auto_connect = False


def cluster_address(address: str | None = None) -> str | None:
    """The cluster to join: `address`, else RAY_ADDRESS (set in a submitted job). None: start Ray on this machine."""
    return address or os.environ.get("RAY_ADDRESS") or None


def start_ray(address: str | None = None, ranks: int = 1) -> None:
    """Join `cluster_address(address)`; where it is None, start Ray on this machine for this process alone, with room
    for so many ranks. Does nothing where Ray runs in this process already.

    Raises ClusterError where that fails.
    """
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    for name in ("ray.data", "ray.train"):  # the job has progress lines of its own
        logging.getLogger(name).setLevel(logging.ERROR)
    address = cluster_address(address)
    try:
        with _own_sigterm():
            if address:
                _check_answers(address)
                with long_call(f"the Ray cluster at {address} to let this process in", _STARTS_WITHIN_S):
                    ray.init(address=address, log_to_driver=False, logging_level="warning")
                return
            _make_token_without_home()
            with _listening_only_here(), long_call("Ray to start on this machine", _STARTS_WITHIN_S):
                ray.init(
                    address="local",  # else Ray joins the newest cluster of another run here, and ends with it
                    # one more core for each rank: these cores decode the frames that the ranks wait for
                    num_cpus=(os.cpu_count() or 1) + ranks,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level="error",
                    _node_ip_address=_LOOPBACK,
                )
    except KeyboardInterrupt:
        ray.shutdown()
        raise
    except ClusterError:
        raise
    except Exception as error:  # Ray raises a bare Exception where its processes are too slow
        ray.shutdown()  # else the processes that did start stay until this one ends
        raise ClusterError(_why_not(error, address)) from error


def _make_token_without_home() -> None:
    """Ray keeps its clients' token below the home folder. Where nothing can be written there (a container's user
    without a home), this makes a token for the Ray of this process, which Ray's processes inherit."""
    if any(os.environ.get(name) for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")):
        return
    try:
        folder = Path.home() / ".ray"
        there = (folder / "auth_token").is_file() or os.access(folder if folder.is_dir() else folder.parent, os.W_OK)
    except (RuntimeError, OSError):  # a user that the machine does not know; a home that may not be looked into
        there = False
    if not there:
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


@contextmanager
def _listening_only_here() -> Iterator[None]:
    """Every port of the Ray that is started inside binds to loopback, and so do those of its workers' groups.

    Ray replaces 127.0.0.1 by the machine's outer address, unless it is told that there will be no cluster (the default
    on macOS and Windows). Its servers bind to loopback alone where loopback is the node's address. The workers inherit
    these variables. This process may join a cluster later, so it gets its former values back.
    """
    names = {name: value for name, value in _ONLY_HERE.items() if not name.endswith("_IFNAME") or _has_loopback()}
    before = {name: os.environ.get(name) for name in names}
    cluster = ray_constants.ENABLE_RAY_CLUSTER
    for name, value in names.items():
        if name not in os.environ or not name.endswith("_IFNAME"):
            os.environ[name] = value
    ray_constants.ENABLE_RAY_CLUSTER = False  # Ray read the variable when it was imported
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = cluster
        for name, old in before.items():
            if old is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = old


def _has_loopback() -> bool:
    return "lo" in (name for _, name in socket.if_nameindex())


def _check_answers(address: str) -> None:
    """Raises ClusterError where nothing listens at a cluster's address. An address without a port is left to Ray."""
    found = _ADDRESS.fullmatch(address.strip())
    if found is None:
        return
    host, port = found[1].strip("[]"), int(found[2])
    end = time.monotonic() + _ANSWERS_WITHIN_S
    said = False
    while True:
        try:
            with socket.create_connection((host, port), timeout=max(end - time.monotonic(), 1.0)):
                return
        except (OSError, OverflowError) as error:
            if time.monotonic() >= end or isinstance(error, (socket.gaierror, OverflowError)):
                raise ClusterError(_why_not(error, address)) from error
            if not said:
                say_wait(f"the Ray cluster at {address} to answer", _ANSWERS_WITHIN_S)
                said = True
            time.sleep(_LOOK_EVERY_S)


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Ray replaces our SIGTERM handler by one that ends the process with code 15. Inside this context a SIGTERM is an
    interruption; afterwards our handler is back."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit as leaving:
        raise KeyboardInterrupt from leaving
    finally:
        if threading.current_thread() is threading.main_thread() and before is not None:
            signal.signal(signal.SIGTERM, before)


def _why_not(error: Exception, address: str | None) -> str:
    said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    if address:
        return (
            f"cannot join the Ray cluster at {address} ({said}); check --address or RAY_ADDRESS, that the cluster is "
            "up and reachable from here, and its token (RAY_AUTH_MODE, RAY_AUTH_TOKEN)"
        )
    if "timed out during startup" in str(error):
        load = f", load {os.getloadavg()[0]:.0f} on {os.cpu_count()} cores" if hasattr(os, "getloadavg") else ""
        return (
            f"Ray did not start on this machine within its 30 s{load}: the machine is too busy; run the same command "
            "again when it is less so, or join a running cluster (--address)"
        )
    return f"Ray does not start on this machine ({said}); the logs of its processes are in /tmp/ray/session_latest/logs"


def drain_this_node(seconds: float) -> bool:
    """Tell the joined cluster that this process's node ends in so many seconds: Ray begins nothing new on the node and
    ends its processes once they are idle. Waits for that, and returns whether it happened in time. Ray never refuses a
    notice with the reason "preemption"; it may refuse one with the reason "idle".
    """
    context = ray.get_runtime_context()
    node = context.get_node_id()
    end = time.time() + seconds
    GcsClient(address=context.gcs_address).drain_node(
        node, DrainNodeReason.DRAIN_NODE_REASON_PREEMPTION, "this machine goes away", int(end * 1000)
    )
    while time.time() < end:
        if not any(one["Alive"] for one in ray.nodes() if one["NodeID"] == node):
            return True
        time.sleep(_LOOK_EVERY_S)
    return False


@contextmanager
def ray_for_one_job() -> Iterator[None]:
    """Ends the Ray that the job started inside this context, also after an error."""
    was_there = ray.is_initialized()
    try:
        yield
    finally:
        if ray.is_initialized() and not was_there:
            # A thread that still reads when a run is stopped fails now: Ray Data would print a traceback of that.
            logging.getLogger("ray.data").setLevel(logging.CRITICAL)
            ray.shutdown()
