"""The order of frames inside a chunk, and the state of a chunk between two layers."""

import pytest
import torch

from models.tokens import ChunkState, middle_first, time_offsets


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        ([7], [7]),
        ([7, 8], [7, 8]),
        ([7, 8, 9], [8, 7, 9]),
        ([0, 1, 2, 3], [1, 0, 2, 3]),
        ([3, 4, 5, 6, 7], [5, 3, 4, 6, 7]),
    ],
)
def test_the_middle_frame_comes_first_and_the_others_keep_their_order(frames, expected):
    assert middle_first(frames) == expected


@pytest.mark.parametrize("count", range(1, 70))
def test_the_reference_is_the_middle_frame_the_earlier_of_two(count):
    order = middle_first(list(range(count)))
    assert order[0] == -(-count // 2) - 1
    assert sorted(order) == list(range(count))
    assert order[1:] == sorted(order[1:])


def test_time_offsets_count_from_the_reference_in_the_networks_order():
    assert time_offsets(5) == [0, -2, -1, 1, 2]
    assert time_offsets(4) == [0, -1, 1, 2]
    assert time_offsets(1) == [0]


def _state() -> ChunkState:
    return ChunkState(
        tokens=torch.zeros(1, 2, 11, 8),
        grid=(2, 3),
        next_segment=1,
        features={0: torch.ones(1, 2, 6, 16)},
        camera=torch.full((1, 2, 16), 2.0),
        frame_half=torch.full((1, 2, 11, 8), 3.0),
        special=torch.full((1, 2, 5, 8), 4.0),
        frame_camera=torch.full((1, 2, 8), 5.0),
    )


def test_a_state_counts_the_bytes_of_every_tensor_it_holds():
    state = _state()
    assert state.nbytes == 4 * (2 * 11 * 8 + 2 * 6 * 16 + 2 * 16 + 2 * 11 * 8 + 2 * 5 * 8 + 2 * 8)
    assert ChunkState(tokens=torch.zeros(1, 2, 11, 8), grid=(2, 3)).nbytes == 4 * 2 * 11 * 8
    assert state.patches == 6


def test_a_state_is_mapped_whole():
    def away(tensor):
        return None if tensor is None else tensor.to("meta")

    moved = _state().map(away)
    tensors = [moved.tokens, moved.features[0], moved.camera, moved.frame_half, moved.special, moved.frame_camera]
    assert all(t.device.type == "meta" for t in tensors)
    assert (moved.grid, moved.next_segment) == ((2, 3), 1)
    bare = ChunkState(tokens=torch.zeros(1, 2, 11, 8), grid=(2, 3)).map(away)
    assert bare.camera is None
    assert (bare.frame_half, bare.special, bare.frame_camera) == (None, None, None)
