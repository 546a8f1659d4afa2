"""Settings of a reconstruction, declared once. The command line is made from this; a TOML file can hold it
(`pipeline.settings_file`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Literal

from models.config import MemoryScope, ModelConfig
from pipeline.backend import BackendConfig
from pipeline.backend.loop_detection import LoopConfig
from pipeline.cameras.config import CameraConfig
from pipeline.common.settings import ALWAYS, NEVER, WHEN_ON, Identity, identity_values, setting
from pipeline.fleet_config import FleetConfig
from pipeline.forward.budgets import MemoryBudgets, parse_size
from pipeline.forward.network import Device, NetworkSpec, Precision, PrecisionSetting
from pipeline.georeference.config import PositionsConfig
from pipeline.ingest.frame_masks import AUTO
from pipeline.ingest.stops import StopConfig, TurnConfig
from pipeline.publish import PublishConfig

DEFAULT_PRESET = "city_tiny"

_WHEN_AUTO = Identity("when it is auto; else what is in the masks counts", lambda value, default: bool(value == AUTO))


@dataclass(frozen=True)
class RunConfig:
    """Settings of jobs.reconstruct."""

    input: str | None = setting(None, group="input", positional=True, identity=NEVER)
    """A drive (folder of images, KITTI odometry sequence or video), a folder with many, or a drive list
    (Parquet, CSV, JSON lines); a path, s3:// or any fsspec URI. Without one a small city drive is rendered and
    reconstructed."""
    output: str = setting("out", group="output", identity=NEVER)
    """Where results go: a path or URI; a drive's result is <output>/<drive_id>/."""
    drive_id: str | None = setting(None, group="input", identity=NEVER)
    """Name of the drive in the output; by default the name of the input's folder or file."""
    weights: str | None = setting(None, group="quality", identity=NEVER)
    """Checkpoint: a path, s3:// or hf://owner/repo/file (.pt or .safetensors). By default those of the preset."""
    preset: str | None = setting(None, group="quality", identity=ALWAYS)
    """Network: city_tiny, vit_small or scal3r. By default that of the weights; without weights city_tiny."""
    chunk_size: int | None = setting(None, group="quality", identity=ALWAYS)
    """Frames in a chunk; by default as in the network's training (60 for the published network, 12 for city_tiny)."""
    overlap: int | None = setting(None, group="quality", identity=ALWAYS)
    """Frames that neighbouring chunks share; by default as in the network's training (half a chunk)."""
    stride: int = setting(1, group="input", identity=ALWAYS)
    """Use every n-th frame of the input."""
    fps: float | None = setting(None, group="input", identity=ALWAYS)
    """Use this many frames a second instead; the input must have times (a video, a KITTI sequence)."""
    start: int | None = setting(None, group="input", identity=ALWAYS)
    """First frame of the input that is used, counted before stride or fps; by default its first."""
    end: int | None = setting(None, group="input", identity=ALWAYS)
    """Frame after the last one that is used; by default all frames are used."""
    rotate: Literal[0, 90, 180, 270] | None = setting(None, group="input")
    """Turn stored frames by this many degrees to the right, instead of the orientation in EXIF or the video."""
    masks: str | None = setting(None, group="input", identity=_WHEN_AUTO)
    """Pixels of the frames to leave out: a picture for all frames (black is left out), a folder with one for each frame
    (000000.png or 000000.jpg.png for the frame 000000.jpg; for many drives in a folder with the drive's name), or auto:
    parts that do not move while the car does (bonnet, mirror, time stamp)."""
    rig: str | None = setting(None, group="input", identity=NEVER)  # a drive knows its rig
    """The drive has several cameras: auto (by folders cam_*, CAM_*, ring_*, image_2 and image_3, or by
    rig_config.json), or a rig file (COLMAP's rig_config.json, Kalibr's camchain.yaml, nerfstudio's transforms.json).
    By default one camera."""
    rig_tolerance: float = setting(0.025, expert=True, identity=NEVER)
    """Largest difference in seconds between the times of pictures of one instant."""
    join_clips: bool = setting(True, expert=True, identity=NEVER)  # a drive knows its files
    """Videos that follow each other, and folders whose frame numbers continue, are one drive; nuScenes' folders are cut
    into scenes. Otherwise each video and each folder of pictures is a drive."""
    max_bad_share: float = setting(0.2, expert=True, identity=ALWAYS)
    """The drive fails when more than this share of its frames cannot be used."""
    plan: bool = setting(False, group="many drives", identity=NEVER)
    """With many drives: read only headers, and print what a run would do and cost."""
    only: str | None = setting(None, group="many drives", identity=NEVER)
    """With many drives: do only those whose id, or one of whose tags, matches this pattern (* and ?)."""
    limit: int | None = setting(None, group="many drives", identity=NEVER)
    """With many drives: do at most this many, the longest ones."""
    retry_failed: bool = setting(False, group="many drives", identity=NEVER)
    """With many drives: do only those that failed or were quarantined before; earlier failures no longer count."""
    groups: int | None = setting(None, group="what runs where", identity=NEVER)
    """Groups of workers, each of which processes one drive at a time; by default one, or as many as the GPUs allow."""
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
    memory_scope: MemoryScope = setting("drive", expert=True, identity=ALWAYS)
    """The data from which a memory learns: the whole drive (Scal3R), each chunk alone, or none (off)."""
    loops: bool = setting(True, group="quality", identity=ALWAYS)
    """Find places to which the drive returns, and close loops there."""
    stops: bool = setting(True, group="quality", identity=ALWAYS)
    """Leave out frames in which the car stands; in the output they have the pose of the frame before them."""
    turns: bool = setting(True, expert=True, identity=ALWAYS)
    """Move the ends of chunks out of sharp turns."""
    refine: bool = setting(True, group="quality", identity=WHEN_ON)
    """Adjust cameras and depth to corners followed through the images (bundle adjustment) before chunks are joined.
    The images judge the result in any case."""
    overwrite: bool = setting(False, group="output", identity=NEVER)
    """Reconstruct the drive again although its result exists."""
    keep_predictions: bool = setting(False, group="output", identity=NEVER)
    """Keep the staged predictions of the chunks after publishing, for jobs.realign."""
    address: str | None = setting(None, group="what runs where", identity=NEVER)
    """Ray cluster to join; by default the one of RAY_ADDRESS (as in a submitted job), else a local one."""
    camera: CameraConfig = field(default_factory=CameraConfig)
    positions: PositionsConfig = field(default_factory=PositionsConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    stop: StopConfig = field(default_factory=StopConfig)
    turn: TurnConfig = field(default_factory=TurnConfig)
    backend: BackendConfig = field(default_factory=BackendConfig)
    publish: PublishConfig = field(default_factory=PublishConfig)
    fleet: FleetConfig = setting(FleetConfig(), identity=NEVER)

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
        if not 0 <= self.rig_tolerance < 10:
            raise ValueError(f"--rig-tolerance must be 0 to 10 seconds, not {self.rig_tolerance}")
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
    def all_ranks(self) -> int:
        """Number of ranks of all groups together."""
        return self.ranks * (self.groups or 1)

    @property
    def network(self) -> NetworkSpec:
        """The network of this run."""
        preset = self.preset or (None if self.weights else DEFAULT_PRESET)
        precision: Precision = "bfloat16" if self.precision == "bfloat16" else "float32"
        return NetworkSpec(preset, self.weights, precision, bool(self.compile_blocks))

    def with_arithmetic(self, on_gpus: bool, bfloat16: bool) -> RunConfig:
        """The same settings with precision and compiling decided. on_gpus: the network runs on GPUs; bfloat16: they
        have it. Without this, auto is float32 and nothing is compiled, as on a CPU."""
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
            # with another chunk size the overlap keeps the network's ratio
            overlap = min(model.chunk_overlap * size // model.chunk_size, size - 1)
        return replace(self, chunk_size=size, overlap=overlap)

    def result_settings(self) -> dict[str, object]:
        """The settings on which a result's numbers depend, by the rule at each field. They are part of its identity."""
        preset = None if self.weights is None and self.preset == DEFAULT_PRESET else self.preset
        return identity_values(replace(self, preset=preset, precision=self.network.precision))  # auto resolved

    def same_result_settings(self) -> Iterable[dict[str, object]]:
        """Identity settings of other settings with exactly the same result: preset given or left out, first frame given
        or left out. Raises the errors of reading the weights."""
        now, model = self.result_settings(), self.network.config()
        presets: list[str | None] = [name for name in ModelConfig.preset_names() if ModelConfig.preset(name) == model]
        if replace(self, preset=None).network.config() == model:
            presets.append(None)
        starts = [self.start] if self.start else [None, 0]
        same = ({**now, "preset": preset, "start": start} for preset in presets for start in starts)
        return [settings for settings in same if settings != now]
