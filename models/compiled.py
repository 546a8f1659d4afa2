"""Compiles parts of the network with torch.compile: one set of kernels serves all chunk lengths and image sizes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from models.block import Block
from models.context_memory import ContextMemory
from models.dense_head import DenseHead
from models.reconstructor import Reconstructor

# All different: the compiler would take two equal sizes for one, and compile again when they differ later.
_FRAMES, _ROWS, _COLS = 4, 3, 7
_CACHE = "TORCHINDUCTOR_CACHE_DIR"
# Methods that are compiled besides whole blocks. Products with float32 sums of bfloat16 operands are not: there is
# nothing to fuse into them.
_METHODS: dict[type[nn.Module], tuple[str, ...]] = {
    ContextMemory: ("keys_and_values", "hidden_gradients", "apply_to"),
    DenseHead: ("project_halves", "finish"),
}


class CompileError(ValueError):
    """torch.compile does not work on this machine."""


@torch.inference_mode()
def compile_blocks(model: Reconstructor, cache: Path | None = None) -> Reconstructor:
    """Compile blocks, memories and dense heads in place, for any sizes, and run four small frames through them once, so
    that no later chunk waits for the compiler. Returns the model.

    Norms, rotations, scales, residuals, resizes and the operations between two products of a memory are fused into few
    kernels. Products and convolutions use the libraries' kernels as before. cache: folder in which compiled kernels are
    kept for later starts on this machine, unless TORCHINDUCTOR_CACHE_DIR names one; None: torch's default. The first
    start takes most of a minute, a later one seconds. Raises CompileError if no compiler works here; the model is then
    unchanged.
    """
    if cache is not None:
        os.environ.setdefault(_CACHE, str(cache))
    for module in _modules(model):
        module.compile(dynamic=True)
    for owner, name in _methods(model):
        setattr(owner, name, torch.compile(getattr(owner, name), dynamic=True))
    patch = model.config.patch_size
    frames = torch.rand(_FRAMES, 3, _ROWS * patch, _COLS * patch, device=model.device)
    try:
        _run_once(model, frames)
    except Exception as error:
        plain_again(model)
        from torch._inductor.exc import InductorError  # takes seconds to import, unless compiling has imported it

        if not isinstance(error, torch._dynamo.exc.TorchDynamoException | InductorError):
            raise
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise CompileError(f"torch.compile does not work on this machine: {lines[0]}; do without it") from error
    return model


def plain_again(model: Reconstructor) -> Reconstructor:
    """Undo `compile_blocks`."""
    for module in _modules(model):
        module._compiled_call_impl = None
    for owner, name in _methods(model):
        plain = getattr(getattr(owner, name), "_torchdynamo_orig_callable", None)
        if plain is None:
            continue  # was never compiled
        if getattr(plain, "__self__", None) is owner:
            delattr(owner, name)  # the class has the plain method
        else:
            setattr(owner, name, plain)
    return model


def _modules(model: Reconstructor) -> Iterator[nn.Module]:
    """All blocks, and of the dense heads the two fusion blocks that work on large maps; the maps of the others may be
    one row high."""
    for module in model.modules():
        if isinstance(module, Block):
            yield module
        elif isinstance(module, DenseHead):
            yield from module.fusion[:2]


def _methods(model: Reconstructor) -> Iterator[tuple[nn.Module, str]]:
    for module in model.modules():
        for kind, names in _METHODS.items():
            if isinstance(module, kind):
                yield from ((module, name) for name in names)


def _run_once(model: Reconstructor, frames: torch.Tensor) -> None:
    """Run one chunk as the pipeline does, with projected features."""
    aggregator = model.aggregator
    state = model.begin(model.encode(frames)[None], model.grid_of(frames))
    for segment in range(len(model.config.segments)):
        state = aggregator.run_segment(state, model.keep_projected)
        step = aggregator.memory_step(state)
        weights = None
        if step is not None:
            weights = aggregator.memory_update(segment, step, torch.float32).to(state.tokens.dtype)
        state = aggregator.finish_segment(state, weights, model.keep_projected)
    model.predict(state, list(range(len(frames))), projected=True)
