"""Real gloo processes: any number of ranks gives one rank's numbers, and no failure leaves one waiting."""

import socket
from datetime import timedelta

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from models.fast_weights import FastWeights
from pipeline.forward.memory_sync import GroupSync, LocalSync
from pipeline.forward.phases import DrivePhases, DroppedDrive, ForwardSettings
from pipeline.forward.state_store import HostStore
from tests.forward.drives import CHUNKS, network, share_of, windows_of

CPU = torch.device("cpu")


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def on_ranks(world_size, function, *args):
    """Run function(rank, world_size, queue, *args) in real processes; what they put into the queue."""
    context = mp.get_context("spawn")
    queue = context.SimpleQueue()
    port = free_port()
    mp.start_processes(_member, (world_size, port, function, queue, args), nprocs=world_size)
    results = {}
    while not queue.empty():
        rank, value = queue.get()
        results[rank] = value
    return results


def _member(rank, world_size, port, function, queue, args):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world_size,
        timeout=timedelta(seconds=60),
    )  # fmt: skip
    try:
        queue.put((rank, function(rank, world_size, *args)))
    finally:
        dist.destroy_process_group()


def _run_drive(rank, world_size, bad_rank=None, bad=frozenset()):
    share = share_of(rank, world_size)
    staged = {}
    phases = DrivePhases(
        network(), GroupSync(CPU), HostStore(CPU), ForwardSettings(), CPU, lambda phase, count: None
    )

    def windows():
        for place, window in enumerate(windows_of(share, bad)):
            if rank == bad_rank and place == 1:
                raise OSError("disk gone")
            yield window

    try:
        phases.run(share, windows(), staged.__setitem__)
    except DroppedDrive as dropped:
        return str(dropped)
    return {k: (p.depth, p.cam_from_world) for k, p in staged.items()}


def _alone():
    staged = {}
    phases = DrivePhases(
        network(), LocalSync(), HostStore(CPU), ForwardSettings(), CPU, lambda phase, count: None
    )
    phases.run(share_of(0, 1), windows_of(share_of(0, 1)), staged.__setitem__)
    return staged


@pytest.mark.cluster
@pytest.mark.parametrize("world_size", [2, 3, 7])  # 5 chunks: with 7 ranks two have none
def test_any_number_of_ranks_gives_the_numbers_of_one(world_size):
    expected = _alone()
    results = on_ranks(world_size, _run_drive)
    merged = {k: v for part in results.values() for k, v in part.items()}
    assert sorted(merged) == list(range(len(CHUNKS)))
    for number, (depth, cam_from_world) in merged.items():
        np.testing.assert_allclose(depth, expected[number].depth, rtol=1e-4)
        np.testing.assert_allclose(cam_from_world, expected[number].cam_from_world, rtol=1e-4, atol=1e-5)


@pytest.mark.cluster
def test_a_failure_on_one_rank_drops_the_drive_on_all_of_them_and_hangs_none():
    results = on_ranks(2, _run_drive, 1)
    assert results[1] == "drive made-up: disk gone"
    assert results[0] == "drive made-up: 1 other ranks failed"


@pytest.mark.cluster
def test_bad_frames_are_counted_over_all_ranks_each_once():
    results = on_ranks(2, _run_drive, None, frozenset({1, 7, 8, 15}))
    assert results[0] == results[1]
    assert "4 of 17 frames are bad" in results[0]


def _broadcast(rank, world_size):
    return GroupSync(CPU).broadcast(f"attempt-of-{rank}")


@pytest.mark.cluster
def test_every_rank_hears_rank_zeros_attempt():
    assert on_ranks(2, _broadcast) == {0: "attempt-of-0", 1: "attempt-of-0"}


def test_one_process_alone_sums_to_what_it_has():
    step = FastWeights(torch.ones(1, 2, 3), torch.ones(1, 3, 2), torch.ones(1, 2, 3))
    barrier = LocalSync().sum(step, failed=True, bad_frames=3)
    assert barrier.step is step
    assert (barrier.failed_ranks, barrier.bad_frames) == (1, 3)
    assert LocalSync().broadcast("x") == "x"


def _long_text(rank, world_size):
    try:
        GroupSync(CPU).broadcast("x" * 65)
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.cluster
def test_a_text_too_long_to_broadcast_is_refused_before_anything_is_sent():
    assert "at most 64" in on_ranks(1, _long_text)[0]
