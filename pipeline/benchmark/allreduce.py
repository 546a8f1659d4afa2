"""Measures the all-reduce that sums a memory's step over processes of this machine, by gloo or NCCL."""

from __future__ import annotations

import multiprocessing
import socket
import time
from typing import Literal

import torch
import torch.distributed as dist

from models import ModelConfig
from models.fast_weights import FastWeights
from pipeline.forward.memory_sync import GroupSync

_TIMES = 5


def allreduce_seconds(processes: int, config: ModelConfig, port: int, kind: Literal["cpu", "cuda"] = "cpu") -> float:
    """Median seconds of one sum of a memory's step (three float32 matrices of d x h) over `processes` processes.

    kind: cpu for gloo, cuda for NCCL with one GPU per process. Raises RuntimeError if a process fails or a sum is
    wrong.
    """
    context = multiprocessing.get_context("spawn")
    answers = context.SimpleQueue()
    ranks = [
        context.Process(target=_rank, args=(rank, processes, config, port, kind, answers), daemon=False)
        for rank in range(processes)
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    if any(process.exitcode for process in ranks):
        raise RuntimeError(f"a process of the all-reduce ended with {[p.exitcode for p in ranks]}")
    return float(answers.get())


def _rank(rank: int, processes: int, config: ModelConfig, port: int, kind: str, answers) -> None:  # type: ignore[no-untyped-def]
    torch.set_num_threads(1)
    device = torch.device("cuda", rank) if kind == "cuda" else torch.device("cpu")
    if kind == "cuda":
        torch.cuda.set_device(device)
    backend = "nccl" if kind == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=processes)
    sync = GroupSync(device)
    d, hidden = config.embed_dim, config.embed_dim * config.memory_hidden_ratio
    shapes = ((1, d, hidden), (1, hidden, d), (1, d, hidden))
    step = FastWeights(*(torch.full(shape, rank + 1.0, device=device) for shape in shapes))
    total = sync.sum(step, failed=False).step  # makes the connections
    if total is None or any(bool((w != processes * (processes + 1) / 2).any()) for w in total):
        raise RuntimeError(f"rank {rank} of {processes} got a wrong sum")
    seconds = []
    for _ in range(_TIMES):
        begin = time.perf_counter()
        sync.sum(step, failed=False)  # it reads the failures on the host, so the GPU has finished
        seconds.append(time.perf_counter() - begin)
    if rank == 0:
        answers.put(sorted(seconds)[_TIMES // 2])
    dist.destroy_process_group()


def free_port() -> int:
    """A TCP port of this machine that no process uses now."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])
