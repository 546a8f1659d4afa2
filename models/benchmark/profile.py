"""The GPU time of each group of kernels; the groups are found by the kernels' names."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

# A kernel belongs to the first group of which a word is in its name.
_GROUPS = (
    ("attention", ("flash", "fmha", "attention", "sdpa")),
    ("convolutions", ("conv", "implicit", "wgrad", "dgrad", "nchw", "nhwc")),
    ("products", ("gemm", "gemv", "cutlass", "xmma", "nvjet", "matmul")),
    ("copies", ("memcpy", "memset")),
    ("norms", ("layer_norm", "layernorm", "rms_norm")),
    ("compiled", ("triton",)),
    ("elementwise and casts", ("elementwise", "cat", "copy", "reduce", "upsample")),
)


def group_of(kernel: str) -> str:
    """The group to which a kernel of this name belongs."""
    name = kernel.lower()
    return next((group for group, words in _GROUPS if any(word in name for word in words)), "others")


def kernel_seconds(work: Callable[[], object]) -> dict[str, tuple[float, int]]:
    """Seconds on the GPU and number of kernels by group, the most seconds first."""
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        work()
        torch.cuda.synchronize()
    groups: dict[str, tuple[float, int]] = {}
    for event in seen.key_averages():
        if event.self_device_time_total > 0:
            seconds, count = groups.get(group_of(event.key), (0.0, 0))
            groups[group_of(event.key)] = seconds + event.self_device_time_total / 1e6, count + event.count
    return dict(sorted(groups.items(), key=lambda row: -row[1][0]))
