import numpy as np
import pytest
import torch

from models.tokens import ChunkState
from pipeline.forward.state_store import HostStore, WaitingChunk


def waiting(number):
    state = ChunkState(torch.full((1, 2, 7, 4), float(number)), (1, 2), features={0: torch.ones(1, 2, 2, 8)})
    return WaitingChunk(
        number, range(2), state, np.zeros((2, 14, 28, 3), np.uint8), np.ones(2, bool), (None, None)
    )


def test_what_is_put_comes_back_once():
    store = HostStore(torch.device("cpu"))
    for number in (3, 5):
        store.put(waiting(number))
    assert store.nbytes == 2 * (2 * 7 * 4 * 4 + 2 * 2 * 8 * 4 + 2 * 14 * 28 * 3)
    back = store.take(5)
    assert back.number == 5
    assert torch.equal(back.state.tokens, torch.full((1, 2, 7, 4), 5.0))
    with pytest.raises(KeyError):
        store.take(5)
    store.clear()
    assert store.nbytes == 0
