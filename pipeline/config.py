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
from pipeline.georeference.config import PositionsConfig
from pipeline.ingest.frame_masks import AUTO
from pipeline.ingest.stops import StopConfig, TurnConfig
from pipeline.network_settings import DEFAULT_PRESET, NetworkSettings
from pipeline.publish import PublishConfig

_WHEN_AUTO = Identity("when it is auto; else what is in the masks counts", lambda value, default: bool(value == AUTO))


@dataclass(frozen=True)
class RunConfig(NetworkSettings):
    """Settings of jobs.reconstruct."""

    input: str | None = setting(None, group="input", positional=True, identity=NEVER)
    """A drive (folder of images, KITTI odometry sequence or video), a folder with many, or a drive list
    (Parquet, CSV, JSON lines); a path, s3:// or any fsspec URI. Without one a small city drive is rendered and
    reconstructed."""
    output: str = setting("out", group="output", identity=NEVER)
    """Where results go: a path or URI; a drive's result is <output>/<drive_id>/."""
    drive_id: str | None = setting(None, group="input", identity=NEVER)
    """Name of the drive in the output; by default the name of the input's folder or file."""
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
    rig_config.json; calibrations of KITTI, nuScenes, Argoverse 2 and EuRoC beside them are used), a rig file
    (COLMAP's rig_config.json, Kalibr's camchain.yaml, nerfstudio's transforms.json), or views (of an equirectangular
    camera: all four, or --camera.views). With many drives auto finds those that have several cameras. By default one
    camera."""
    rig_tolerance: float | None = setting(None, expert=True, identity=NEVER)
    """Largest difference in seconds between the times of pictures of one instant; by default 0.025, for nuScenes 0.06,
    because its cameras are triggered one after the other."""
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
        super().__post_init__()
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
        if self.rig_tolerance is not None and not 0 <= self.rig_tolerance < 10:
            raise ValueError(f"--rig-tolerance must be 0 to 10 seconds, not {self.rig_tolerance}")
        if self.fps is not None and self.stride != 1:
            raise ValueError("--fps and --stride exclude each other")
        if (self.start or 0) < 0 or (self.end is not None and self.end <= (self.start or 0)):
            raise ValueError(f"--start {self.start} and --end {self.end} are no range of frames; 0 is the first")
        if not 0 <= self.max_bad_share <= 1:
            raise ValueError(f"--max-bad-share must lie between 0 and 1, not {self.max_bad_share}")
        for name in ("groups", "limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name} must be at least 1, not {value}")

    @property
    def all_ranks(self) -> int:
        """Number of ranks of all groups together."""
        return self.ranks * (self.groups or 1)

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
