"""Three ways to run the network on the same weights and frames, each timed by phase.

release   the published program's order of work, only for comparison: float32, shared frames encoded once per chunk,
          layer by layer over all chunks with each chunk's tokens copied to the device and back, whole features of
          four layers copied to the host, all of q, k, v and rates computed at a memory's step and again at its read,
          maps resized before the 1x1 convolution, depth and points. Two slow parts of it are left out: rotary tables
          gathered position by position, grid embeddings made again for every 8 frames
plain     the order of work of Reconstructor.forward_drive, without points
fast      the pipeline's order of work: shared frames encoded once, one barrier per memory, features projected at once,
          depth only
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from types import MethodType
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from models.aggregator import whole_feature
from models.config import FINE_FEATURES, ModelConfig
from models.context_memory import ContextMemory
from models.dense_head import FusionBlock
from models.fast_weights import FastWeights
from models.reconstructor import Prediction, Reconstructor
from models.rope import RopeTable, rotate
from models.tokens import ChunkState, middle_first

Mode = Literal["release", "plain", "fast"]


@dataclass
class Timed:
    """The result of a run: predictions on the host, seconds per phase (clock and CPU), and the most bytes that a chunk
    held at a barrier."""

    predictions: list[Prediction] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    cpu_seconds: dict[str, float] = field(default_factory=dict)
    state_bytes: int = 0
    by_phase: bool = True
    """Whether the run waits for the device before and after every phase, to measure each."""

    @property
    def total(self) -> float:
        """Seconds of all phases."""
        return sum(self.seconds.values())

    @property
    def cpu_total(self) -> float:
        """CPU seconds of all phases, which depend little on the load of the machine."""
        return sum(self.cpu_seconds.values())

    def spent(self, device: torch.device) -> dict[str, float]:
        """Seconds per phase for computing rates: CPU seconds on a CPU, which other processes may use too."""
        return self.cpu_seconds if device.type == "cpu" else self.seconds

    @contextmanager
    def phase(self, name: str, device: torch.device) -> Iterator[None]:
        """Add the time spent inside to a phase."""
        if not self.by_phase:
            yield
            return
        wait_for(device)
        clock, cpu = time.perf_counter(), time.process_time()
        yield
        wait_for(device)
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - clock
        self.cpu_seconds[name] = self.cpu_seconds.get(name, 0.0) + time.process_time() - cpu


def made_up_network(config: ModelConfig, dtype: torch.dtype, device: torch.device, seed: int = 0) -> Reconstructor:
    """A network with random weights, whose memories have an effect, made on the device."""
    torch.manual_seed(seed)
    with torch.device(device):
        model = Reconstructor(config)
        for memory in model.aggregator.memories.values():
            torch.nn.init.normal_(memory.proj.weight, std=0.02)  # type: ignore[union-attr, arg-type]
    return model.requires_grad_(False).set_precision(dtype).eval()


def made_up_frames(count: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Smooth images that move sideways from frame to frame, (N, 3, H, W) uint8."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, height // 7 + 1, (width + 4 * count) // 7 + 2, generator=generator)
    wide = torch.nn.functional.interpolate(coarse, size=(height, width + 4 * count), mode="bicubic")[0]
    wide = (wide.clamp(0, 1) * 255).to(torch.uint8)
    return torch.stack([wide[:, :, 4 * i : 4 * i + width] for i in range(count)])


def chunks_of(frames: int, size: int, overlap: int) -> list[range]:
    """The chunks of a drive: chunk k starts at frame k (size - overlap); the first that reaches the end is the last."""
    count = 1 if frames <= size else -((overlap - frames) // (size - overlap))
    return [range(k * (size - overlap), min(k * (size - overlap) + size, frames)) for k in range(count)]


@torch.inference_mode()
def run(
    mode: Mode, model: Reconstructor, frames: Tensor, chunks: Sequence[Sequence[int]], by_phase: bool = True
) -> Timed:
    """Run one drive. frames (N, 3, H, W) uint8 on the host; the arithmetic is that of the model's precision.

    by_phase: measure every phase, waiting for the device around each; otherwise there is one phase, "drive".
    """
    timed = Timed()
    if by_phase:
        _run(mode, model, frames, chunks, timed)
    else:
        inner = Timed(by_phase=False)
        with timed.phase("drive", model.device):
            _run(mode, model, frames, chunks, inner)
        timed.predictions, timed.state_bytes = inner.predictions, inner.state_bytes
    return timed


def _run(mode: Mode, model: Reconstructor, frames: Tensor, chunks: Sequence[Sequence[int]], timed: Timed) -> None:
    states = _encoded(mode, model, frames, chunks, timed)
    if mode == "release":
        _layer_by_layer(model, states, timed)
    else:
        _barrier_by_barrier(model, states, timed, projected=mode == "fast")
    device = model.aggregator.camera_token.device
    with _resized_first(model) if mode == "release" else nullcontext():
        for number, chunk in enumerate(chunks):
            with timed.phase("heads", device):
                state = _copy(states[number], device) if mode == "release" else states[number]
                found = model.predict(
                    state, middle_first(list(chunk)), with_points=mode == "release", projected=mode == "fast"
                )
                found.points = found.points_confidence = None  # large, and not compared
                timed.predictions.append(_on_host(found, pinned=mode == "fast" and device.type == "cuda"))
            states[number] = None  # type: ignore[call-overload]
    with timed.phase("heads", device):
        wait_for(device)  # for the last copies


def _encoded(
    mode: Mode, model: Reconstructor, frames: Tensor, chunks: Sequence[Sequence[int]], timed: Timed
) -> list[ChunkState]:
    """The states of all chunks before the first layer."""
    device = model.aggregator.camera_token.device
    grid = model.grid_of(frames)
    states: list[ChunkState] = []
    known: dict[int, Tensor] = {}
    for chunk in chunks:
        with timed.phase("encode", device):
            known = {f: known[f] for f in chunk if f in known} if mode == "fast" else {}
            new = [f for f in chunk if f not in known]
            if new:
                there = _to_device(frames[new], device, pinned=mode == "fast" and device.type == "cuda")
                known.update(zip(new, model.encode(there), strict=True))
            tokens = torch.stack([known[f] for f in middle_first(list(chunk))])
            state = model.begin(tokens[None], grid)
            states.append(_copy(state) if mode == "release" else state)
    return states


def _barrier_by_barrier(model: Reconstructor, states: list[ChunkState], timed: Timed, projected: bool) -> None:
    aggregator, device = model.aggregator, model.aggregator.camera_token.device
    keep = model.keep_projected if projected else whole_feature
    for segment in range(len(model.config.segments)):
        total: FastWeights | None = None
        for number in range(len(states)):
            with timed.phase("layers", device):
                states[number] = aggregator.run_segment(states[number], keep)
            timed.state_bytes = max(timed.state_bytes, states[number].nbytes)
            with timed.phase("memory steps", device):
                total = _sum(total, aggregator.memory_step(states[number]))
        with timed.phase("memory reads", device):
            weights = None
            if total is not None:
                weights = aggregator.memory_update(segment, total, torch.float32).to(states[0].tokens.dtype)
            for number in range(len(states)):
                states[number] = aggregator.finish_segment(states[number], weights, keep)


def _layer_by_layer(model: Reconstructor, states: list[ChunkState], timed: Timed) -> None:
    """As published: for every layer, every chunk's tokens are copied to the device and back."""
    aggregator, config = model.aggregator, model.config
    device, specials, d = aggregator.camera_token.device, config.special_tokens, config.embed_dim
    wanted = {*config.dense_layers, config.depth - 1}
    for segment, layers in enumerate(config.segments):
        for layer in layers:
            for state in states:
                with timed.phase("layers", device):
                    b, s, p, _ = state.tokens.shape
                    rope = aggregator._table(state.grid, d // config.num_heads, specials)
                    x = _moved(state.tokens, device)
                    half = aggregator.frame_blocks[layer](x.reshape(b * s, p, d), rope).view(b, s, p, d)
                    x = aggregator.global_blocks[layer](half.reshape(b, s * p, d), rope).view(b, s, p, d)
                    if layer in wanted:
                        state.features[layer] = _moved(torch.cat([half, x], dim=-1))
                    state.tokens = _moved(x)
                timed.state_bytes = max(timed.state_bytes, state.nbytes)
        total: FastWeights | None = None
        for state in states:
            with timed.phase("memory steps", device):
                here = replace(state, tokens=_moved(state.tokens, device), features={}, at_barrier=True)
                total = _sum(total, aggregator.memory_step(here))
                if total is not None:
                    _query(model, segment, here)
        with timed.phase("memory reads", device):
            weights = None if total is None else aggregator.memory_update(segment, total, torch.float32)
            for state in states:
                if weights is not None:
                    here = replace(state, tokens=_moved(state.tokens, device), features={})
                    _keys(model, segment, here)
                    state.tokens = _moved(_read(model, segment, here, weights))
                    if layers[-1] in wanted:  # the global half is replaced, on the host
                        first = state.features[layers[-1]][..., :d]
                        state.features[layers[-1]] = torch.cat([first, state.tokens], dim=-1)
                state.next_segment += 1
    for state in states:
        state.camera = state.features[config.depth - 1][:, :, 0]
        state.tokens = state.tokens.new_empty(0)  # the heads need only features
        fine = {FINE_FEATURES: state.features[FINE_FEATURES]} if config.dense_skip else {}
        state.features = {layer: state.features[layer][:, :, specials:] for layer in config.dense_layers} | fine


def _read(model: Reconstructor, segment: int, state: ChunkState, weights: FastWeights) -> Tensor:
    """The chunk's tokens after the memory's output was added to the patches."""
    memory, patches, rope = _at_memory(model, segment, state)
    specials = model.config.special_tokens
    read = memory.apply_to(patches, weights, rope).view(state.tokens[:, :, specials:].shape)
    return torch.cat([state.tokens[:, :, :specials], read], dim=2)


def _query(model: Reconstructor, segment: int, state: ChunkState) -> None:
    """The published program computes queries at a memory's step, although the step does not use them."""
    memory, patches, rope = _at_memory(model, segment, state)
    width = patches.shape[-1]
    rotate(memory.q_norm(F.linear(patches, memory.qkv.weight[:width], memory.qkv.bias[:width])), rope)


def _keys(model: Reconstructor, segment: int, state: ChunkState) -> None:
    """The published program computes keys and rates at a memory's read, although the read does not use them."""
    memory, patches, rope = _at_memory(model, segment, state)
    width = patches.shape[-1]
    keys, _ = F.linear(patches, memory.qkv.weight[width:], memory.qkv.bias[width:]).chunk(2, dim=-1)
    rotate(memory.k_norm(keys), rope)
    F.softplus(memory.lrs(patches.float()) + memory.base)


def _at_memory(model: Reconstructor, segment: int, state: ChunkState) -> tuple[ContextMemory, Tensor, RopeTable]:
    memory = model.aggregator._memory_at(segment)
    assert memory is not None
    return memory, model.aggregator._patch_sequence(state), model.aggregator._memory_table(state)


@contextmanager
def _resized_first(model: Reconstructor) -> Iterator[None]:
    """The dense heads as published: a map is resized first and goes through its 1x1 convolution afterwards."""
    blocks = [block for head in (model.depth_head, model.point_head) for block in head.fusion]

    def forward(block: FusionBlock, deeper: Tensor | None, lateral: Tensor, size: tuple[int, int]) -> Tensor:
        x = lateral if deeper is None or block.unit1 is None else deeper + block.unit1(lateral)
        return block.out(F.interpolate(block.unit2(x), size=size, mode="bilinear", align_corners=True))

    for block in blocks:
        block.forward = MethodType(forward, block)
    try:
        yield
    finally:
        for block in blocks:
            del block.forward


def _moved(tensor: Tensor, device: torch.device | str = "cpu") -> Tensor:
    """A copy of the tensor on the host or on the device."""
    return tensor.to(device, copy=True)


def _sum(total: FastWeights | None, step: FastWeights | None) -> FastWeights | None:
    if total is None or step is None:
        return step
    for part, asked in zip(total, step, strict=True):
        part.add_(asked)
    return total


def _copy(state: ChunkState, device: torch.device | str = "cpu") -> ChunkState:
    """A copy of the state on the host or on the device."""
    return state.map(lambda t: None if t is None else _moved(t, device))


def _to_device(frames: Tensor, device: torch.device, pinned: bool) -> Tensor:
    return (frames.pin_memory() if pinned else frames).to(device, non_blocking=pinned)


def _on_host(prediction: Prediction, pinned: bool) -> Prediction:
    """The prediction in host memory. If pinned, its copies are complete only after the next wait for the device."""

    def there(tensor: Tensor) -> Tensor:
        tensor = tensor.float()
        if not pinned:
            return tensor.cpu()
        return torch.empty(tensor.shape, pin_memory=True).copy_(tensor, non_blocking=True)

    poses, depth, confidence = prediction.pose_encoding, prediction.depth, prediction.depth_confidence
    return Prediction(prediction.frame_index, there(poses), there(depth), there(confidence))


def wait_for(device: torch.device) -> None:
    """Return when the device has finished all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def pose_difference(found: Sequence[Prediction], expected: Sequence[Prediction]) -> float:
    """Norm of the difference of the pose encodings over the norm of the expected ones; the largest over chunks."""
    return max(
        float((a.pose_encoding - b.pose_encoding).norm() / b.pose_encoding.norm())
        for a, b in zip(found, expected, strict=True)
    )


def depth_difference(found: Sequence[Prediction], expected: Sequence[Prediction]) -> float:
    """Norm of the difference of the depth maps over the norm of the expected ones; the largest over chunks."""
    return max(float((a.depth - b.depth).norm() / b.depth.norm()) for a, b in zip(found, expected, strict=True))
