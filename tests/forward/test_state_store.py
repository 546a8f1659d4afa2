"""Chunks wait in tiers of memory: each comes back unchanged, budgets are kept, and errors name the budget."""

import os
import resource
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.tokens import ChunkState
from pipeline.forward.budgets import (
    Budgets,
    MemoryBudgetError,
    MemoryBudgets,
    check_host_memory,
    killed_advice,
    memory_advice,
    parse_size,
)
from pipeline.forward.mmap_tensors import mapped
from pipeline.forward.scratch import ScratchFile, ScratchFull
from pipeline.forward.state_store import TieredStore, WaitingChunk

CPU = torch.device("cpu")


def waiting(number, frames=2, dtype=torch.float32, images=True, barrier=1):
    """A chunk in which every number shows the chunk and the barrier to which it belongs."""
    value = 10.0 * number + barrier
    wide = torch.full((1, frames, 3, 12), value, dtype=dtype)
    state = ChunkState(
        torch.full((1, frames, 4, 8), value, dtype=dtype),
        (1, 3),
        barrier,
        {0: wide[..., 4:], 2: wide + 1},
        camera=None if barrier < 2 else torch.full((1, frames, 16), value),
        at_barrier=True,
        frame_half=torch.full((1, frames, 4, 8), value + 0.5, dtype=dtype) if number % 2 else None,
        special=torch.full((1, frames, 1, 8), value + 0.25) if number % 2 else None,
    )
    pixels = np.full((frames, 4, 6, 3), number, np.uint8) if images else None
    return WaitingChunk(number, range(frames), state, pixels, np.ones(frames, bool), (None,) * frames)


def same(found, expected):
    a, b = found.state, expected.state
    assert (a.grid, a.next_segment, a.at_barrier) == (b.grid, b.next_segment, b.at_barrier)
    assert a.features.keys() == b.features.keys()
    pairs = [(a.tokens, b.tokens), (a.camera, b.camera), (a.frame_half, b.frame_half), (a.special, b.special)]
    for x, y in pairs + [(a.features[k], b.features[k]) for k in a.features]:
        assert (x is None) == (y is None)
        if x is not None:
            assert x.dtype == y.dtype
            assert torch.equal(x, y)


SIZE = waiting(1, frames=3).state.nbytes


def test_a_stored_chunk_comes_back_once():
    store = TieredStore(CPU, Budgets(0, 10**6, 0, "/"))
    for number in (3, 5):
        store.put(waiting(number))
    same(store.take(5), waiting(5))
    with pytest.raises(KeyError):
        store.take(5)
    np.testing.assert_array_equal(store.take_images(5), waiting(5).images)
    store.clear()
    assert store.nbytes == 0
    with pytest.raises(KeyError):
        store.take(3)


def test_a_slice_of_a_larger_tensor_does_not_keep_the_whole_tensor_in_memory():
    store = TieredStore(CPU, Budgets(0, 10**6, 0, "/"))
    store.put(waiting(0))
    state = store.take(0).state
    held = [state.tokens, *state.features.values()]
    rooms = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in held}
    assert state.nbytes <= sum(rooms.values()) < state.nbytes + 64 * len(held)


def test_a_chunk_in_host_memory_is_one_memory_map_that_is_freed_with_the_chunk():
    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    parts = [torch.full((4 * 10**6,), 3.0), torch.arange(7, dtype=torch.int16), torch.empty(0, 5)]
    before = resident()
    copies = mapped(parts)
    assert resident() - before > 15 * 10**6
    assert len({copy.untyped_storage().data_ptr() for copy in copies}) == 1
    assert all(torch.equal(copy, part) and copy.dtype == part.dtype for copy, part in zip(copies, parts, strict=True))
    del copies
    assert resident() - before < 10**6
    assert mapped([torch.empty(0, 3)])[0].shape == (0, 3)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    frames=st.lists(st.integers(1, 3), min_size=1, max_size=7),
    host=st.integers(3 * SIZE, 12 * SIZE),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    with_expect=st.booleans(),
    data=st.data(),
)
def test_every_budget_gives_the_same_chunks_in_any_order(tmp_path, frames, host, dtype, with_expect, data):
    store = TieredStore(CPU, Budgets(0, host, 10**8, str(tmp_path)))
    numbers = list(range(len(frames)))
    for barrier in (1, 2, 3):
        order = data.draw(st.permutations(numbers)) if barrier > 1 else numbers
        if with_expect and barrier > 1:
            store.expect(order, with_images=barrier == 3)
        for number in order:
            if barrier > 1:
                same(store.take(number), waiting(number, frames[number], dtype, barrier=barrier - 1))
            if barrier == 3:
                np.testing.assert_array_equal(store.take_images(number), waiting(number, frames[number]).images)
            else:
                store.put(waiting(number, frames[number], dtype, images=barrier == 1, barrier=barrier))
            assert store.peak["host"] <= host
    assert store.nbytes == 0
    store.close()
    assert os.listdir(tmp_path) == []


def test_errors_about_full_budgets_and_a_full_disk_name_the_budget_to_raise(tmp_path):
    store = TieredStore(CPU, Budgets(0, 4 * SIZE, 2 * SIZE, str(tmp_path)))
    with pytest.raises(MemoryBudgetError, match=r"--host-memory .*--scratch .*raise --scratch or --host-memory"):
        for number in range(20):
            store.put(waiting(number, 3))
    store.clear()
    with pytest.raises(MemoryBudgetError, match="raise --host-memory to"):
        TieredStore(CPU, Budgets(0, SIZE, 10**6, str(tmp_path))).put(waiting(1, 3))
    with pytest.raises(MemoryBudgetError, match="raise --scratch or --host-memory"):
        TieredStore(CPU, Budgets(0, SIZE // 2, 0, str(tmp_path))).put(waiting(1, 3))
    with pytest.raises(MemoryBudgetError, match=r"is not there \(--scratch-folder\)"):
        MemoryBudgets(folder=str(tmp_path / "none")).resolved(CPU)


def test_a_full_disk_is_reported_at_the_next_chunk_or_when_the_chunk_is_taken():
    """The file can be opened but its bytes are refused, as on a full disk: the process has a limit on file sizes."""
    program = textwrap.dedent("""
        import resource, signal, sys
        import torch
        from pipeline.forward.budgets import Budgets, MemoryBudgetError
        from pipeline.forward.state_store import TieredStore
        from tests.forward.test_state_store import SIZE, waiting
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))
        store = TieredStore(torch.device("cpu"), Budgets(0, 2 * SIZE, 10**8, sys.argv[1]))
        try:
            for number in range(4):
                store.put(waiting(number, 3))
            store.take(3)
        except MemoryBudgetError as error:
            print(error)
        store.close()
    """)
    done = subprocess.run(
        [sys.executable, "-c", program, os.environ.get("TMPDIR", "/tmp")], capture_output=True, text=True, check=False
    )
    assert "is full with" in done.stdout and "--scratch-folder" in done.stdout, done.stderr


def test_a_scratch_file_gives_back_its_tensors_and_has_no_name_in_its_folder(tmp_path):
    small = torch.ones(2, 3).to(torch.uint8)
    tensors = [torch.arange(7, dtype=torch.bfloat16), torch.zeros(0), torch.tensor(3.0), small]
    file = ScratchFile(str(tmp_path))
    file.write(tensors)
    assert os.listdir(tmp_path) == []
    back = [torch.empty_like(t) for t in tensors]
    file.read_into(back)
    assert all(torch.equal(a, b) for a, b in zip(back, tensors, strict=True))
    with pytest.raises(OSError, match="shorter"):
        file.read_into([torch.empty(100)])
    file.close()
    assert issubclass(ScratchFull, OSError)


def test_sizes_are_read_in_all_usual_forms():
    assert [parse_size(t, "--x") for t in ("2GB", "0", "500 mb", "1.5GiB", "7")] == [2e9, 0, 5e8, 1.5 * 2**30, 7]
    for wrong in ("", "GB", "-1GB", "2 apples", "1e9"):
        with pytest.raises(ValueError, match="--x must be a size such as 2GB"):
            parse_size(wrong, "--x")


def test_budgets_that_are_not_given_are_a_share_of_what_is_free(tmp_path):
    given = MemoryBudgets(1, 2, 3, str(tmp_path)).resolved(CPU)
    assert given == Budgets(0, 2, 3, str(tmp_path))
    alone, shared = (MemoryBudgets().resolved(CPU, workers) for workers in (1, 4))
    assert 10**8 < shared.host < alone.host
    assert shared.scratch < alone.scratch


def test_nearly_exhausted_memory_is_reported_before_the_system_kills_the_process(monkeypatch):
    check_host_memory(10**9)
    monkeypatch.setattr("pipeline.forward.budgets._LEAST_FREE", 10**15)
    with pytest.raises(MemoryBudgetError, match="lower --host-memory"):
        check_host_memory(10**9)


@pytest.mark.parametrize(
    ("said", "option"),
    [
        ("CUDA out of memory. Tried to allocate 20.00 MiB", "--gpu-memory"),
        ("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes", "--host-memory"),
        ("Task was killed due to the node running low on memory.", "--host-memory"),
        ("The process is killed by SIGKILL by OOM killer due to high memory usage.", "--host-memory"),
    ],
)
def test_errors_of_torch_and_ray_about_memory_are_completed_by_the_budget(said, option):
    assert f"lower {option}" in memory_advice(RuntimeError(said), Budgets(1, 2, 3, "/"))
    assert memory_advice(RuntimeError("shapes do not fit")) is None
    assert "lower --host-memory" in memory_advice(MemoryError())


def test_the_error_for_a_vanished_group_names_the_budget_and_other_errors_do_not():
    assert "lower --host-memory" in killed_advice(RuntimeError("ActorDiedError: worker exits: End of file."))
    assert killed_advice(RuntimeError("weights do not fit")) == ""


def test_a_worker_whose_memory_is_limited_names_the_budget():
    """A real allocation that fails, under a limit on address space."""
    program = textwrap.dedent("""
        import resource
        import torch
        from pipeline.forward.budgets import memory_advice
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 50_000_000,) * 2)
        try:
            torch.empty(10**9)
        except Exception as error:
            print(memory_advice(error))
    """)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "lower --host-memory" in done.stdout, done.stderr
    assert resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY  # the limit of this process is unchanged


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("gpu", "host"), [(10**9, 10**9), (0, 10**9), (0, 3 * SIZE), (2 * SIZE, 5 * SIZE)])
def test_chunks_leave_a_gpu_and_come_back_unchanged(tmp_path, gpu, host):
    device = torch.device("cuda")
    store = TieredStore(device, Budgets(gpu, host, 10**8, str(tmp_path)))
    for barrier in (1, 2):
        store.expect(range(8) if barrier > 1 else [])
        for number in range(8):
            if barrier > 1:
                found = store.take(number)
                assert found.state.tokens.is_cuda
                found.state = found.state.map(lambda t: None if t is None else t.cpu())
                same(found, waiting(number, 3, barrier=barrier - 1))
            chunk = waiting(number, 3, images=barrier == 1, barrier=barrier)
            chunk.state = chunk.state.map(lambda t: None if t is None else t.to(device))
            store.put(chunk)
    store.close()
