"""What makes the network fast on the device it is on and changes no number beyond the precision that was asked for."""

from __future__ import annotations

import torch

from models.reconstructor import Reconstructor


def set_float32_products(precision: torch.dtype) -> None:
    """Of this process: float32 products and convolutions through TF32 on GPUs beside a bfloat16 network, else exact.

    TF32 keeps 10 bits of the operands' fractions, three more than bfloat16, and sums in float32: finer than what the
    network beside it does. For a float32 network both are off, also for convolutions, where torch's default is on.
    """
    allowed = precision == torch.bfloat16
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed


def on_device(model: Reconstructor, device: torch.device) -> Reconstructor:
    """The network moved to a device, its dense heads' convolutions laid out channels last on a GPU, as their maps are:
    no kernel turns a map or a weight around. Returns the model.
    """
    model = model.to(device)
    if device.type == "cuda":
        for head in (model.depth_head, model.point_head):
            head.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model
