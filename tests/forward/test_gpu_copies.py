"""Copies beside the computation: windows in their order, new frames only, the same numbers on the other side."""

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
def test_a_window_without_a_new_frame_brings_no_images(device):
    frames = {0: range(4), 1: range(4)}
    window = next(iter(_windows()))
    first, second = windows_ahead([window, (1, *window[1:])], frames, Copies(device))
    assert first.new == (0, 1, 2, 3) and second.new == () and second.images is None


@pytest.mark.parametrize("device", DEVICES)
def test_what_goes_wrong_while_a_window_is_read_is_raised_where_the_window_was_due(device):
    windows = windows_ahead(_windows(fail_at=1), FRAMES, Copies(device))
    assert next(windows).window[0] == 0
    with pytest.raises(ValueError, match="the store is gone"):
        next(windows)


@pytest.mark.parametrize("device", DEVICES)
def test_tensors_come_to_the_host_as_they_were_computed(device):
    x = torch.arange(12.0, device=device).view(3, 4)
    there = Copies(device).to_host(x * 2, x.T)
    x.add_(1)  # later work does not change what was on its way, unless it is the very tensor
    doubled, _ = there.get()
    assert doubled.device.type == "cpu"
    assert doubled.tolist() == (torch.arange(12.0).view(3, 4) * 2).tolist()
