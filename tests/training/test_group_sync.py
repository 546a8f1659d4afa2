"""Two real processes train like one process with all chunks; gradients go through the memory's update and its sum."""

import pytest
import torch

from models import Reconstructor
from pipeline.training.config import BatchSettings, OptimizerSettings, TrainConfig
from pipeline.training.data import make_batch
from pipeline.training.group_sync import GroupPeers
from pipeline.training.objective import LossWeights, Objective
from pipeline.training.sampling import StepPlan
from pipeline.training.trainer import Alone, Trainer
from tests.forward.test_memory_sync import on_ranks
from tests.training.makers import SMALL, WallSource, wall_drive

pytestmark = pytest.mark.cluster


def _trainer(peers, steps=4):
    torch.manual_seed(0)
    model = Reconstructor(SMALL)
    for memory in model.aggregator.memories.values():
        torch.nn.init.normal_(memory.proj.weight, std=0.05)
    loss = LossWeights(points=0.5, steps=0.5)
    config = TrainConfig(
        output="unused",
        steps=steps,
        loss=loss,
        batch=BatchSettings(frames=8, longest=4),
        optimizer=OptimizerSettings(warmup=1, memory_rate=1e-3, backbone_rate=1e-3),
    )
    return Trainer(config, model, Objective(SMALL.embed_dim, SMALL.patch_size, loss), WallSource(), peers)


def _gradients(rank, world, shared):
    trainer = _trainer(Alone() if world == 1 else GroupPeers(torch.device("cpu")))
    chunks = [wall_drive(seed, 4) for seed in range(4)]
    batch = make_batch(chunks, 4)
    if world == 2:  # each process holds half of the group's chunks, with the scale of the whole group
        half = slice(2 * rank, 2 * rank + 2)
        batch = type(batch)(**{k: v[half] for k, v in batch.state().items()}, offsets=batch.offsets, group=2)
    plan = StepPlan(4, len(batch.images), len(batch.images), "drive", range(world if shared else 1))
    if not shared:
        plan = StepPlan(4, len(batch.images), 2, "drive", range(rank, rank + 1))
    total, _ = trainer.loss(batch, plan, [0, 1, 2, 3])
    total.backward()
    trainer.peers.average_gradients(trainer.parameters)
    names = [n for n, p in trainer.model.named_parameters() if p.requires_grad]
    grads = dict(zip(names, [p.grad for p in trainer.model.parameters() if p.requires_grad], strict=True))
    return {n: g for n, g in grads.items() if g is not None}


@pytest.mark.parametrize("shared", [True, False])
def test_gradients_of_two_processes_equal_those_of_one_that_holds_all_chunks(shared):
    """shared: one memory over both processes; else each process's group has its own.

    The tolerance is needed for the rates' bias only: its gradient is the difference of large terms, since the update
    does not depend on the length of a step. All other gradients agree to 1e-5.
    """
    one = _gradients(0, 1, shared)
    two = on_ranks(2, _gradients, shared)
    for rank in (0, 1):
        for name, expected in one.items():
            difference = (two[rank][name] - expected).norm()
            assert difference <= 3e-3 * expected.norm() + 2e-6, (name, difference, expected.norm())
    memory = one["aggregator.memories.1.w0"]
    assert memory.abs().max() > 1e-8  # the start weights do get a gradient through the update


def _train(rank, world, steps):
    trainer = _trainer(GroupPeers(torch.device("cpu")), steps)
    for step in range(steps):
        trainer.advance(step / steps)
    return dict(trainer.model.state_dict())


def test_workers_stay_equal_over_steps_with_random_groups():
    states = on_ranks(2, _train, 4)
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name]), name
