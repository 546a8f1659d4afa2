"""Real gloo processes: any number of ranks gives the numbers of one rank, and no rank waits after a failure."""

import multiprocessing
import socket
import tempfile
from datetime import timedelta

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from models.fast_weights import FastWeights
from pipeline.forward.memory_sync import GroupSync, LocalSync
from pipeline.forward.phases import DrivePhases, DroppedDrive
from pipeline.forward.rank_job import ForwardSettings
from tests.forward.drives import CHUNKS, LOOPS, FixedFinder, host_store, network, read_again, share_of, windows_of

CPU = torch.device("cpu")


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def on_ranks(world_size, function, *args):
    """Run function(rank, world_size, queue, *args) in real processes; return their results in order of rank."""
    # a large result would fill the pipe and block the process that writes it
    # processes are forked from a server that has loaded torch and never used it: a fresh one loads it for seconds
    multiprocessing.set_forkserver_preload(["torch", "torch.distributed", "models.reconstructor", "ray.train"])
    with tempfile.TemporaryDirectory() as folder:
        arguments = (world_size, free_port(), function, folder, args)
        mp.start_processes(_member, arguments, nprocs=world_size, start_method="forkserver")
        return {rank: torch.load(f"{folder}/{rank}.pt", weights_only=True) for rank in range(world_size)}


def _member(rank, world_size, port, function, folder, args):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"tcp://127.0.0.1:{port}",
        rank=rank,
        world_size=world_size,
        timeout=timedelta(seconds=60),
    )
    try:
        torch.save(function(rank, world_size, *args), f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


def _run_drive(rank, world_size, bad_rank=None, bad=frozenset(), with_chunks=None):
    share = share_of(rank, with_chunks or world_size)
    staged = {}
    phases = DrivePhases(
        network(),
        GroupSync(CPU),
        host_store(),
        ForwardSettings(),
        CPU,
        lambda phase, count: None,
        FixedFinder(),
        read_again,
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
    return {k: (torch.from_numpy(p.depth), torch.from_numpy(p.cam_from_world)) for k, p in staged.items()}


def _alone():
    staged = {}
    phases = DrivePhases(
        network(),
        LocalSync(),
        host_store(),
        ForwardSettings(),
        CPU,
        lambda phase, count: None,
        FixedFinder(),
        read_again,
    )
    phases.run(share_of(0, 1), windows_of(share_of(0, 1)), staged.__setitem__)
    return staged


@pytest.mark.cluster
@pytest.mark.parametrize("shared_by", [(0, 1), (0, 1, 2), (0,)])  # how many ranks have chunks, of two or three
def test_any_number_of_ranks_gives_the_numbers_of_one_even_if_one_has_no_chunks(shared_by):
    expected = _alone()
    results = on_ranks(max(len(shared_by), 2), _run_drive, None, frozenset(), len(shared_by))
    merged = {k: v for part in results.values() for k, v in part.items()}
    assert sorted(merged) == list(range(len(CHUNKS) + len(LOOPS)))
    for number, (depth, cam_from_world) in merged.items():
        np.testing.assert_allclose(depth, expected[number].depth, rtol=1e-4)
        np.testing.assert_allclose(cam_from_world, expected[number].cam_from_world, rtol=1e-4, atol=1e-5)


@pytest.mark.cluster
def test_a_failure_on_one_rank_drops_the_drive_on_all_ranks_and_no_rank_waits():
    results = on_ranks(2, _run_drive, 1)
    assert results[1] == "drive made-up: disk gone"
    assert results[0] == "drive made-up: 1 other ranks failed"


@pytest.mark.cluster
def test_bad_frames_of_all_ranks_are_counted_each_once():
    results = on_ranks(2, _run_drive, None, frozenset({1, 7, 8, 15}))
    said = "drive made-up: 4 of 17 frames are bad, more than the 20% allowed (--max-bad-share); all, as frame "
    # each rank names the first of its own bad frames
    assert set(results.values()) == {f"{said}1: corrupt", f"{said}7: corrupt"}


def _collectives(rank, world_size):
    sync = GroupSync(CPU)
    try:
        sync.broadcast("x" * 65)
        refused = ""
    except ValueError as error:  # the error comes before anything is sent, so the next broadcast works
        refused = str(error)
    rows = sync.gather(np.full((rank, 2 * bool(rank)), rank, np.float32))  # rank 0 has no rows
    return [sync.broadcast(f"attempt-of-{rank}"), refused, torch.from_numpy(rows)]


@pytest.mark.cluster
def test_every_rank_gets_the_attempt_of_rank_0_and_the_rows_of_all_ranks():
    for heard, refused, rows in on_ranks(3, _collectives).values():
        assert heard == "attempt-of-0"
        assert "at most 64" in refused
        assert rows.tolist() == [[1, 1], [2, 2], [2, 2]]


def test_the_sum_of_a_single_process_is_its_own_step():
    step = FastWeights(torch.ones(1, 2, 3), torch.ones(1, 3, 2), torch.ones(1, 2, 3))
    barrier = LocalSync().sum(step, failed=True, bad_frames=3)
    assert barrier.step is step
    assert (barrier.failed_ranks, barrier.bad_frames) == (1, 3)
    assert LocalSync().broadcast("x") == "x"
