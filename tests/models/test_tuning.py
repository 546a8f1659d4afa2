"""What is set for a device and a precision."""

import torch

from models import ModelConfig, Reconstructor
from models.tuning import float32_products, on_device, products_beside, set_float32_products


def test_float32_products_are_exact_beside_a_float32_network_only():
    before = float32_products()
    try:
        for dtype, allowed in ((torch.float32, False), (torch.bfloat16, True)):
            set_float32_products(*products_beside(dtype))
            assert torch.backends.cuda.matmul.allow_tf32 is torch.backends.cudnn.allow_tf32 is allowed
            assert float32_products() == (allowed, allowed)
    finally:
        set_float32_products(*before)


def test_on_a_cpu_weights_stay_as_they_lie():
    model = Reconstructor(ModelConfig.city_tiny())
    assert on_device(model, torch.device("cpu")) is model
    assert model.depth_head.output1.weight.is_contiguous()
