"""What makes the network fast on the device it is on and changes no number beyond the precision that was asked for."""

from __future__ import annotations

import torch

from models.reconstructor import Reconstructor


def products_beside(precision: torch.dtype) -> tuple[bool, bool]:
    """Whether float32 products and convolutions may go through TF32 on a GPU: beside a bfloat16 network they may.

    TF32 keeps 10 bits of the operands' fractions, three more than bfloat16, and sums in float32: finer than what the
    network beside it does. For a float32 network both are off, also for convolutions, where torch's default is on.
    """
    return (precision == torch.bfloat16,) * 2


def set_float32_products(products: bool, convolutions: bool) -> None:
    """Allow TF32 in this process for float32 products, and for float32 convolutions."""
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = products, convolutions


def float32_products() -> tuple[bool, bool]:
    """What `set_float32_products` was told last, or torch's defaults."""
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


def on_device(model: Reconstructor, device: torch.device) -> Reconstructor:
    """The network moved to a device, its dense heads' convolutions laid out channels last on a GPU, as their maps are:
    no kernel turns a map or a weight around. Returns the model.
    """
    model = model.to(device)
    if device.type == "cuda":
        for head in (model.depth_head, model.point_head):
            head.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model
