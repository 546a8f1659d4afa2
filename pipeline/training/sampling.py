"""Draws the batch of each step from the seed: lengths of chunks, groups inside a worker, groups across workers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.config import MemoryScope
from pipeline.training.config import BatchSettings
from pipeline.training.data import Batch, Clip, colour_jittered, draw_chunk, make_batch

_MOST_GROUPS = 3  # groups in a batch
_MOST_OWN_MEMORIES = 6  # chunks in a batch in which each has a separate memory


@dataclass(frozen=True)
class StepPlan:
    """The shape of a step's batch. It is equal on all workers, except for chunks, group and block.

    length: frames per chunk; chunks: per worker; group: chunks of a group inside this worker; scope: of the memories;
    block: the ranks that share this rank's group of chunks.
    """

    length: int
    chunks: int
    group: int
    scope: MemoryScope
    block: range


def plan_step(settings: BatchSettings, seed: int, step: int, world: int, rank: int) -> StepPlan:
    """The plan of one step for one rank.

    The ranks are split at random into blocks of neighbouring ranks (`split_ranks`); there are few such blocks, so their
    process groups can be made once. All workers of a block of several ranks share one group of chunks.
    """
    rng = np.random.default_rng([seed, step, 1])
    longest = min(settings.short_longest, settings.longest) if step < settings.short_steps else settings.longest
    # 60 % of the steps over all lengths, the others over the longer half, since drives are cut into long chunks
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
        chunks = min(chunks, _MOST_OWN_MEMORIES)  # otherwise these steps would take much longer than others
    sizes = [2**i for i in range(chunks.bit_length()) if 2**i <= min(chunks, settings.largest_group)]
    # each group needs an update of every memory, which takes as long as several chunks of a small network
    sizes = [size for size in sizes if chunks // size <= _MOST_GROUPS] or sizes[-1:]
    group = int(sizes[rng.integers(len(sizes))])
    block = next(b for b in split_ranks(np.random.default_rng([seed, step, 2]), range(world)) if rank in b)
    if len(block) > 1:
        group = 2 ** (min(chunks, settings.largest_group).bit_length() - 1)
        return StepPlan(length, group, group, scope, block)
    return StepPlan(length, chunks // group * group, group, scope, block)


def split_ranks(rng: np.random.Generator, ranks: range) -> list[range]:
    """A random split into blocks of neighbouring ranks. A block has a power of two ranks, or is the rest."""
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
    """This rank's batch of a step. The ranks of a block draw from one drive, mirrored or not on all of them."""
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
    return colour_jittered(own, make_batch(chunks, plan.group))


def draw_dense_frames(settings: BatchSettings, seed: int, step: int, length: int) -> list[int]:
    """The frames of each chunk for which the dense heads run in a step."""
    rng = np.random.default_rng([seed, step, 5])
    count = max(round(settings.dense_share * length), 1)
    return sorted(int(i) for i in rng.choice(length, count, replace=False))
