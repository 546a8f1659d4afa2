"""Settings of a network and of the ranks that run it, which several commands have in common."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from models.config import ModelConfig
from pipeline.common.settings import ALWAYS, NEVER, WHEN_ON, setting
from pipeline.forward.budgets import MemoryBudgets, parse_size
from pipeline.forward.network import Device, NetworkSpec, Precision, PrecisionSetting

DEFAULT_PRESET = "city_tiny"


@dataclass(frozen=True, kw_only=True)
class NetworkSettings:
    """Which network runs, where, and in what arithmetic."""

    weights: str | None = setting(None, group="quality", identity=NEVER)
    """Checkpoint: a path, s3:// or hf://owner/repo/file (.pt or .safetensors). By default those of the preset."""
    preset: str | None = setting(None, group="quality", identity=ALWAYS)
    """Network: city_tiny, vit_small or scal3r. By default that of the weights; without weights city_tiny."""
    workers: int | None = setting(None, group="what runs where", identity=NEVER)
    """Processes that share the chunks of a drive, each with its own GPU where there are GPUs. By default one, or for
    many drives as many as the chunk states of the longest drive need. Without a cluster, a single worker runs in this
    process."""
    device: Device = setting("auto", group="what runs where", identity=NEVER)
    """Where the network runs: gpu, cpu, or auto (on GPUs if this machine or the cluster has any when the run starts).
    With gpu a run waits for an autoscaler's first GPU node instead of beginning on CPUs."""
    threads: int | None = setting(None, expert=True, identity=NEVER)
    """CPU threads of a worker; by default its machine's cores shared among the workers there."""
    gpu_memory: str | None = setting(None, expert=True, identity=NEVER)
    """GPU memory of each worker in which states of chunks wait between phases: 40GB, 500MB, 0. By default the memory
    that is free after the network is loaded, less what the layers need (8 GB, or a quarter of a small GPU)."""
    host_memory: str | None = setting(None, expert=True, identity=NEVER)
    """Host memory of each worker in which states of chunks wait between phases. By default half of what is free when a
    worker starts, shared among the workers on a machine; the other half is for decoded frames and the layers."""
    scratch: str | None = setting(None, expert=True, identity=NEVER)
    """Space on the local disk, for each worker, in which states of chunks wait between phases; 0: none. By default four
    fifths of what is free."""
    scratch_folder: str | None = setting(None, expert=True, identity=NEVER)
    """Folder on the local disk for the states of chunks; by default the system's folder for temporary files."""
    precision: PrecisionSetting = setting("auto", group="quality", identity=ALWAYS)
    """Arithmetic of the network's attention and memories: float32 as published, bfloat16, or auto: bfloat16 on GPUs
    that have it, else float32."""
    compile_blocks: bool | None = setting(None, expert=True, identity=WHEN_ON)
    """Run the network's blocks, memories and heads through torch.compile; by default on GPUs. It needs a C++ compiler,
    and is not used where there is none. The first start on a machine takes about a minute longer, later ones seconds
    longer. The gain on a CPU is small (1.04 x)."""
    orthogonalise_precision: Precision = setting("float32", expert=True, identity=ALWAYS)
    """Arithmetic of the Newton-Schulz steps in the memories' update. The published code uses bfloat16."""
    address: str | None = setting(None, group="what runs where", identity=NEVER)
    """Ray cluster to join; by default the one of RAY_ADDRESS (as in a submitted job), else a local one."""

    def __post_init__(self) -> None:
        """Raises ValueError for settings that cannot work, naming the option and what would."""
        for name in ("workers", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name} must be at least 1, not {value}")
        if self.preset is not None:
            ModelConfig.preset(self.preset)  # refuses unknown names
        self.budgets  # noqa: B018 (refuses what is no size)

    @property
    def budgets(self) -> MemoryBudgets:
        """Memory that waiting chunks of a worker may use."""

        def size(text: str | None, name: str) -> int | None:
            return None if text is None else parse_size(text, name)

        return MemoryBudgets(
            size(self.gpu_memory, "--gpu-memory"),
            size(self.host_memory, "--host-memory"),
            size(self.scratch, "--scratch"),
            self.scratch_folder,
        )

    @property
    def ranks(self) -> int:
        """Processes that share one drive's chunks: `workers`, else one."""
        return self.workers or 1

    @property
    def network(self) -> NetworkSpec:
        """The network of this run."""
        preset = self.preset or (None if self.weights else DEFAULT_PRESET)
        precision: Precision = "bfloat16" if self.precision == "bfloat16" else "float32"
        return NetworkSpec(preset, self.weights, precision, bool(self.compile_blocks))

    def with_arithmetic(self, on_gpus: bool, bfloat16: bool) -> Self:
        """The same settings with precision and compiling decided. on_gpus: the network runs on GPUs; bfloat16: they
        have it. Without this, auto is float32 and nothing is compiled, as on a CPU."""
        precision = self.precision
        if precision == "auto":
            precision = "bfloat16" if on_gpus and bfloat16 else "float32"
        compiled = on_gpus if self.compile_blocks is None else self.compile_blocks
        return replace(self, precision=precision, compile_blocks=compiled)
