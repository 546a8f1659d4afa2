"""The whole network. `forward_drive` is the plain reference: one device, one loop over chunks.

Tests compare everything faster or distributed with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.aggregator import Aggregator
from models.camera_head import CameraHead
from models.config import MemoryScope, ModelConfig
from models.context_memory import ContextMemory, RMSNorm
from models.dense_head import DenseHead, depth_from, points_from
from models.fast_weights import FastWeights
from models.tokens import ChunkState, middle_first

# How much goes through the encoder, an early projection or a dense head at once. The results do not depend on it.
_CPU_FRAMES = 8  # more do not make a CPU faster
_GPU_TOKENS = 2**15  # enough to use a GPU fully in every product; hidden units then take 0.3 GB
_GPU_MAP_BYTES = 7 * 10**8  # of a dense head's largest map; one pass needs about four times as much


@dataclass
class Prediction:
    """The network's output for one chunk, frames in the network's order (reference first), float32.

    frame_index (S,) int64; pose_encoding (S, 9): cameras in the coordinates of the reference camera
    (models.pose_encoding); depth (S, H, W): z-depth; depth_confidence (S, H, W): at least 1; points (S, H, W, 3) in the
    coordinates of the reference camera and points_confidence (S, H, W), None if not requested.
    """

    frame_index: Tensor
    pose_encoding: Tensor
    depth: Tensor
    depth_confidence: Tensor
    points: Tensor | None = None
    points_confidence: Tensor | None = None


class Reconstructor(nn.Module):
    """Frames of overlapping chunks -> cameras and depth, with a memory of the whole drive (Scal3R)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.aggregator = Aggregator(config)
        self.camera_head = CameraHead(config)
        self.depth_head = DenseHead(config, values=1)
        self.point_head = DenseHead(config, values=3)

    # -- one drive, plainly ---------------------------------------------------------------------------------

    @torch.no_grad()
    def forward_drive(
        self,
        images: Tensor,
        chunks: Sequence[Sequence[int]],
        with_points: bool = True,
        orthogonalise_dtype: torch.dtype = torch.float32,
        memory_scope: MemoryScope = "drive",
    ) -> list[Prediction]:
        """All chunks of one drive on one device.

        images (N, 3, H, W) in [0, 1], H and W multiples of the patch size. chunks: frame numbers in time
        order. orthogonalise_dtype: of the update's Newton-Schulz iteration. Returns one prediction per chunk.
        Raises ValueError for images or chunks of the wrong shape.
        """
        self._check(images, chunks)
        orders = [middle_first(list(chunk)) for chunk in chunks]
        states = [self.begin(self.encode(images[order])[None], self.grid_of(images)) for order in orders]
        for segment in range(len(self.config.segments)):
            states = [self.aggregator.run_segment(state) for state in states]
            steps = [self.aggregator.memory_step(state) for state in states]
            weights = self._memories(segment, steps, orthogonalise_dtype, memory_scope)
            states = [self.aggregator.finish_segment(s, w) for s, w in zip(states, weights, strict=True)]
        return [self.predict(s, order, with_points) for s, order in zip(states, orders, strict=True)]

    def _memories(
        self, segment: int, steps: list[FastWeights | None], dtype: torch.dtype, scope: MemoryScope
    ) -> list[FastWeights | None]:
        """The memory's weights for each chunk at the end of a segment, from the steps of all chunks."""
        present = [step for step in steps if step is not None]
        if scope == "off" or not present:
            return [None] * len(steps)
        if scope == "chunk":
            return [self.aggregator.memory_update(segment, step, dtype) for step in present]
        total = FastWeights(*(torch.stack(parts).sum(0) for parts in zip(*present, strict=True)))
        return [self.aggregator.memory_update(segment, total, dtype)] * len(steps)

    # -- the parts, for the pipeline, training and benchmarks -----------------------------------------------

    def grid_of(self, images: Tensor) -> tuple[int, int]:
        """Patches (rows, cols) of images (..., H, W)."""
        return images.shape[-2] // self.config.patch_size, images.shape[-1] // self.config.patch_size

    def encode(self, images: Tensor) -> Tensor:
        """images (S, 3, H, W) in [0, 1], or uint8 -> patch tokens (S, patches, d), a few frames at a time."""
        rows, cols = self.grid_of(images)
        parts = images.split(self._frames_by_tokens(rows * cols))
        return (
            torch.cat([self.aggregator.encode(part) for part in parts])
            if len(parts) > 1
            else self.aggregator.encode(images)
        )

    def begin(self, patch_tokens: Tensor, grid: tuple[int, int]) -> ChunkState:
        """Patch tokens (B, S, patches, d), reference frame first -> the state before the first layer."""
        return self.aggregator.begin(patch_tokens, grid)

    def keep_projected(self, layer: int, frame_half: Tensor, global_half: Tensor) -> Tensor:
        """For the aggregator's `keep`: a dense layer projected by the depth head, in the tokens' dtype.

        Its shape is (B, S, patches, channels) instead of 2d wide. It gives the same depth and takes a fraction of the
        bytes, but points cannot be computed from it.
        """
        place, frames = self.config.dense_layers.index(layer), self._frames_by_tokens(frame_half.shape[2])
        halves = (half.flatten(0, 1).split(frames) for half in (frame_half, global_half))
        kept = [self.depth_head.project_early(place, *parts) for parts in zip(*halves, strict=True)]
        return (torch.cat(kept) if len(kept) > 1 else kept[0]).unflatten(0, frame_half.shape[:2])

    @property
    def device(self) -> torch.device:
        """The device of the network's parameters."""
        return self.aggregator.camera_token.device

    def _frames_by_tokens(self, tokens: int) -> int:
        """How many frames of this many tokens go through a product at once."""
        return _CPU_FRAMES if self.device.type == "cpu" else max(1, _GPU_TOKENS // tokens)

    def _frames_by_maps(self, grid: tuple[int, int]) -> int:
        """Frames that go through a dense head at once."""
        pixels = grid[0] * grid[1] * self.config.patch_size**2
        largest = 4 * pixels * (self.config.dense_features // 2)
        return _CPU_FRAMES if self.device.type == "cpu" else max(1, _GPU_MAP_BYTES // largest)

    def predict(
        self, state: ChunkState, order: Sequence[int], with_points: bool = False, projected: bool = False
    ) -> Prediction:
        """Run the heads on one chunk (B = 1) that has passed all segments. order: its frame numbers, reference first.

        projected: its features come from `keep_projected`. Raises ValueError for a chunk that has not passed all
        segments, or points of projected features.
        """
        if state.camera is None:
            raise ValueError("the chunk has not passed all segments yet")
        if projected and with_points:
            raise ValueError("points need whole features, not those that the depth head has projected")
        pose = self.camera_head(state.camera.to(self.camera_head.empty_pose_tokens.dtype))[0]
        depth, depth_confidence = self._dense(
            self.depth_head, self.depth_head.fuse if projected else self.depth_head, state
        )
        prediction = Prediction(
            frame_index=torch.as_tensor(list(order), dtype=torch.int64),
            pose_encoding=pose,
            depth=depth_from(depth),
            depth_confidence=depth_confidence,
        )
        if with_points:
            points, prediction.points_confidence = self._dense(self.point_head, self.point_head, state)
            prediction.points = points_from(points)
        return prediction

    def _dense(
        self, head: DenseHead, run: Callable[..., tuple[Tensor, Tensor]], state: ChunkState
    ) -> tuple[Tensor, Tensor]:
        dtype = head.output1.weight.dtype
        features = [state.features[layer][0] for layer in self.config.dense_inputs]
        frames = self._frames_by_maps(state.grid)
        parts = [
            run([f[a : a + frames].to(dtype) for f in features], state.grid)
            for a in range(0, features[0].shape[0], frames)
        ]
        values, confidence = zip(*parts, strict=True)
        return torch.cat(values), torch.cat(confidence)

    # -- precision ------------------------------------------------------------------------------

    def set_precision(self, dtype: torch.dtype) -> Reconstructor:
        """Run encoder, attention and memory products in `dtype` (float32 or bfloat16); returns self.

        Norms, rates, fast weights, the camera head and the dense heads stay float32, as in the published inference.
        Raises ValueError for other dtypes.
        """
        if dtype not in (torch.float32, torch.bfloat16):
            raise ValueError(f"precision must be float32 or bfloat16, not {dtype}")
        kept: set[int] = set()  # never cast down, not even temporarily: that would round them
        for module in self.aggregator.modules():
            if isinstance(module, ContextMemory):
                kept.update(map(id, (module.w0, module.w1, module.w2, *module.lrs.parameters())))
            elif isinstance(module, (nn.LayerNorm, RMSNorm)):
                kept.update(map(id, module.parameters()))
        for parameter in self.aggregator.parameters():
            parameter.data = parameter.data.to(torch.float32 if id(parameter) in kept else dtype)
        for head in (self.camera_head, self.depth_head, self.point_head):
            head.float()  # a checkpoint may have been stored in lower precision
        return self

    def _check(self, images: Tensor, chunks: Sequence[Sequence[int]]) -> None:
        patch = self.config.patch_size
        if (
            images.ndim != 4
            or images.shape[1] != 3
            or min(images.shape[2:]) < patch
            or images.shape[2] % patch
            or images.shape[3] % patch
        ):
            raise ValueError(f"images must be (N, 3, H, W), sides multiples of {patch}, not {tuple(images.shape)}")
        if not chunks or any(not len(chunk) for chunk in chunks):
            raise ValueError("a drive needs at least one chunk, and a chunk at least one frame")
        named = {int(frame) for chunk in chunks for frame in chunk}
        absent = sorted(frame for frame in named if not 0 <= frame < images.shape[0])
        if absent:
            raise ValueError(f"chunks name frame {absent[0]}, there are {images.shape[0]}")
