"""Settings of torch for a device and a precision."""

import torch

from models import ModelConfig, Reconstructor
from models.tuning import on_device, set_tf32, tf32_for, tf32_setting


def test_tf32_is_off_for_a_float32_network_only():
    before = tf32_setting()
    try:
        for dtype, allowed in ((torch.float32, False), (torch.bfloat16, True)):
            set_tf32(*tf32_for(dtype))
            assert torch.backends.cuda.matmul.allow_tf32 is torch.backends.cudnn.allow_tf32 is allowed
            assert tf32_setting() == (allowed, allowed)
    finally:
        set_tf32(*before)


def test_on_a_cpu_the_layout_of_weights_is_not_changed():
    model = Reconstructor(ModelConfig.city_tiny())
    assert on_device(model, torch.device("cpu")) is model
    assert model.depth_head.output1.weight.is_contiguous()
