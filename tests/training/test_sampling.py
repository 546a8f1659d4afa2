"""Plans of steps: consistent on all ranks, with groups that fit, and all chunk lengths occur."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.training.config import BatchSettings
from pipeline.training.sampling import all_blocks, draw_batch, plan_step, split_ranks
from tests.training.makers import WallSource


@given(st.integers(0, 10**6), st.integers(1, 17))
def test_blocks_split_the_ranks_and_all_of_them_have_process_groups(seed, world):
    blocks = split_ranks(np.random.default_rng(seed), range(world))
    assert [rank for block in blocks for rank in block] == list(range(world))
    assert all(len(block) == 1 or block in all_blocks(range(world)) for block in blocks)


@given(st.integers(0, 10**6), st.integers(1, 8))
def test_all_ranks_of_a_step_agree_and_a_shared_group_fills_its_worker(step, world):
    plans = [plan_step(BatchSettings(), 0, step, world, rank) for rank in range(world)]
    for rank, plan in enumerate(plans):
        assert rank in plan.block and plan.chunks % plan.group == 0
        assert (plan.length, plan.scope) == (plans[0].length, plans[0].scope)
        assert all(plans[other].block == plan.block for other in plan.block)
        if len(plan.block) > 1:
            assert plan.chunks == plan.group


def test_every_length_and_scope_is_drawn():
    settings = BatchSettings(shortest=2, longest=6)
    plans = [plan_step(settings, 0, step, 1, 0) for step in range(400)]
    assert {p.length for p in plans} == {2, 3, 4, 5, 6}
    assert {p.scope for p in plans} == {"drive", "chunk", "off"}
    assert {p.group for p in plans} >= {2, 4, 8}


@pytest.mark.parametrize("frames", [32, 96, 256])
def test_the_shares_of_scopes_hold_for_any_number_of_frames(frames):
    settings = BatchSettings(frames=frames, longest=12, largest_group=32, without_memory=0.2, own_memory=0.3)
    plans = [plan_step(settings, 0, step, 1, 0) for step in range(1000)]
    share = {scope: sum(p.scope == scope for p in plans) / len(plans) for scope in ("off", "chunk", "drive")}
    assert share == pytest.approx({"off": 0.2, "chunk": 0.3, "drive": 0.5}, abs=0.05)
    assert max(p.chunks for p in plans if p.scope == "chunk") <= 6  # every chunk's memory is updated by itself


def test_first_steps_can_be_kept_to_short_chunks():
    settings = BatchSettings(shortest=2, longest=10, short_steps=50, short_longest=3)
    lengths = [plan_step(settings, 0, step, 1, 0).length for step in range(200)]
    assert max(lengths[:50]) == 3 and max(lengths[50:]) == 10


def test_a_step_draws_the_same_batch_again_and_another_for_another_rank():
    settings = BatchSettings(frames=16, longest=8)
    drives = WallSource().drives()
    plan = plan_step(settings, 0, 5, 1, 0)
    first, again, other = (draw_batch(drives, plan, settings, 0, 5, rank) for rank in (0, 0, 1))
    assert (first.images == again.images).all() and not (first.images == other.images).all()
