"""Settings of a training run; the command line of `jobs.train` is made from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from models import ModelConfig
from pipeline.common.settings import setting
from pipeline.training.objective import LossWeights
from pipeline.training.pool import PoolSettings


@dataclass(frozen=True)
class BatchSettings:
    """The batch of a worker in one step: groups of chunks of one length."""

    frames: int = 32
    """Frames of a batch; it has frames / length chunks."""
    shortest: int = 2
    """Frames of the shortest chunks drawn."""
    longest: int = 10
    """Frames of the longest chunks drawn."""
    short_steps: int = 0
    """Number of steps at the start of a run with short chunks: rotation is learned better from few frames."""
    short_longest: int = 5
    """Frames of the longest chunks in those first steps."""
    largest_group: int = 8
    """Largest number of chunks of a group inside one worker; it is a power of two. Groups across workers are drawn at
    random (Scal3R trains with 1 to 32 chunks)."""
    without_memory: float = 0.1
    """Share of steps without memories, so that the network also works without them and the ablation is fair."""
    own_memory: float = 0.1
    """Share of steps in which each chunk has a separate memory (no sum over the group); a batch then has at most six
    chunks."""
    dense_share: float = 0.5
    """Share of each chunk's frames whose depth and points are in the loss of a step (at least one frame)."""
    stride_two: float = 0.1
    """Share of chunks that leave out every second frame, if the clip is long enough."""
    mirror: float = 0.5
    """Share of groups that are mirrored."""

    def __post_init__(self) -> None:
        """Raises ValueError naming the field."""
        if not 1 <= self.shortest <= self.longest:
            raise ValueError(f"chunks need 1 <= shortest <= longest, got {self.shortest} and {self.longest}")
        if self.short_steps < 0 or not self.shortest <= self.short_longest:
            raise ValueError(
                f"short_steps must not be negative and short_longest at least shortest ({self.shortest}), "
                f"got {self.short_steps} and {self.short_longest}"
            )
        if self.frames < self.longest:
            raise ValueError(f"frames ({self.frames}) must hold one chunk of longest ({self.longest})")
        if self.largest_group < 1:
            raise ValueError(f"largest_group must be at least 1, got {self.largest_group}")
        for name in ("without_memory", "own_memory", "dense_share", "stride_two", "mirror"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a share between 0 and 1, got {getattr(self, name)}")


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW with two rates, linear warm-up, cosine decay (Scal3R's outer loop)."""

    memory_rate: float = 1e-4
    """Peak rate of the Global Context Memories."""
    backbone_rate: float = 1e-5
    """Peak rate of all other parameters."""
    warmup: int = 2000
    """Steps of linear warm-up."""
    final_share: float = 0.01
    """Rate at the end, as a share of the peak rate."""
    betas: tuple[float, float] = (0.9, 0.97)
    """Decay of AdamW's two means."""
    weight_decay: float = 0.03
    """Weight decay of matrices; norms, biases and tokens have none."""
    clip: float = 1.0
    """Largest norm of the gradient; larger gradients are scaled down."""
    average: float = 0.0
    """Decay of the running average of the weights, which is validated and saved; 0 uses the weights themselves."""

    def __post_init__(self) -> None:
        """Raises ValueError naming the field."""
        for name in ("memory_rate", "backbone_rate", "clip"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above zero, got {getattr(self, name)}")
        if self.warmup < 0:
            raise ValueError(f"warmup must not be negative, got {self.warmup}")
        if not 0 <= self.average < 1 or not 0 <= self.final_share <= 1:
            raise ValueError("average must be in [0, 1) and final_share in [0, 1]")


@dataclass(frozen=True)
class ValidationSettings:
    """Validation: whole drives are joined and compared with the truth."""

    drives: int = 2
    """Number of held-out rendered drives; 0: no validation."""
    frames: int = 240
    """Frames of each."""
    first_seed: int = 900
    """First seed of the held-out drives; the training pool starts at 100000."""
    chunk: int = 12
    """Frames of a chunk."""
    overlap: int = 6
    """Frames that neighbours share."""
    every: int = 500
    """Steps between two validations."""

    def __post_init__(self) -> None:
        """Raises ValueError naming the field."""
        if self.drives < 0 or self.frames < 2 or self.every < 1:
            raise ValueError("validation needs drives >= 0, frames >= 2 and every >= 1")
        if not 0 < self.overlap < self.chunk:
            raise ValueError(f"validation needs 0 < overlap < chunk, got {self.overlap} and {self.chunk}")


@dataclass(frozen=True)
class TrainConfig:
    """One training run."""

    output: str
    """Folder for checkpoints, metrics and the plot. A run that is found there is resumed."""
    preset: str = "city_tiny"
    """Network: city_tiny, vit_small or scal3r."""
    weights: str | None = None
    """Checkpoint to start from (fine-tuning); None: random weights. Ignored if a run is resumed."""
    data: tuple[str, ...] = ()
    """Folders of stored drives with poses and depth (sequences/ and poses/, as `jobs.synthesize` writes them). Empty:
    city drives that are rendered during training."""
    pool: str | None = None
    """Folder of the rendered drives (the pool); None: in the output folder."""
    pool_drives: int = 200
    """Drives that the background processes render."""
    renderers: int = 1
    """Background processes that render; 0: use the drives that are in the pool."""
    city: PoolSettings = setting(PoolSettings(), expert=True)
    """Properties of rendered clips."""
    batch: BatchSettings = setting(BatchSettings(), expert=True)
    """The batch of a worker in one step."""
    loss: LossWeights = setting(LossWeights(), expert=True)
    """Weights of the parts of the loss."""
    optimizer: OptimizerSettings = setting(OptimizerSettings(), expert=True)
    """Learning rates and their schedule."""
    validation: ValidationSettings = setting(ValidationSettings(), expert=True)
    """Held-out drives."""
    steps: int = 60_000
    """Steps of the whole run."""
    minutes: float | None = None
    """End after this many minutes of training, even if there are steps left. The rates then follow whichever of both is
    nearer to its end. Such runs cannot be repeated to the bit."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 runs products under autocast; weights, norms and losses stay float32."""
    seed: int = 0
    """Seed of weights and batches."""
    save_every: int = 500
    """Steps between two checkpoints."""
    log_every: int = 20
    """Steps between two lines of metrics."""
    workers: int = 0
    """Ray Train workers; 0 trains in this process, without starting Ray."""
    use_gpu: bool = False
    """Give each worker a GPU (NCCL instead of gloo)."""

    def __post_init__(self) -> None:
        """Raises ValueError naming the field."""
        ModelConfig.preset(self.preset)
        for name in ("steps", "save_every", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("workers", "renderers", "pool_drives"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.minutes is not None and not self.minutes > 0:
            raise ValueError(f"minutes must be above zero, got {self.minutes}")
        if not self.data and self.city.clip_frames < self.batch.longest:
            raise ValueError(
                f"city.clip_frames {self.city.clip_frames} must hold the longest chunk, {self.batch.longest}"
            )
