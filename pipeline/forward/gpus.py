"""Finds out whether a run uses GPUs, and whether these have bfloat16: on this machine or in the joined cluster.

torch is imported only where this machine's GPUs are examined.
"""

from __future__ import annotations

from types import ModuleType

import ray

from pipeline.forward.network import Device

# How Ray names a node's kind of GPU among its resources, and the kinds older than bfloat16 (before NVIDIA's Ampere).
_KIND = "accelerator_type:"
_WITHOUT_BFLOAT16 = {"V100", "P100", "T4", "P4", "K80"}


def _cuda() -> ModuleType:
    import torch

    return torch.cuda


def ranks_said(workers: int, use_gpu: bool, in_process: bool) -> str:
    """The group in words, for the user."""
    kind = "GPU" if use_gpu else "CPU rank"
    return f"{workers} {kind}{'s' if workers > 1 else ''}{', in this process' if in_process else ''}"


def uses_gpus(device: Device, in_cluster: bool) -> bool:
    """Whether a run is on GPUs: as set, else where the joined cluster, or without one this machine, has any now."""
    if device == "auto":
        return bool(ray.cluster_resources().get("GPU", 0)) if in_cluster else _cuda().is_available()
    return device == "gpu"


def has_bfloat16(in_cluster: bool) -> bool:
    """Whether the GPUs compute in bfloat16: this machine's, or all kinds that the joined cluster has now. A cluster
    without GPUs yet is expected to get such GPUs."""
    if not in_cluster:
        return _cuda().is_available() and _cuda().is_bf16_supported(including_emulation=False)
    kinds = {name.removeprefix(_KIND) for name in ray.cluster_resources() if name.startswith(_KIND)}
    return not kinds & _WITHOUT_BFLOAT16


def check_gpus(device: Device, in_cluster: bool, workers: int) -> None:
    """Raises ValueError where a group can never get its GPUs: this machine lacks them, and no cluster is joined."""
    here = _cuda().device_count()
    if not in_cluster and uses_gpus(device, in_cluster) and here < workers:
        raise ValueError(
            f"a group of {workers} needs as many GPUs, and this machine has {here}: join a cluster that has them "
            f"(--address), or set --workers {here or 1}{'' if here else ' and --device cpu'}"
        )
