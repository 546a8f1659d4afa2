"""Switches that undo one optimisation of the network each, for the time of a `with`, to measure what it gains.

A switch replaces the optimised function by its plain twin, a simpler version that computes the same; tests compare
them. The switches in EAGER are measured without torch.compile, because the compiler fuses the plain twin too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

import models.block
import models.context_memory
import models.dense_head
from models.block import Block, LayerNorm
from models.compiled import plain_again
from models.context_memory import ContextMemory, RMSNorm
from models.dense_head import grid_embedding
from models.fast_weights import FastWeights
from models.reconstructor import Reconstructor
from models.rope import RopeTable
from models.tuning import set_tf32, tf32_setting

Switch = Callable[[Reconstructor], AbstractContextManager[object]]


def plain_layer_norm(norm: LayerNorm, x: Tensor) -> Tensor:
    """Computed in float32, between two casts."""
    return F.layer_norm(x.float(), norm.normalized_shape, norm.weight.float(), norm.bias.float(), norm.eps).to(x.dtype)


def plain_rms_norm(norm: RMSNorm, x: Tensor) -> Tensor:
    """Computed in float32, between two casts, one operation after the other."""
    eps = torch.finfo(x.dtype).eps if norm.eps is None else norm.eps
    y = x.float()
    y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + eps)
    return (y * norm.weight.float()).to(x.dtype)


def plain_rotate(x: Tensor, table: RopeTable) -> Tensor:
    """Quarters concatenated again, two products in float32, a sum and a cast."""
    length, positions = x.shape[-2], len(table.cos)
    if length != positions:
        x = x.unflatten(-2, (-1, positions))
    y1, y2, x1, x2 = x.chunk(4, dim=-1)
    unsigned = torch.cat([-part if i % 2 == 0 else part for i, part in enumerate(table.sin.chunk(4, dim=-1))], dim=-1)
    turned = torch.cat([-y2, y1, -x2, x1], dim=-1)
    out = (x * table.cos + turned * unsigned).to(x.dtype)
    return out if length == positions else out.flatten(-3, -2)


def plain_block(block: Block, x: Tensor, rope: RopeTable | None = None, special: Tensor | None = None) -> Tensor:
    """LayerScale and residual sum in two kernels; special tokens in one kernel more, which casts."""

    def total(x: Tensor, scaled: Tensor) -> Tensor:
        found = x + scaled
        if special is not None:
            frames, count, width = special.shape
            special.add_(scaled.view(frames, -1, width)[:, :count])
            found.view(frames, -1, width)[:, :count] = special
        return found

    x = total(x, block.attn(block.norm1(x), rope) * block.ls1.gamma)
    return total(x, block.mlp(block.norm2(x)) * block.ls2.gamma)


def plain_memory_step(memory: ContextMemory, x: Tensor, rope: RopeTable) -> FastWeights:
    """Start weights are cast for every chunk; keys, values and hidden units are cast to float32 to be summed."""
    width = x.shape[-1]
    k, v = F.linear(x, memory.qkv.weight[width:], memory.qkv.bias[width:]).chunk(2, dim=-1)
    k = models.context_memory.rotate(memory.k_norm(k), rope)  # type: ignore[attr-defined]  # the switched version
    eta = F.softplus(F.linear(x.float(), memory.lrs.weight.float(), memory.lrs.bias.float()) + memory.base)
    w0, w1, w2 = (w.to(k.dtype) for w in memory.start)
    g, u = k @ w0, k @ w2
    dh = v @ w1.transpose(-2, -1)
    sigmoid = torch.sigmoid(g)
    silu = g * sigmoid
    slope = sigmoid + silu * (1 - sigmoid)

    def over_tokens(rate: Tensor, left: Tensor, right: Tensor) -> Tensor:
        return (rate[..., None] * left.float()).transpose(-2, -1) @ right.float()

    eta0, eta1, eta2 = eta.unbind(-1)
    return FastWeights(
        over_tokens(eta0, k, dh * u * slope), over_tokens(eta1, silu * u, v), over_tokens(eta2, k, dh * silu)
    )


def plain_grid(
    channels: int, height: int, width: int, aspect: float, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """The grid embedding copied from the host every time."""
    return models.dense_head._GRID_SHARE * grid_embedding(channels, height, width, aspect)[None].to(device, dtype)


@contextmanager
def _patched(*places: tuple[object, str, object]) -> Iterator[None]:
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in places]
    try:
        for owner, name, twin in places:
            setattr(owner, name, twin)
        yield
    finally:
        for owner, name, old in before:
            setattr(owner, name, old)


@contextmanager
def _exact_float32(model: Reconstructor) -> Iterator[None]:
    before = tf32_setting()
    set_tf32(False, False)
    try:
        yield
    finally:
        set_tf32(*before)


@contextmanager
def _channels_first(model: Reconstructor) -> Iterator[None]:
    heads = (model.depth_head, model.point_head)
    try:
        for head in heads:
            head.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        yield
    finally:
        for head in heads:
            head.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _eight_frames(model: Reconstructor) -> AbstractContextManager[None]:
    return _patched(
        (Reconstructor, "_frames_by_tokens", lambda self, tokens: 8),
        (Reconstructor, "_frames_by_maps", lambda self, grid: 8),
    )


EAGER: dict[str, Switch] = {
    "norms without casts": lambda model: _patched(
        (LayerNorm, "forward", plain_layer_norm), (RMSNorm, "forward", plain_rms_norm)
    ),
    "rotation in three kernels": lambda model: _patched(
        (models.block, "rotate", plain_rotate), (models.context_memory, "rotate", plain_rotate)
    ),
    "LayerScale in the sum": lambda model: _patched((Block, "forward", plain_block)),
}
"""Switches that are measured without torch.compile: name of the optimisation -> the context that undoes it."""

ALWAYS: dict[str, Switch] = {
    "memory step in one pass": lambda model: _patched((ContextMemory, "step", plain_memory_step)),
    "as many frames as fill the card": _eight_frames,
    "maps and weights channels last": _channels_first,
    "grid embeddings on the device": lambda model: _patched((models.dense_head, "_scaled_grid", plain_grid)),
    "float32 products through TF32": _exact_float32,
}
"""Switches that are measured with everything else on, compiled if possible."""


@contextmanager
def all_undone(model: Reconstructor) -> Iterator[Reconstructor]:
    """The network with all optimisations undone, not compiled."""
    plain_again(model)
    with ExitStack() as stack:
        for switch in (*EAGER.values(), *ALWAYS.values()):
            stack.enter_context(switch(model))
        yield model
