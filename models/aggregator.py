"""Alternating frame and global attention over the tokens of a chunk, cut into segments at the memory layers.

A segment ends after a memory's global block, because every chunk of a drive must reach a memory before any chunk reads
it. The caller waits for all chunks at this barrier: `Reconstructor.forward_drive` in one loop on one device,
`pipeline/forward/phases.py` with many processes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from models.block import Block
from models.config import FINE_FEATURES, ModelConfig
from models.context_memory import ContextMemory
from models.encoder import ConvStem, make_encoder
from models.fast_weights import FastWeights
from models.motion import MotionCue
from models.rope import RopeTable, rope_table
from models.tokens import ChunkState, time_offsets

_IMAGE_MEAN = (0.485, 0.456, 0.406)
_IMAGE_DEVIATION = (0.229, 0.224, 0.225)

Keep = Callable[[int, Tensor, Tensor], Tensor]
"""The number of a dense layer and the outputs of its frame block and its global block for the patches (the two halves
of the feature, (B, S, patches, d) each) -> what is kept of them for the heads."""


def whole_feature(layer: int, frame_half: Tensor, global_half: Tensor) -> Tensor:
    """Both halves unchanged, (B, S, patches, 2d). The plain twin (`forward_drive`) and training keep these."""
    return torch.cat([frame_half, global_half], dim=-1)


class Aggregator(nn.Module):
    """Encoder, special tokens, attention blocks and memories (Scal3R; VGGT's alternating attention)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        d = config.embed_dim
        self.config = config
        self.encoder = make_encoder(config)
        # index 0: the chunk's reference frame, 1: all others
        self.camera_token = nn.Parameter(torch.randn(1, 2, 1, d) * 0.02)
        self.register_token = nn.Parameter(torch.randn(1, 2, config.register_tokens, d) * 0.02)
        self.frame_order = nn.Linear(2, d, bias=False) if config.frame_order else None

        self.motion = (
            MotionCue(d, self.encoder.cells, config.motion_channels, config.motion_radius)
            if isinstance(self.encoder, ConvStem) and config.motion_radius
            else None
        )

        def blocks() -> nn.ModuleList:
            return nn.ModuleList(
                Block(d, config.num_heads, config.mlp_ratio, qk_norm=True, layer_scale=config.layer_scale)
                for _ in range(config.depth)
            )

        self.frame_blocks = blocks()
        self.global_blocks = blocks()
        self.memories = nn.ModuleDict(
            {
                str(layer): ContextMemory(d, config.memory_hidden_ratio, config.memory_base_rate, config.memory_steps)
                for layer in config.memory_layers
            }
        )
        self._made_once: dict[tuple[object, ...], tuple[Tensor, ...]] = {}

    def encode(self, images: Tensor) -> Tensor:
        """images (S, 3, H, W) in [0, 1], or uint8 -> patch tokens (S, patches, d), each frame by itself.

        With a motion cue the tokens are wider: after the first d channels come the fine features that `begin` needs.
        """
        scale, shift = self._constants("normalisation", images, _normalisation)
        images = images / 255 if images.dtype == torch.uint8 else images  # the same rounding as on the host
        return self.encoder(torch.addcmul(shift, images, scale))

    def begin(self, patch_tokens: Tensor, grid: tuple[int, int]) -> ChunkState:
        """The state of chunks before the first layer, from the encoder's tokens (B, S, patches, d), reference frame
        first. grid: rows and columns of patches."""
        features: dict[int, Tensor] = {}
        if self.motion is not None:
            d = self.config.embed_dim
            fine = patch_tokens[..., d:]
            features = {FINE_FEATURES: fine} if self.config.dense_skip else {}
            patch_tokens = self.motion(patch_tokens[..., :d], fine, grid)
        b, s = patch_tokens.shape[:2]
        camera = _first_and_others(self.camera_token, s).expand(b, -1, -1, -1)
        if self.frame_order is not None:
            (time,) = self._constants(("times", s), self.frame_order.weight, lambda: _time_encoding(s))
            camera = camera + self.frame_order(time.to(self.frame_order.weight.dtype))[None, :, None]
        registers = _first_and_others(self.register_token, s).expand(b, -1, -1, -1)
        dtype = patch_tokens.dtype
        tokens = torch.cat([camera.to(dtype), registers.to(dtype), patch_tokens], dim=2)
        return ChunkState(tokens=tokens, grid=grid, features=features)

    def run_segment(self, state: ChunkState, keep: Keep = whole_feature) -> ChunkState:
        """Run the layers of the state's next segment, up to the memory at its end if it has one.

        keep: what is kept of a dense layer. `finish_segment` must follow, also if there is no memory.

        In inference in bfloat16 the special tokens are summed in float32: poses are read from the camera tokens, and
        rounding their sums in every block causes most of the difference from a float32 trajectory.
        """
        b, s, p, d = state.tokens.shape
        specials = self.config.special_tokens
        rope = self._table(state.grid, d // self.config.num_heads, specials)
        x = state.tokens
        exact, frame_camera = None, None
        if x.dtype != torch.float32 and not (torch.is_grad_enabled() and x.requires_grad):
            known = x[:, :, :specials].float() if state.special is None else state.special.clone()
            exact = known.reshape(b * s, specials, d)
        layers = self.config.segments[state.next_segment]
        features = dict(state.features)
        for layer in layers:
            x = frame_half = self.frame_blocks[layer](x.reshape(b * s, p, d), rope, exact).view(b, s, p, d)
            if exact is not None and layer == self.config.depth - 1:
                frame_camera = exact[:, 0].reshape(b, s, d).clone()
            x = self.global_blocks[layer](x.reshape(b, s * p, d), rope, exact).view(b, s, p, d)
            if layer != layers[-1] and layer in self.config.dense_layers:
                features[layer] = self._feature(layer, frame_half, x, keep)
        wanted = layers[-1] in self.config.dense_layers or layers[-1] == self.config.depth - 1
        return ChunkState(
            x,
            state.grid,
            state.next_segment,
            features,
            frame_half=frame_half if wanted else None,
            special=None if exact is None else exact.view(b, s, specials, d),
            frame_camera=frame_camera,
            at_barrier=True,
        )

    def memory_step(self, state: ChunkState) -> FastWeights | None:
        """The chunks' steps for the memory at the end of their segment, float32 (B, ...); None if there is none."""
        memory = self._memory_at(state.next_segment)
        if memory is None:
            return None
        return memory.step(self._patch_sequence(state), self._memory_table(state))

    def memory_update(self, segment: int, step: FastWeights, dtype: torch.dtype) -> FastWeights:
        """The updated weights of the memory at the end of a segment, from the step summed over all chunks of a drive;
        dtype: of the Newton-Schulz iteration. Raises ValueError if the segment ends without a memory."""
        memory = self._memory_at(segment)
        if memory is None:
            raise ValueError(f"there is no memory at the end of segment {segment}")
        return memory.update(step, dtype)

    def finish_segment(self, state: ChunkState, weights: FastWeights | None, keep: Keep = whole_feature) -> ChunkState:
        """Read the memory, keep the features of the segment's last layer, and advance the state to the next segment.

        weights: the updated memory, (1, ...) for all chunks of the state or (B, ...); None: no memory is read. Special
        tokens do not change. keep: the same function as in `run_segment`. Raises ValueError if `run_segment` did not
        come before, or if weights are given where there is no memory.
        """
        if not state.at_barrier:
            raise ValueError("finish_segment must follow run_segment")
        x = state.tokens
        specials = self.config.special_tokens
        if weights is not None:
            memory = self._memory_at(state.next_segment)
            if memory is None:
                raise ValueError(f"there is no memory at the end of segment {state.next_segment}")
            patches = memory.apply_to(self._patch_sequence(state), weights, self._memory_table(state))
            x = torch.cat([x[:, :, :specials], patches.view(x[:, :, specials:].shape)], dim=2)
        layer = self.config.segments[state.next_segment][-1]
        features, frame_half = dict(state.features), state.frame_half
        if layer in self.config.dense_layers:
            assert frame_half is not None
            features[layer] = self._feature(layer, frame_half, x, keep)
        camera = None
        if layer == self.config.depth - 1:
            assert frame_half is not None
            halves = frame_half[:, :, 0], x[:, :, 0]
            if state.special is not None and state.frame_camera is not None:
                halves = state.frame_camera, state.special[:, :, 0]
            camera = torch.cat(halves, dim=-1)
        return ChunkState(x, state.grid, state.next_segment + 1, features, camera=camera, special=state.special)

    def _memory_at(self, segment: int) -> ContextMemory | None:
        layer = self.config.segments[segment][-1]
        return self.memories[str(layer)] if layer in self.config.memory_layers else None  # type: ignore[return-value]

    def _patch_sequence(self, state: ChunkState) -> Tensor:
        """(B, L, d), L = S x patches: the tokens on which the memory acts."""
        return state.tokens[:, :, self.config.special_tokens :].flatten(1, 2)

    def _feature(self, layer: int, frame_half: Tensor, global_half: Tensor, keep: Keep) -> Tensor:
        specials = self.config.special_tokens
        return keep(layer, frame_half[:, :, specials:], global_half[:, :, specials:])

    def _memory_table(self, state: ChunkState) -> RopeTable:
        return self._table(state.grid, self.config.embed_dim, 0)

    def _table(self, grid: tuple[int, int], width: int, specials: int) -> RopeTable:
        made = self._constants(
            (grid, width, specials), self.camera_token, lambda: rope_table(grid, width, specials, self.config.rope_base)
        )
        return RopeTable(*made)

    def _constants(self, key: object, like: Tensor, make: Callable[[], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """The result of `make`, moved once to the device of `like`, so that no later chunk waits for this copy."""
        place = (key, like.device)
        if place not in self._made_once:
            with torch.inference_mode(False):
                self._made_once[place] = tuple(tensor.to(like.device) for tensor in make())
        return self._made_once[place]


def _normalisation() -> tuple[Tensor, Tensor]:
    """Scale and shift (1, 3, 1, 1): x * scale + shift is (x - mean) / deviation."""
    mean, deviation = (torch.tensor(values).view(1, 3, 1, 1) for values in (_IMAGE_MEAN, _IMAGE_DEVIATION))
    return 1 / deviation, -mean / deviation


def _first_and_others(tokens: Tensor, frames: int) -> Tensor:
    """Special tokens (1, 2, n, d) -> (1, frames, n, d): index 0 for the first frame, 1 for the others."""
    return torch.cat([tokens[:, :1], tokens[:, 1:].expand(-1, frames - 1, -1, -1)], dim=1)


def _time_encoding(frames: int) -> tuple[Tensor]:
    """(frames, 2): each frame's time offset from the reference frame, in tens of frames, and its tanh, which separates
    frames near the reference."""
    offset = torch.tensor(time_offsets(frames), dtype=torch.float32)
    return (torch.stack([offset / 10, torch.tanh(offset / 2)], dim=-1),)
