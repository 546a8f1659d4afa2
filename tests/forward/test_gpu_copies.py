"""Copies run beside the computation: windows keep their order, only new frames are copied, numbers stay the same."""

import numpy as np
import pytest
import torch

from pipeline.forward.gpu_copies import Copies, windows_ahead

FRAMES = {0: range(4), 1: range(2, 6), 2: range(4, 8)}
DEVICES = [
    torch.device("cpu"),
    pytest.param(
        torch.device("cuda"),
        marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")],
    ),
]


def _windows(fail_at=None):
    for number, frames in FRAMES.items():
        if number == fail_at:
            raise ValueError("the store is gone")
        images = np.stack([np.full((4, 6, 3), frame, np.uint8) for frame in frames])
        yield number, images, np.ones(4, bool), (None,) * 4


@pytest.mark.parametrize("device", DEVICES)
def test_windows_come_in_order_with_the_frames_that_are_new_on_the_device(device):
    seen = []
    for arrived in windows_ahead(_windows(), FRAMES, Copies(device)):
        images = arrived.images.get()
        assert images.device.type == device.type and images.shape[1:] == (3, 4, 6)
        seen.append((arrived.window[0], arrived.new, images[:, 0, 0, 0].tolist()))
    assert seen == [(0, (0, 1, 2, 3), [0, 1, 2, 3]), (1, (2, 3), [4, 5]), (2, (2, 3), [6, 7])]


@pytest.mark.parametrize("device", DEVICES)
def test_a_window_without_a_new_frame_copies_no_images(device):
    frames = {0: range(4), 1: range(4)}
    window = next(iter(_windows()))
    first, second = windows_ahead([window, (1, *window[1:])], frames, Copies(device))
    assert first.new == (0, 1, 2, 3) and second.new == () and second.images is None


@pytest.mark.parametrize("device", DEVICES)
def test_an_error_while_a_window_is_read_is_raised_when_that_window_is_asked_for(device):
    windows = windows_ahead(_windows(fail_at=1), FRAMES, Copies(device))
    assert next(windows).window[0] == 0
    with pytest.raises(ValueError, match="the store is gone"):
        next(windows)


@pytest.mark.parametrize("device", DEVICES)
def test_tensors_reach_the_host_with_the_values_that_were_computed(device):
    x = torch.arange(12.0, device=device).view(3, 4)
    there = Copies(device).to_host(x * 2, x.T)
    x.add_(1)  # later work does not change a copy in progress, unless it writes to the same tensor
    doubled, _ = there.get()
    assert doubled.device.type == "cpu"
    assert doubled.tolist() == (torch.arange(12.0).view(3, 4) * 2).tolist()
