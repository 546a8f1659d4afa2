"""The limits of a device (matrix and copy rates, attention kernel) and the network's number of operations."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from models.benchmark.modes import wait_for
from models.config import ModelConfig
from models.reconstructor import Reconstructor

_ATTENTION = "scaled_dot_product"


def seconds_of(work: Callable[[], object], device: torch.device, at_least: float = 0.5) -> float:
    """Mean seconds per call of `work`, over at least `at_least` seconds, after one call to warm up.

    On a CPU these are CPU seconds of all threads, so that other processes do not count; on a GPU, seconds of the clock.
    """
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    work()
    wait_for(device)
    begin, calls = clock(), 0
    while clock() - begin < at_least:
        work()
        calls += 1
        if device.type == "cuda" and calls % 8 == 0:
            wait_for(device)
    wait_for(device)
    return (clock() - begin) / calls


def matrix_rate(device: torch.device, dtype: torch.dtype, tokens: int, width: int) -> float:
    """FLOP/s of an MLP's first product at the network's own size: (tokens, width) @ (width, 4 width)."""
    a = torch.randn(tokens, width, device=device).to(dtype)
    b = torch.randn(width, 4 * width, device=device).to(dtype)
    return 2 * tokens * width * 4 * width / seconds_of(lambda: a @ b, device)


def copy_rate(device: torch.device, nbytes: int = 200_000_000) -> float:
    """Bytes/s of a copy from pinned host memory to the device and back; on a CPU, within host memory."""
    on_gpu = device.type == "cuda"
    there = torch.empty(nbytes, dtype=torch.uint8, pin_memory=on_gpu)
    back, here = torch.empty_like(there, pin_memory=on_gpu), torch.empty(nbytes, dtype=torch.uint8, device=device)

    def round_trip() -> None:
        here.copy_(there, non_blocking=True)
        back.copy_(here, non_blocking=True)

    return 2 * nbytes / seconds_of(round_trip, device)


class _OperationNames(TorchDispatchMode):
    """Collects the names of all operations that run inside it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.names.add(func.name())
        return func(*args, **(kwargs or {}))


def attention_kernel(device: torch.device, dtype: torch.dtype, heads: int, head_width: int) -> str:
    """Which kernel scaled_dot_product_attention uses for the network's shapes: "flash", "efficient", "cudnn", or
    "plain" if it uses separate products and a softmax."""
    q = torch.randn(1, heads, 256, head_width, device=device).to(dtype)
    with torch.inference_mode(False), torch.no_grad(), _OperationNames() as heard:
        F.scaled_dot_product_attention(q, q, q)
    for name in heard.names:
        if _ATTENTION in name:
            for kernel in ("flash", "efficient", "cudnn"):
                if kernel in name:
                    return kernel
    return "plain"


def flops_of_chunk(config: ModelConfig, frames: int, height: int, width: int, new_frames: int) -> dict[str, float]:
    """Floating point operations of one chunk in the fast path, by phase, counted on tensors without data.

    new_frames: how many are encoded; the other frames were encoded for the chunk before.
    """
    with torch.device("meta"):
        model = Reconstructor(config).requires_grad_(False).eval()
        images = torch.empty(new_frames, 3, height, width)
        grid = model.grid_of(images)
        tokens = torch.empty(1, frames, grid[0] * grid[1], config.embed_dim)
    counted: dict[str, float] = {}

    def count(name: str, work):  # type: ignore[no-untyped-def]
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            result = work()
        counted[name] = counted.get(name, 0.0) + counter.get_total_flops()
        return result

    encoded = count("encode", lambda: model.encode(images))
    if encoded.shape[-1] > config.embed_dim:  # the encoder appends fine features
        tokens = torch.empty(1, frames, *encoded.shape[1:], device="meta")
    state = model.begin(tokens, grid)
    for segment in range(len(config.segments)):
        state = count("layers", lambda state=state: model.aggregator.run_segment(state, model.keep_projected))
        step = count("memory steps", lambda state=state: model.aggregator.memory_step(state))
        weights = None
        if step is not None:
            weights = model.aggregator.memory_update(segment, step, torch.float32)
        state = count(
            "memory reads",
            lambda state=state, weights=weights: model.aggregator.finish_segment(state, weights, model.keep_projected),
        )
    count("heads", lambda: model.predict(state, list(range(frames)), projected=True))
    return counted
