"""The machine of a measurement: CPU, GPU, load, versions and commit, which are stored with the figures."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

_VERSIONS = ("torch", "ray", "numpy", "pyarrow", "pillow")


@dataclass(frozen=True)
class Machine:
    """The machine of a measurement. memory_bytes: of the host; load: processes that needed a core, in the last
    minute."""

    cpu: str
    cores: int
    memory_bytes: int
    gpu: str | None
    gpu_memory_bytes: int | None
    load: float
    python: str
    versions: dict[str, str]
    commit: str

    @classmethod
    def here(cls) -> Machine:
        """This machine, now."""
        import torch  # here, so that a command that names its machine at the end starts without it

        gpu = torch.cuda.get_device_properties(0) if torch.cuda.is_available() else None
        return cls(
            cpu=_cpu_name(),
            cores=os.cpu_count() or 1,
            memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            gpu=gpu.name if gpu else None,
            gpu_memory_bytes=gpu.total_memory if gpu else None,
            load=os.getloadavg()[0],
            python=platform.python_version(),
            versions={name: _version(name) for name in _VERSIONS},
            commit=_commit(),
        )

    def to_json(self) -> dict[str, object]:
        """Plain values."""
        return asdict(self)

    def __str__(self) -> str:
        parts = [f"{self.cpu}, {self.cores} cores, {self.memory_bytes / 2**30:.0f} GiB"]
        if self.gpu and self.gpu_memory_bytes:
            parts.append(f"{self.gpu} {self.gpu_memory_bytes / 2**30:.0f} GiB")
        parts.append(f"load {self.load:.1f}")
        versions = " ".join(f"{name} {version}" for name, version in self.versions.items())
        return f"{'; '.join(parts)}\npython {self.python} {versions}\ncommit {self.commit}"


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "absent"


def _commit() -> str:
    """The commit of this code's checkout, with "+ changes" if files differ; the version if it is installed."""
    folder = Path(__file__).parent

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True, timeout=20
        )
        return done.stdout.strip()

    try:
        if not git("ls-files", str(Path(__file__).name)):
            raise ValueError("installed inside the checkout of another project")
        return git("rev-parse", "--short=12", "HEAD") + (" + changes" if git("status", "--porcelain", "-uno") else "")
    except (OSError, ValueError, subprocess.SubprocessError):
        return f"no checkout, version {_version('city-reconstruction')} in {sys.prefix}"
