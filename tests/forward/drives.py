"""A small invented drive for the forward stage: frames, chunks, and the windows that the stream would give."""

import tempfile
from collections.abc import Iterator

import numpy as np
import torch

from models import Reconstructor
from pipeline.forward.budgets import Budgets
from pipeline.forward.loop_chunks import LoopChunk
from pipeline.forward.phases import ChunkWindow, DriveShare
from pipeline.forward.state_store import TieredStore
from pipeline.ingest.chunks import owned_frames, plan_chunks, rank_chunks
from tests.networks import small_network

# two memories and a tail without one
CONFIG = small_network(depth=5, dense_layers=(0, 1, 3, 4))
FRAMES, CHUNK, OVERLAP = 17, 6, 3
CHUNKS = plan_chunks(FRAMES, CHUNK, OVERLAP)


def network() -> Reconstructor:
    """A network with made-up weights whose memories have an effect, the same in every process."""
    torch.manual_seed(3)
    model = Reconstructor(CONFIG).eval().requires_grad_(False)
    for memory in model.aggregator.memories.values():
        torch.nn.init.normal_(memory.proj.weight, std=0.2)  # the gate of a new memory is closed
    return model


def frames() -> np.ndarray:
    """Images (N, 28, 56, 3) uint8."""
    return np.random.default_rng(5).integers(0, 256, (FRAMES, 28, 56, 3), dtype=np.uint8)


def share_of(rank: int, world_size: int) -> DriveShare:
    """A rank's share when the first `world_size` ranks share the chunks; other ranks have none."""
    mine = rank_chunks(len(CHUNKS), world_size)[rank] if rank < world_size else range(0)
    owned = owned_frames(CHUNKS)
    return DriveShare("made-up", FRAMES, {k: CHUNKS[k] for k in mine}, {k: owned[k] for k in mine}, len(CHUNKS))


def windows_of(share: DriveShare, bad: frozenset[int] = frozenset()) -> Iterator[ChunkWindow]:
    """The chunks' images in time order; frames in `bad` are flagged."""
    images = frames()
    for number, chunk in share.chunk_frames.items():
        ok = np.array([frame not in bad for frame in chunk])
        yield number, images[list(chunk)], ok, tuple(None if good else "corrupt" for good in ok)


LOOPS = (LoopChunk(2, 13, 0.9, (1, 2, 3, 12, 13)), LoopChunk(0, 16, 0.7, (0, 1, 15, 16)))


class FixedFinder:
    """Always finds the same two loops; remembers what it was asked."""

    def describe(self, tokens, grid, images):
        return tokens.mean(1)

    def find(self, descriptors, usable, cameras=1):
        self.asked = descriptors, usable
        return LOOPS


def read_again(wanted):
    """Random access to the frames, all good."""
    return frames()[list(wanted)], np.ones(len(wanted), bool), (None,) * len(wanted)


def host_store(host: int = 10**9, scratch: int = 0) -> TieredStore:
    """A store of this machine's host memory, and of disk where asked for."""
    return TieredStore(torch.device("cpu"), Budgets(0, host, scratch, tempfile.gettempdir()))
