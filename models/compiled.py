"""The network's transformer blocks through torch.compile: one set of kernels for every length of chunk and grid."""

from __future__ import annotations

import torch

from models.block import Block
from models.reconstructor import Reconstructor

_FRAMES, _ROWS, _COLS = 3, 2, 5  # sizes that differ: equal ones would be taken for one, and compiled again later


class CompileError(ValueError):
    """torch.compile does not work on this machine."""


@torch.inference_mode()
def compile_blocks(model: Reconstructor) -> Reconstructor:
    """Compile all blocks in place, with sizes left open, and run a drive of three small frames once, so that no
    later chunk waits for a compiler. Returns the model. Takes the better part of a minute.

    Norms, rotations and scales between the products become few kernels; the products stay those of the libraries.
    Raises CompileError where there is no compiler that works.
    """
    blocks = [module for module in model.modules() if isinstance(module, Block)]
    for block in blocks:
        block.compile(dynamic=True)
    patch, device = model.config.patch_size, model.aggregator.camera_token.device
    frames = torch.rand(_FRAMES, 3, _ROWS * patch, _COLS * patch, device=device)
    try:
        model.forward_drive(frames, [range(_FRAMES)], with_points=False)
    except torch._dynamo.exc.TorchDynamoException as error:
        for block in blocks:
            block._compiled_call_impl = None
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise CompileError(f"torch.compile does not work on this machine: {lines[0]}; do without it") from error
    return model
