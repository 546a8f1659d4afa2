"""The configuration of the network, checked when it is made, and its presets."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

WEIGHTS_FOLDER = Path(__file__).parent / "weights"
"""Weights that ship with the project, one file `<preset>.safetensors` each."""
ENCODERS = ("conv", "conv_stem", "dinov2_vits14_reg", "dinov2_vitl14_reg")
ENCODER_WIDTH = {"dinov2_vits14_reg": 384, "dinov2_vitl14_reg": 1024}
ENCODER_DEPTH = {"dinov2_vits14_reg": 12, "dinov2_vitl14_reg": 24}
ENCODER_HEAD_WIDTH = 64
FINE_FEATURES = -1  # their key among a chunk's features; the others are numbered by layer
MemoryScope = Literal["drive", "chunk", "off"]
"""The chunks over which a memory's step is summed: all (GCS), each chunk alone (without GCS), or no memory at all."""
STEM_CELL = 4  # side in pixels of a fine cell of the encoder conv_stem


@dataclass(frozen=True)
class ModelConfig:
    """Shape of the Scal3R network. The defaults are the published one (`scal3r.pt`, 1.266 B parameters)."""

    embed_dim: int = 1024
    """Width d of the aggregator's tokens; with a DINOv2 encoder also the encoder's width."""
    depth: int = 24
    """Aggregator layers; each is one frame-attention and one global-attention block."""
    num_heads: int = 16
    """Attention heads of the aggregator."""
    encoder: str = "dinov2_vitl14_reg"
    """Frames to patch tokens: conv (one strided convolution), conv_stem (a few), dinov2_vits14_reg or
    dinov2_vitl14_reg."""
    image_size: int = 518
    """Side in pixels of the square image the position embedding was trained on; frames are made this wide."""
    patch_size: int = 14
    """Side in pixels of a patch."""
    memory_layers: tuple[int, ...] = (14, 17, 20, 23)
    """Layers whose global block is followed by a Global Context Memory. Empty: plain VGGT, chunk by chunk."""
    dense_layers: tuple[int, ...] = (4, 11, 17, 23)
    """The four layers whose features the dense heads read."""
    dense_features: int = 256
    """Channels inside the dense heads' fusion."""
    dense_channels: tuple[int, ...] = (256, 512, 1024, 1024)
    """Channels to which the four features are projected."""
    camera_trunk_depth: int = 4
    """Blocks of the camera head's trunk."""
    camera_heads: int = 16
    """Attention heads of the camera head's trunk."""
    mlp_ratio: int = 4
    """Hidden width of an MLP divided by its width."""
    memory_hidden_ratio: int = 4
    """Hidden width of the memory's fast weights divided by d."""
    memory_base_rate: float = 0.01
    """Learning rate of the memory if its rate head gives zero."""
    memory_steps: int = 5
    """Newton-Schulz steps of an update."""
    register_tokens: int = 4
    """Register tokens per frame, besides its one camera token."""
    rope_base: float = 100.0
    """Base of the rotary frequencies."""
    camera_rounds: int = 4
    """Refinement rounds of the camera head."""
    layer_scale: float = 0.01
    """Initial LayerScale factors of the aggregator and the camera trunk (training only)."""
    chunk_size: int = 60
    """Frames per chunk for which the network was trained."""
    chunk_overlap: int = 30
    """Frames that neighbouring chunks shared in training."""
    frame_order: bool = False
    """Add a projection of a frame's time offset in its chunk to its camera token. Not in the published network. Small
    networks need it to tell frames apart."""

    motion_radius: int = 0
    """Correlate each cell of 4 x 4 pixels with the cells of both neighbouring frames up to this many cells away, and
    add a projection of the correlations to the patch tokens; 0: do not. Not in the published network. It gives a small
    network the correspondences that it would not learn. Needs the encoder conv_stem."""
    motion_channels: int = 24
    """Channels of the features that are correlated."""
    dense_skip: bool = False
    """Give the motion cue's fine features to the dense heads too, for sharper edges. Not in the published network.
    Needs motion_radius above 0."""

    def __post_init__(self) -> None:
        """Raises ValueError, which names the field, if the network cannot be built."""
        if self.encoder not in ENCODERS:
            raise ValueError(f"encoder must be one of {', '.join(ENCODERS)}, not {self.encoder!r}")
        if self.encoder not in ("conv", "conv_stem") and ENCODER_WIDTH[self.encoder] != self.embed_dim:
            raise ValueError(
                f"encoder {self.encoder} gives tokens {ENCODER_WIDTH[self.encoder]} wide, embed_dim is {self.embed_dim}"
            )
        for name in (
            "embed_dim",
            "depth",
            "num_heads",
            "image_size",
            "patch_size",
            "dense_features",
            "camera_trunk_depth",
            "camera_heads",
            "mlp_ratio",
            "memory_hidden_ratio",
            "motion_channels",
            "memory_steps",
            "camera_rounds",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.register_tokens < 0:
            raise ValueError(f"register_tokens must not be negative, not {self.register_tokens}")
        for name in ("memory_base_rate", "rope_base"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")
        if self.encoder == "conv_stem" and self.patch_size % STEM_CELL:
            raise ValueError(
                f"encoder conv_stem needs a patch_size that is a multiple of {STEM_CELL}, not {self.patch_size}"
            )
        if self.motion_radius < 0 or (self.motion_radius and self.encoder != "conv_stem"):
            raise ValueError(f"motion_radius {self.motion_radius} must be 0, or above it with encoder conv_stem")
        if self.dense_skip and not self.motion_radius:
            raise ValueError("dense_skip uses the motion cue's features: motion_radius must be above 0")
        if self.embed_dim % self.num_heads or (self.embed_dim // self.num_heads) % 4:
            raise ValueError(
                f"embed_dim {self.embed_dim} over num_heads {self.num_heads} must be a multiple of 4: "
                "rotary positions pair up both halves of a head"
            )
        if 2 * self.embed_dim % self.camera_heads:
            raise ValueError(f"twice embed_dim must be a multiple of camera_heads {self.camera_heads}")
        if not 0 <= self.chunk_overlap < self.chunk_size:
            raise ValueError(f"chunk_overlap {self.chunk_overlap} must be under chunk_size {self.chunk_size}")
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}")
        if len(self.dense_layers) != 4 or len(self.dense_channels) != 4:
            raise ValueError("dense_layers and dense_channels must name four layers and four widths")
        if any(c < 4 or c % 4 for c in self.dense_channels) or self.dense_features % 8:
            raise ValueError("dense_channels must be multiples of 4 and dense_features of 8 (grid embedding)")
        for name in ("memory_layers", "dense_layers"):
            layers = getattr(self, name)
            if list(layers) != sorted(set(layers)) or any(not 0 <= i < self.depth for i in layers):
                raise ValueError(f"{name} {layers} must rise and lie within 0..{self.depth - 1}")

    @classmethod
    def scal3r(cls) -> ModelConfig:
        """The published network."""
        return cls()

    @classmethod
    def city_tiny(cls) -> ModelConfig:
        """The small network whose trained weights come with the project (`models/weights/city_tiny.md`)."""
        return cls(
            embed_dim=128,
            depth=4,
            num_heads=4,
            encoder="conv_stem",
            image_size=128,
            patch_size=16,
            memory_layers=(1, 2),
            dense_layers=(0, 1, 2, 3),
            dense_features=32,
            dense_channels=(32, 32, 64, 64),
            camera_trunk_depth=1,
            camera_heads=4,
            memory_hidden_ratio=2,
            register_tokens=1,
            layer_scale=1.0,
            frame_order=True,
            motion_radius=3,
            motion_channels=16,
            dense_skip=True,
            chunk_size=12,
            chunk_overlap=6,
        )

    @classmethod
    def vit_small(cls) -> ModelConfig:
        """A medium network with the ViT-S/14 encoder: for measurements on a CPU, no trained weights."""
        return cls(
            embed_dim=384,
            depth=6,
            num_heads=6,
            encoder="dinov2_vits14_reg",
            image_size=518,
            memory_layers=(2, 5),
            dense_layers=(1, 2, 3, 5),
            dense_features=64,
            dense_channels=(32, 64, 128, 128),
            camera_trunk_depth=4,
            camera_heads=8,
        )

    @classmethod
    def preset(cls, name: str) -> ModelConfig:
        """A preset by its name. Raises ValueError that lists the presets."""
        if name not in cls.preset_names():
            raise ValueError(f"no preset {name!r}; there are {', '.join(cls.preset_names())}")
        made: ModelConfig = getattr(cls, name)()
        return made

    @classmethod
    def preset_names(cls) -> tuple[str, ...]:
        """Names that `preset` takes, sorted."""
        return ("city_tiny", "scal3r", "vit_small")

    @property
    def special_tokens(self) -> int:
        """Tokens before the patches of a frame: the camera token and the registers."""
        return 1 + self.register_tokens

    @property
    def dense_inputs(self) -> tuple[int, ...]:
        """Keys of the features that the dense heads read: the dense layers, then the fine features if any."""
        return (*self.dense_layers, FINE_FEATURES) if self.dense_skip else self.dense_layers

    @property
    def segments(self) -> tuple[range, ...]:
        """Layers of each segment. A segment ends with a memory's layer, the last one with the last layer."""
        ends = [layer + 1 for layer in self.memory_layers]
        if not ends or ends[-1] != self.depth:
            ends.append(self.depth)
        starts = [0, *ends[:-1]]
        return tuple(range(a, b) for a, b in zip(starts, ends, strict=True))

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON, as stored with weights and results."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, object]) -> ModelConfig:
        """The inverse of `to_dict`. Raises ValueError for unknown keys and values that cannot be built."""
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(f"unknown model settings: {', '.join(unknown)}")
        # the constructor checks them
        settings: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**settings)
