"""How long the one collective takes: a memory's step summed over processes of this machine, by gloo."""

from __future__ import annotations

import multiprocessing
import time

import torch
import torch.distributed as dist

from models import ModelConfig
from models.fast_weights import FastWeights
from pipeline.forward.memory_sync import GroupSync

_TIMES = 5


def allreduce_seconds(processes: int, config: ModelConfig, port: int) -> float:
    """Seconds of one sum of a memory's step (three matrices d x 4d, float32) over that many processes; the median."""
    context = multiprocessing.get_context("spawn")
    answers = context.SimpleQueue()
    ranks = [
        context.Process(target=_rank, args=(rank, processes, config, port, answers), daemon=False)
        for rank in range(processes)
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    if any(process.exitcode for process in ranks):
        raise RuntimeError(f"a process of the all-reduce ended with {[p.exitcode for p in ranks]}")
    return float(answers.get())


def _rank(rank: int, processes: int, config: ModelConfig, port: int, answers) -> None:  # type: ignore[no-untyped-def]
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=processes)
    sync = GroupSync(torch.device("cpu"))
    d, hidden = config.embed_dim, config.embed_dim * config.memory_hidden_ratio
    step = FastWeights(torch.ones(1, d, hidden), torch.ones(1, hidden, d), torch.ones(1, d, hidden))
    sync.sum(step, failed=False)  # connections are made
    seconds = []
    for _ in range(_TIMES):
        begin = time.perf_counter()
        sync.sum(step, failed=False)
        seconds.append(time.perf_counter() - begin)
    if rank == 0:
        answers.put(sorted(seconds)[_TIMES // 2])
    dist.destroy_process_group()
