"""Which chunks a step sees: lengths, groups inside a worker, groups across workers, all from the seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.reconstructor import MemoryScope
from pipeline.training.config import BatchSettings
from pipeline.training.data import Batch, Clip, coloured, draw_chunk, make_batch

_MOST_GROUPS = 3
_MOST_OWN_MEMORIES = 6


@dataclass(frozen=True)
class StepPlan:
    """What all workers agree on before a step. block: the ranks that share this rank's group of chunks.

    length: frames a chunk; chunks: chunks a worker; group: chunks of a group inside one worker.
    """

    length: int
    chunks: int
    group: int
    scope: MemoryScope
    block: range


def plan_step(settings: BatchSettings, seed: int, step: int, world: int, rank: int) -> StepPlan:
    """The plan of one step as one rank sees it; equal on all ranks but for the block.

    The ranks are split at random into blocks whose sizes are powers of two (any other random split is the same up
    to names, since data is drawn at random, and these process groups can be made once). A worker in a block
    of several holds one group, shared by the block.
    """
    rng = np.random.default_rng([seed, step, 1])
    longest = min(settings.short_longest, settings.longest) if step < settings.short_steps else settings.longest
    # most steps evenly over the lengths, the others among the longer ones, as drives are cut
    length = int(rng.integers(settings.shortest, longest + 1))
    if rng.random() < 0.4:
        length = int(rng.integers((settings.shortest + longest + 1) // 2, longest + 1))
    chance = rng.random()
    scope: MemoryScope = "drive"
    if chance < settings.without_memory:
        scope = "off"
    elif chance < settings.without_memory + settings.own_memory:
        scope = "chunk"
    chunks = max(settings.frames // length, 1)
    if scope == "chunk":
        chunks = min(chunks, _MOST_OWN_MEMORIES)  # fewer frames, else these steps would be by far the longest
    sizes = [2**i for i in range(chunks.bit_length()) if 2**i <= min(chunks, settings.largest_group)]
    # a group costs an update of every memory, as much as several chunks of a small network: few groups a step
    sizes = [size for size in sizes if chunks // size <= _MOST_GROUPS] or sizes[-1:]
    group = int(sizes[rng.integers(len(sizes))])
    block = next(b for b in split_ranks(np.random.default_rng([seed, step, 2]), range(world)) if rank in b)
    if len(block) > 1:
        group = 2 ** (min(chunks, settings.largest_group).bit_length() - 1)
        return StepPlan(length, group, group, scope, block)
    return StepPlan(length, chunks // group * group, group, scope, block)


def split_ranks(rng: np.random.Generator, ranks: range) -> list[range]:
    """A random split of neighbouring ranks into blocks; a block is a power of two or the whole odd rest."""
    if len(ranks) == 1 or rng.random() < 0.3:
        return [ranks]
    half = 2 ** ((len(ranks) - 1).bit_length() - 1)
    return split_ranks(rng, ranks[:half]) + split_ranks(rng, ranks[half:])


def all_blocks(ranks: range) -> list[range]:
    """Every block of more than one rank that `split_ranks` can give."""
    if len(ranks) == 1:
        return []
    half = 2 ** ((len(ranks) - 1).bit_length() - 1)
    return [ranks, *all_blocks(ranks[:half]), *all_blocks(ranks[half:])]


def draw_batch(
    drives: Sequence[Sequence[Clip]], plan: StepPlan, settings: BatchSettings, seed: int, step: int, rank: int
) -> Batch:
    """This rank's chunks of a step. Ranks of a block draw from one drive and share its mirror."""
    shared = np.random.default_rng([seed, step, 3, plan.block.start])
    own = np.random.default_rng([seed, step, 4, rank])
    source = shared if len(plan.block) > 1 else own
    chunks = []
    for _ in range(plan.chunks // plan.group):
        drive = drives[int(source.random() * len(drives))]
        mirror = bool(source.random() < settings.mirror)
        for _ in range(plan.group):
            stride = 2 if own.random() < settings.stride_two else 1
            chunks.append(draw_chunk(own, drive, plan.length, stride, mirror))
    return coloured(own, make_batch(chunks, plan.group))


def draw_dense_frames(settings: BatchSettings, seed: int, step: int, length: int) -> list[int]:
    """Which frames of each chunk the dense heads look at in a step."""
    rng = np.random.default_rng([seed, step, 5])
    count = max(round(settings.dense_share * length), 1)
    return sorted(int(i) for i in rng.choice(length, count, replace=False))
