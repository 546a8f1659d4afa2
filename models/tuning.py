"""Settings of torch that make the network faster on its device, within the precision that was requested."""

from __future__ import annotations

import torch

from models.reconstructor import Reconstructor


def tf32_for(precision: torch.dtype) -> tuple[bool, bool]:
    """Whether (products, convolutions) in float32 may use TF32 on a GPU: yes if the network runs in bfloat16.

    TF32 keeps 10 bits of the operands' fractions, three more than bfloat16, and sums in float32, so it is more precise
    than the rest of such a network. For a float32 network both are off; torch's default for convolutions is on.
    """
    return (precision == torch.bfloat16,) * 2


def set_tf32(products: bool, convolutions: bool) -> None:
    """Allow TF32 in this process for float32 products, and for float32 convolutions."""
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = products, convolutions


def tf32_setting() -> tuple[bool, bool]:
    """The current setting (products, convolutions) of `set_tf32`."""
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


def on_device(model: Reconstructor, device: torch.device) -> Reconstructor:
    """Move the network to a device; returns it. On a GPU, the weights of the dense heads are stored channels last, like
    their maps, so that no kernel has to convert a layout.
    """
    model = model.to(device)
    if device.type == "cuda":
        for head in (model.depth_head, model.point_head):
            head.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model
