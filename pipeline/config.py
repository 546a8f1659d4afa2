"""Settings of a reconstruction, declared once. The command line is made from this; a TOML file can hold it
(`pipeline.settings_file`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from models import ModelConfig
from models.reconstructor import MemoryScope
from pipeline.backend import BackendConfig
from pipeline.backend.loop_detection import LoopConfig
from pipeline.cameras.config import CameraConfig
from pipeline.fleet_config import FleetConfig
from pipeline.forward.budgets import MemoryBudgets, parse_size
from pipeline.forward.network import Device, NetworkSpec, Precision, PrecisionSetting
from pipeline.ingest.frame_masks import AUTO
from pipeline.ingest.stops import StopConfig, TurnConfig
from pipeline.publish import PublishConfig

DEFAULT_PRESET = "city_tiny"


@dataclass(frozen=True)
class RunConfig:
    """Drives to poses and points."""

    input: str | None = None
    """A drive (folder of images, KITTI odometry sequence or video), a folder with many, or a manifest of drives
    (Parquet, CSV, JSON lines); a path, s3:// or any fsspec URI. Without one a small city drive is rendered and
    reconstructed."""
    output: str = "out"
    """Where results go: a path or URI; a drive's result is <output>/<drive_id>/."""
    drive_id: str | None = None
    """Name of the drive in the output; by default the name of the input's folder or file."""
    weights: str | None = None
    """Checkpoint: a path, s3:// or hf://owner/repo/file (.pt or .safetensors). By default the preset's own."""
    preset: str | None = None
    """Network: city_tiny, vit_small or scal3r. By default what the weights say; without weights city_tiny."""
    chunk_size: int | None = None
    """Frames a chunk; by default what the network was trained for (60 for the published one)."""
    overlap: int | None = None
    """Frames that neighbouring chunks share; by default what the network was trained for (30)."""
    stride: int = 1
    """Use every n-th frame of the input."""
    fps: float | None = None
    """Use this many frames a second instead; the input must have times (a video, a KITTI sequence)."""
    start: int | None = None
    """First frame of the input that is used, counted before stride or fps; by default its first."""
    end: int | None = None
    """Frame behind the last one that is used; by default all frames are."""
    rotate: Literal[0, 90, 180, 270] | None = None
    """Turn stored frames by so many degrees to the right, instead of as EXIF or the video says."""
    masks: str | None = None
    """What of the frames is left out: a picture for all frames (black is left out), a folder with one for each
    (000000.png or 000000.jpg.png for the frame 000000.jpg; below it a folder of a drive's name where drives are many),
    or auto: what does not move while the car does (bonnet, mirror, time stamp)."""
    join_clips: bool = True
    """Videos that follow each other, and folders whose frames go on counting, are one drive; nuScenes' folders are cut
    into scenes. Else each file, and each folder of pictures, is a drive."""
    max_bad_share: float = 0.2
    """The drive fails when more than this share of its frames cannot be used."""
    plan: bool = False
    """Of many drives: read headers only, say what would be done and what it takes, and do nothing."""
    only: str | None = None
    """Of many drives: those whose id or one of whose tags matches this pattern (* and ?)."""
    limit: int | None = None
    """Of many drives: at most so many of those that are to be done, the longest first."""
    retry_failed: bool = False
    """Of many drives: only those that failed before, quarantined ones too, counted afresh."""
    groups: int | None = None
    """Groups of workers that each run a drive at a time; by default one, or as many as there are GPUs for."""
    workers: int | None = None
    """Processes that share a drive's chunks, one GPU each where there are GPUs. By default one, or for many drives as
    many as the longest one's chunk states need. On one machine 1 runs in this process."""
    device: Device = "auto"
    """Where the network runs: gpu, cpu, or auto: on GPUs where this machine or the cluster has any when the run starts.
    With gpu a run waits for an autoscaler's first GPU node instead of beginning on CPUs."""
    threads: int | None = None
    """CPU threads of a worker; by default its machine's cores shared among the workers there."""
    gpu_memory: str | None = None
    """GPU memory in which chunks may wait for each other, of each worker: 40GB, 500MB, 0. By default what is free
    once the network is there, less what the layers need (8 GB, or a quarter of a small GPU)."""
    host_memory: str | None = None
    """Host memory for the same. By default half of what is free when a worker starts, shared among the workers on a
    machine: the other half is for frames in flight and the layers' own work."""
    scratch: str | None = None
    """Local disk for the same; 0: none. By default four fifths of what is free."""
    scratch_folder: str | None = None
    """Folder on that disk; by default the system's folder for temporary files."""
    precision: PrecisionSetting = "auto"
    """Arithmetic of the network's attention and memories: float32 as published, bfloat16, or auto: bfloat16 on GPUs
    that have it, else float32."""
    compile_blocks: bool | None = None
    """Run the network's blocks, memories and heads through torch.compile; by default on GPUs. It needs a C++ compiler,
    and does without where there is none. A machine's first start takes about a minute longer, later ones seconds; on a
    CPU little is won (1.04 x)."""
    orthogonalise_precision: Precision = "float32"
    """Arithmetic of the memory update's Newton-Schulz steps. The published code takes bfloat16."""
    memory_scope: MemoryScope = "drive"
    """What a memory learns from: the whole drive (Scal3R), each chunk alone, or off."""
    loops: bool = True
    """Look for places that the drive comes back to, and close loops there."""
    stops: bool = True
    """Leave out frames in which the car stands; in the output they have the pose of the frame before them."""
    turns: bool = True
    """Move the ends of chunks out of sharp turns."""
    overwrite: bool = False
    """Do the drive again though its result is there."""
    keep_predictions: bool = False
    """Keep the staged predictions of the chunks after publishing."""
    address: str | None = None
    """Ray cluster to join; by default the one of RAY_ADDRESS (as in a submitted job), else a local one."""
    camera: CameraConfig = field(default_factory=CameraConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    stop: StopConfig = field(default_factory=StopConfig)
    turn: TurnConfig = field(default_factory=TurnConfig)
    backend: BackendConfig = field(default_factory=BackendConfig)
    publish: PublishConfig = field(default_factory=PublishConfig)
    fleet: FleetConfig = field(default_factory=FleetConfig)

    def __post_init__(self) -> None:
        """Raises ValueError for settings that cannot work, naming the option and what would."""
        if self.chunk_size is not None and self.chunk_size < 1:
            raise ValueError(f"--chunk-size must be at least 1 frame, not {self.chunk_size}")
        if self.overlap is not None and self.overlap < 0:
            raise ValueError(f"--overlap must not be negative, not {self.overlap}")
        if self.chunk_size is not None and self.overlap is not None and self.overlap >= self.chunk_size:
            raise ValueError(
                f"--overlap {self.overlap} must be smaller than --chunk-size {self.chunk_size}; "
                f"half of it ({self.chunk_size // 2}) is usual"
            )
        if self.stride < 1:
            raise ValueError(f"--stride must be at least 1, not {self.stride}")
        if self.fps is not None and not self.fps > 0:
            raise ValueError(f"--fps must be above zero, not {self.fps}")
        if self.fps is not None and self.stride != 1:
            raise ValueError("--fps and --stride exclude each other")
        if (self.start or 0) < 0 or (self.end is not None and self.end <= (self.start or 0)):
            raise ValueError(f"--start {self.start} and --end {self.end} are no range of frames; 0 is the first")
        if not 0 <= self.max_bad_share <= 1:
            raise ValueError(f"--max-bad-share must lie between 0 and 1, not {self.max_bad_share}")
        for name in ("workers", "groups", "limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name} must be at least 1, not {value}")
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"--threads must be at least 1, not {self.threads}")
        if self.preset is not None:
            ModelConfig.preset(self.preset)  # refuses unknown names
        self.budgets  # noqa: B018 (refuses what is no size)

    @property
    def budgets(self) -> MemoryBudgets:
        """Memory that waiting chunks of a worker may take."""

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
    def all_ranks(self) -> int:
        """Ranks of all groups that work side by side on this machine."""
        return self.ranks * (self.groups or 1)

    @property
    def network(self) -> NetworkSpec:
        """Which network this run uses."""
        preset = self.preset or (None if self.weights else DEFAULT_PRESET)
        precision: Precision = "bfloat16" if self.precision == "bfloat16" else "float32"
        return NetworkSpec(preset, self.weights, precision, bool(self.compile_blocks))

    def with_arithmetic(self, on_gpus: bool, bfloat16: bool) -> RunConfig:
        """The same settings with precision and compiling settled for where the network runs, and whether that has
        bfloat16. Without this, auto is float32 and nothing is compiled, as on a CPU."""
        precision = self.precision
        if precision == "auto":
            precision = "bfloat16" if on_gpus and bfloat16 else "float32"
        compiled = on_gpus if self.compile_blocks is None else self.compile_blocks
        return replace(self, precision=precision, compile_blocks=compiled)

    def with_network_defaults(self, model: ModelConfig) -> RunConfig:
        """The same settings with chunk size and overlap filled in from the network."""
        size = self.chunk_size or model.chunk_size
        overlap = self.overlap
        if overlap is None:
            # an own chunk size keeps the network's ratio of overlap
            overlap = min(model.chunk_overlap * size // model.chunk_size, size - 1)
        return replace(self, chunk_size=size, overlap=overlap)

    def result_settings(self) -> dict[str, Any]:
        """The settings on which a result's numbers depend: what a published drive is known by."""
        values = asdict(self)
        for name in (
            "input",
            "output",
            "drive_id",
            "weights",
            "workers",
            "device",
            "threads",
            "overwrite",
            "keep_predictions",
            "address",
            "join_clips",  # a drive knows its files
            "plan",
            "only",
            "limit",
            "retry_failed",
            "groups",
            "fleet",
            "gpu_memory",
            "host_memory",
            "scratch",
            "scratch_folder",
        ):
            del values[name]
        # Results from before these were there keep their identity; what is known of a camera comes with the drive.
        if self.rotate is None:
            del values["rotate"]
        if self.masks != AUTO:
            del values["masks"]  # a drive knows what is in its masks
        values["camera"] = {"square_pixels": False}
        if self.camera.square_pixels:
            del values["camera"]
        values["precision"] = self.network.precision  # what auto came to
        if not self.compile_blocks:
            del values["compile_blocks"]  # it rounds otherwise, so a result knows of it; the rest are known without
        return values
