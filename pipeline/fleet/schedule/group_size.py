"""How many groups a run has, how many ranks each group has, and how much memory a rank may use for chunk states."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass

import ray

from pipeline.common.ray_session import cluster_address
from pipeline.config import RunConfig
from pipeline.forward.gpus import ranks_said, uses_gpus

# Share of a machine's free memory (as Ray reports it), as in pipeline.forward.budgets.
_MEMORY_SHARE = 0.5


@dataclass(frozen=True)
class GroupSize:
    """groups: number that run in parallel; workers: ranks of each; gpus: of all groups together; in_process: the only
    rank runs in the driver; rank_bytes: memory of a rank for chunk states; cpus: of the whole cluster."""

    groups: int
    workers: int
    gpus: int
    in_process: bool
    rank_bytes: int
    cpus: float = 0.0

    @staticmethod
    def of(config: RunConfig) -> GroupSize:
        """The size by the settings and the cluster to which Ray is connected."""
        in_cluster = cluster_address(config.address) is not None
        on_gpus = uses_gpus(config.device, in_cluster)
        gpus = int(ray.cluster_resources().get("GPU", 0)) if on_gpus else 0
        workers = config.workers or 1
        groups = config.groups or max(1, gpus // workers)
        alone = not in_cluster and groups == workers == 1
        per_rank = rank_memory(config, on_gpus, groups * workers)
        cpus = float(ray.cluster_resources().get("CPU", 0))
        return GroupSize(groups, workers, groups * workers if on_gpus else 0, alone, per_rank, cpus)

    @property
    def said(self) -> str:
        """The size in words."""
        ranks = ranks_said(self.workers, self.gpus > 0, self.in_process)
        return f"{self.groups} group{'s' if self.groups > 1 else ''} of {ranks}"


def rank_memory(config: RunConfig, on_gpus: bool, ranks: int) -> int:
    """Bytes of chunk states that a rank may hold in memory: --host-memory, else its share of the smallest machine that
    has GPUs. States beyond it wait on disk, which is slower, so a group should be large enough to avoid that. Before
    the first machine with a GPU is up, every drive is assumed to fit."""
    if config.budgets.host is not None:
        return config.budgets.host
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    fitting = [node for node in nodes if node.get("GPU", 0)] if on_gpus else nodes
    shares = [node.get("memory", 0) / (node.get("GPU", 0) or math.ceil(ranks / max(len(nodes), 1))) for node in fitting]
    return int(min(shares) * _MEMORY_SHARE) if shares else sys.maxsize
