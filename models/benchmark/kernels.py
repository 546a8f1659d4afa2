"""Counts kernels, bytes and casts of the network's parts on tensors without data, so that no GPU is needed.

Every operation except views counts as one kernel that reads its inputs and writes its outputs once. This holds on a
GPU, except inside the libraries' matrix products. Attention and the RMS norm count as one kernel each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from models.benchmark.switches import Switch
from models.config import ModelConfig
from models.context_memory import ContextMemory
from models.reconstructor import Reconstructor

_FREE = ("aten::empty", "aten::detach", "prim::device", "aten::new_empty", "aten::_reshape_alias")


@dataclass
class Counted:
    """kernels: how many are started; nbytes: read and written by them; casts: kernels that only change the dtype."""

    kernels: int = 0
    nbytes: int = 0
    casts: int = 0


class _Kernels(TorchDispatchMode):
    def __init__(self, counted: Counted) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counted = counted

    # as torch declares it
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.name()
        if not func.is_view and not name.startswith(_FREE) and name != "aten::_unsafe_view":
            read = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
            written = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
            # a tensor given as `out=` is in both lists and is only written
            once = {id(tensor): tensor for tensor in (*read, *written)}.values()
            self.counted.kernels += 1
            self.counted.nbytes += sum(tensor.nbytes for tensor in once)
            copies = name.startswith(("aten::_to_copy", "aten::copy_"))
            self.counted.casts += copies and len({tensor.dtype for tensor in once}) > 1
        return out


class _OneKernel(TorchFunctionMode):
    """Counts attention and RMS norm as one kernel: without data, torch would split them into several operations."""

    def __init__(self, counted: Counted) -> None:
        super().__init__()
        self.counted = counted

    # as torch declares it
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in (F.scaled_dot_product_attention, F.rms_norm):
            return func(*args, **(kwargs or {}))
        out = args[0].clone() if func is F.rms_norm else torch.empty_like(args[0])
        if func is not F.rms_norm:  # the clone was counted
            self.counted.kernels += 1
            self.counted.nbytes += sum(tensor.nbytes for tensor in args[:3]) + out.nbytes
        return out


def count(work: Callable[[], object]) -> Counted:
    """Count the kernels of `work`, which must use tensors on the device `meta` only."""
    counted = Counted()
    with torch.no_grad(), _OneKernel(counted), _Kernels(counted):
        work()
    return counted


def count_parts(
    config: ModelConfig, frames: int, height: int, width: int, around: Switch | None = None
) -> dict[str, Counted]:
    """Counts for one frame block, one global block, a memory's step and read, and one pass of the depth head, in
    bfloat16.

    frames: of a chunk. around: a context in which to count, as in `switches`. Constants that are made once are not
    counted. A network without memories has no counts for them.
    """
    with torch.device("meta"):
        model = Reconstructor(config).requires_grad_(False).set_precision(torch.bfloat16).eval()
        grid = (height // config.patch_size, width // config.patch_size)
        aggregator, d = model.aggregator, config.embed_dim
        patches = grid[0] * grid[1]
        tokens = torch.empty(1, frames, config.special_tokens + patches, d, dtype=torch.bfloat16)
        special = torch.empty(frames, config.special_tokens, d)
        projected = [torch.empty(8, patches, c, dtype=torch.float32) for c in config.dense_channels]
        if config.dense_skip:
            cells = config.patch_size // 4
            projected.append(torch.empty(8, patches, cells * cells * config.motion_channels))
    rope = aggregator._table(grid, d // config.num_heads, config.special_tokens)
    parts: dict[str, Callable[[], object]] = {
        "frame block": lambda: aggregator.frame_blocks[0](tokens[0], rope, special),
        "global block": lambda: aggregator.global_blocks[0](tokens.flatten(1, 2), rope, special),
        "depth head, 8 frames": lambda: model.depth_head.fuse(projected, grid),
    }
    if config.memory_layers:
        memory = aggregator.memories[str(config.memory_layers[0])]
        assert isinstance(memory, ContextMemory)
        table = aggregator._table(grid, d, 0)
        x = tokens[:, :, config.special_tokens :].flatten(1, 2)
        weights = memory.start.to(torch.bfloat16)
        parts |= {
            "memory step": lambda: memory.step(x, table),
            "memory read": lambda: memory.apply_to(x, weights, table),
        }
    counted = {}
    for name, work in parts.items():
        if around is None:
            count(work)  # makes the constants
            counted[name] = count(work)
        else:
            with around(model):
                counted[name] = count(work)
    return counted
