"""How many bytes the waiting chunks of a worker may take on the GPU, on the host and on local disk."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.common.sizes import size_option
from pipeline.errors import DriveError

if TYPE_CHECKING:  # imported where a device is asked: the settings name budgets in processes that need no torch
    import torch

_UNITS = {
    "": 1,
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")

# Beside waiting chunks a GPU needs room for the layers: about 3 GB for 60 frames of 518x154 at the published size
# (an MLP has 8 times the bytes of a chunk's tokens; hidden units of the memory; maps of 8 frames), and fragmentation.
_GPU_WORK_BYTES = 8 * 10**9
_GPU_WORK_SHARE = 0.25  # of a small GPU
# Half of the free memory: the rest is for frames in flight (Ray's object store), for the layers on a CPU, and for other
# programs.
_HOST_SHARE = 0.5
# Below this the system begins to kill processes; a write of a chunk's prediction takes about half of it.
_LEAST_FREE = 200 * 10**6
# Words in the messages of a failed allocation on the host, of Ray's memory monitor and of a killed process.
_HOST_SIGNS = (
    "DefaultCPUAllocator: can't allocate memory",
    "not enough memory",
    "Cannot allocate memory",
    "running low on memory",
    "OutOfMemoryError",
    "OOM",
    "SIGKILL",
    "signal 9",
    "exit code -9",
)
_GROUPS = Path("/sys/fs/cgroup")
# Other users need room on the disk too.
_SCRATCH_SHARE = 0.8


class MemoryBudgetError(DriveError):
    """Waiting chunks do not fit into the budgets; the text names the one to raise."""

    retryable = True  # other processes may free more later


def parse_size(text: str, name: str) -> int:
    """Bytes of a size such as 2GB, 500MB, 1.5GiB or 0. Raises ValueError naming the option."""
    found = _SIZE.fullmatch(text)
    if found is None or found[2].upper() not in _UNITS:
        raise ValueError(f"{name} must be a size such as 2GB or 500MB, not {text!r}")
    return int(float(found[1]) * _UNITS[found[2].upper()])


@dataclass(frozen=True)
class MemoryBudgets:
    """Bytes that waiting chunks of one worker may take in each tier; None: a share of the free bytes at its start.

    folder: for scratch files; None: the system's folder for temporary files.
    """

    gpu: int | None = None
    host: int | None = None
    scratch: int | None = None
    folder: str | None = None

    def resolved(self, device: torch.device, workers_here: int = 1) -> Budgets:
        """The budgets in bytes on this machine; its free memory is shared among the workers on it.

        Call it once the network is on the device. Raises MemoryBudgetError where the scratch folder is not there.
        """
        folder = self.folder or tempfile.gettempdir()
        if not os.path.isdir(folder):
            raise MemoryBudgetError(f"the scratch folder {folder} is not there (--scratch-folder)")
        gpu = 0
        if device.type == "cuda":
            import torch

            free, total = torch.cuda.mem_get_info(device)
            free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
            work = min(_GPU_WORK_BYTES, int(total * _GPU_WORK_SHARE))
            gpu = self.gpu if self.gpu is not None else max(0, free - work)
        host = self.host if self.host is not None else int(free_host_bytes() * _HOST_SHARE / workers_here)
        free_disk = shutil.disk_usage(folder).free
        scratch = self.scratch if self.scratch is not None else int(free_disk * _SCRATCH_SHARE / workers_here)
        return Budgets(gpu, host, scratch, folder)


@dataclass(frozen=True)
class Budgets:
    """The resolved bytes of each tier. gpu is 0 where the network runs on a CPU: then the host is the first tier."""

    gpu: int
    host: int
    scratch: int
    folder: str


def check_host_memory(host_budget: int) -> None:
    """Raise MemoryBudgetError where the machine has almost no free memory, before the system kills the process."""
    free = free_host_bytes()
    if free < _LEAST_FREE:
        raise MemoryBudgetError(
            f"only {size_option(free)} of host memory are left while waiting chunks may take up to "
            f"{size_option(host_budget)}: lower --host-memory, so that they wait in --scratch, or give the worker more "
            "memory"
        )


def memory_advice(error: BaseException, budgets: Budgets | None = None) -> str | None:
    """Advice where memory ran out, naming the budget; None for other errors.

    It recognises errors of torch and Python in a worker, and the messages of Ray and the system about a killed worker.
    """
    text = str(error)
    torch_here = sys.modules.get("torch")  # an error of torch cannot be where torch is not loaded
    of_a_gpu = torch_here is not None and isinstance(error, torch_here.cuda.OutOfMemoryError)
    if of_a_gpu or "CUDA out of memory" in text:
        now = f" (now {size_option(budgets.gpu)})" if budgets else ""
        return (
            f"the GPU ran out of memory: lower --gpu-memory{now}, so that fewer chunks wait there, or take a "
            f"smaller --chunk-size [{_first_line(text)}]"
        )
    if isinstance(error, MemoryError) or any(sign in text for sign in _HOST_SIGNS):
        now = f" (now {size_option(budgets.host)} a worker)" if budgets else ""
        return (
            f"host memory ran out: lower --host-memory{now}, so that more chunks wait in --scratch, or give the "
            f"workers more memory [{_first_line(text)}]"
        )
    return None


def killed_advice(error: BaseException) -> str:
    """Advice to add to the error of a group of workers that died; empty where the error mentions neither memory nor a
    killed process. Ray lists memory as one cause of several when a process vanishes."""
    text = f"{error} {error.__cause__ or ''} {getattr(error, 'worker_failures', '')}"
    if not any(sign in text for sign in (*_HOST_SIGNS, "ActorDied", "ActorUnavailable", "unexpectedly", "End of file")):
        return ""
    return (
        "; a worker that vanishes was mostly killed for host memory: lower --host-memory, so that more chunks wait "
        "in --scratch, or give the workers more memory"
    )


def killed_here(budgets: MemoryBudgets) -> str:
    """The message about a process that vanished while chunks waited in it."""
    now = "half of what was free" if budgets.host is None else size_option(budgets.host)
    return (
        f"the process was killed, mostly a sign that host memory ran out: lower --host-memory (now {now}), so that "
        "more chunks wait in --scratch, or take a smaller --chunk-size"
    )


def _first_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0][:200] if lines else "out of memory"


def free_host_bytes() -> int:
    """Memory that this process can still get: the least of what is free on the machine, in its container and in each
    control group around it. The system's file cache counts as free."""
    return min([_available(), *(_left_in(group) for group in _control_groups())])


def _control_groups() -> list[tuple[Path, str, str, str]]:
    """Folders of this process's memory groups, outwards, with the names of limit, use and idle files in them."""
    try:
        rows = [row.split(":", 2) for row in Path("/proc/self/cgroup").read_text().splitlines()]
    except OSError:
        rows = []
    groups = []
    for root, controller, names in (
        (_GROUPS, "", ("memory.max", "memory.current", "inactive_file")),
        (_GROUPS / "memory", "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")),
    ):
        own = next((path for _, kinds, path in rows if controller in kinds.split(",")), "/")
        # inside a container the path may be the host's, which is not there; its root is the container's then
        folder = root / own.strip("/")
        groups += [(place, *names) for place in (folder, *folder.parents) if place.is_relative_to(root)]
    return groups


def _left_in(group: tuple[Path, str, str, str]) -> int:
    folder, limit, used, idle = group
    try:
        most, now = (folder / limit).read_text().strip(), int((folder / used).read_text())
        rows = dict(row.split() for row in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return sys.maxsize
    return max(0, int(most) - now + int(rows.get(idle, 0))) if most.isdigit() else sys.maxsize


def _available() -> int:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
