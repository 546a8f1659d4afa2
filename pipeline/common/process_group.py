"""How the ranks of a Ray Train group find each other: over the network, or by a file on one machine."""

from __future__ import annotations

import shutil
import tempfile
from datetime import timedelta
from pathlib import Path

import ray
import torch.distributed as dist
from ray.train.backend import Backend
from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend  # what ends a group; there is no public name for it
from ray.train.v2._internal.execution.worker_group import WorkerGroup

_LOOPBACK = "127.0.0.1"


def torch_config(use_gpu: bool, timeout_s: int) -> TorchConfig:
    """For a TorchTrainer: NCCL on GPUs, else gloo; a collective that takes longer than `timeout_s` fails.

    Where Ray runs on this machine alone, the ranks use a file: torch's TCPStore listens on all interfaces and does not
    authenticate.
    """
    backend = "nccl" if use_gpu else "gloo"
    if [node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]] == [_LOOPBACK]:
        return _MeetByFile(backend=backend, timeout_s=timeout_s)
    return TorchConfig(backend=backend, timeout_s=timeout_s)


class _MeetByFile(TorchConfig):
    @property
    def backend_cls(self) -> type[Backend]:
        return _FileBackend


class _FileBackend(_TorchBackend):
    def __init__(self) -> None:
        self._folder: Path | None = None

    def on_start(self, worker_group: WorkerGroup, backend_config: TorchConfig) -> None:
        """Ray calls it when all workers of a group are there."""
        self._folder = Path(tempfile.mkdtemp(prefix="city-group-"))  # for this user alone
        ranks = len(worker_group)
        settings = (backend_config.backend, f"file://{self._folder}/meeting", ranks, backend_config.timeout_s)
        ray.get([worker_group.execute_single_async(rank, _join, rank, *settings) for rank in range(ranks)])

    def on_shutdown(self, worker_group: WorkerGroup, backend_config: TorchConfig) -> None:
        """Ray calls it when a group ends."""
        super().on_shutdown(worker_group, backend_config)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def _join(rank: int, backend: str, place: str, ranks: int, timeout_s: int) -> None:
    dist.init_process_group(
        backend, init_method=place, rank=rank, world_size=ranks, timeout=timedelta(seconds=timeout_s)
    )
