"""Reads and writes weights of the network as files, under their published tensor names; all names and shapes must fit.

It opens the Scal3R release (`scal3r.pt`), `facebook/VGGT-1B` (.pt or .safetensors) and the project's own weights
(`models/weights/*.safetensors`, which contain their configuration). Of pickled files, it reads nothing but tensors.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from models.config import ModelConfig
from models.context_memory import ContextMemory
from models.reconstructor import Reconstructor

# our module names -> published ones, applied in order
_TO_PUBLISHED = [
    (re.compile(r"^aggregator\.memories\.(\d+)\."), r"agg_regator.global_blocks.\1.ttt."),
    (re.compile(r"^aggregator\.encoder\."), "agg_regator.patch_embed."),
    (re.compile(r"^aggregator\."), "agg_regator."),
    (re.compile(r"^camera_head\.modulation\."), "cam_decoder.poseLN_modulation.1."),
    (re.compile(r"^camera_head\."), "cam_decoder."),
    (re.compile(r"^point_head\."), "xyz_decoder."),
    (re.compile(r"^depth_head\."), "dpt_decoder."),
    (re.compile(r"^((?:xyz|dpt)_decoder)\.resize\."), r"\1.resize_layers."),
    (re.compile(r"^((?:xyz|dpt)_decoder)\.output1\."), r"\1.scratch.output_conv1."),
    (re.compile(r"^((?:xyz|dpt)_decoder)\.output2\."), r"\1.scratch.output_conv2."),
]
_LATERAL = re.compile(r"^((?:xyz|dpt)_decoder)\.lateral\.(\d)\.")
_FUSION = re.compile(r"^((?:xyz|dpt)_decoder)\.fusion\.(\d)\.(out|unit1|unit2)\.")
_FUSION_PART = {"out": "out_conv", "unit1": "resConfUnit1", "unit2": "resConfUnit2"}
_FROM_VGGT = {
    "aggregator.": "agg_regator.",
    "camera_head.": "cam_decoder.",
    "point_head.": "xyz_decoder.",
    "depth_head.": "dpt_decoder.",
}
_VGGT_UNUSED = "track_head."

# Limits on the configuration in a file, far above any network of this kind. They are checked before anything is built.
_LONGEST_CONFIG = 100_000
_LARGEST_CONFIG = {
    **dict.fromkeys(("depth", "camera_trunk_depth", "memory_steps", "camera_rounds", "mlp_ratio"), 256),
    **dict.fromkeys(("memory_hidden_ratio", "motion_radius"), 64),
    **dict.fromkeys(("image_size", "patch_size", "register_tokens"), 8192),
}
_LARGEST_OTHER = 100_000

_LOOKED_AT = 8192  # numbers at either end of a tensor that are checked when it is loaded
_PIECE = 1 << 22  # numbers that `not_finite` checks at a time


class CheckpointError(ValueError):
    """The weights do not exist, cannot be read, or do not fit the network."""


def published_name(name: str) -> str:
    """The published name of one of our parameters."""
    for pattern, replacement in _TO_PUBLISHED:
        name = pattern.sub(replacement, name)
    name = _LATERAL.sub(lambda m: f"{m[1]}.scratch.layer{int(m[2]) + 1}_rn.", name)
    return _FUSION.sub(lambda m: f"{m[1]}.scratch.refinenet{int(m[2]) + 1}.{_FUSION_PART[m[3]]}.", name)


def published_state(model: Reconstructor) -> dict[str, Tensor]:
    """The model's tensors under their published names."""
    return {published_name(name): tensor for name, tensor in model.state_dict().items()}


def load_published(model: Reconstructor, state_dict: Mapping[str, Tensor]) -> None:
    """Put tensors with published names into a model. They are copied; a model on the meta device takes them as they
    are.

    Raises CheckpointError that lists all missing and unexpected tensors, wrong shapes, and tensors that are not floats
    or have a NaN or infinity at either end. In this case nothing is loaded.
    """
    own = model.state_dict()
    ours = {published_name(name): name for name in own}
    missing = sorted(set(ours) - set(state_dict))
    unexpected = sorted(set(state_dict) - set(ours))
    misshapen = [
        f"{name} is {tuple(state_dict[name].shape)}, expected {tuple(own[ours[name]].shape)}"
        for name in sorted(set(ours) & set(state_dict))
        if state_dict[name].shape != own[ours[name]].shape
    ]
    useless = [name for name in sorted(set(ours) & set(state_dict)) if not _ends_finite(state_dict[name])]
    problems = [
        f"{len(rows)} {what}: {', '.join(rows)}"
        for what, rows in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("misshapen", misshapen),
            ("not finite numbers", useless),
        )
        if rows
    ]
    if problems:
        raise CheckpointError("checkpoint does not fit the network: " + "; ".join(problems))
    on_meta = any(tensor.is_meta for tensor in own.values())
    model.load_state_dict({ours[k]: state_dict[k] for k in ours}, strict=True, assign=on_meta)


def _ends_finite(tensor: Tensor) -> bool:
    """Whether a tensor is float and finite at both ends. Only these numbers are read, because the file is memory-mapped
    and reading all would load it completely (`not_finite` does that)."""
    if not tensor.is_floating_point():
        return False
    if tensor.is_meta or not tensor.numel():
        return True
    flat = tensor.view(-1) if tensor.is_contiguous() else tensor.flatten()
    return all(bool(torch.isfinite(end.float()).all()) for end in (flat[:_LOOKED_AT], flat[-_LOOKED_AT:]))


def not_finite(model: Reconstructor) -> list[str]:
    """Published names of the parameters that contain a NaN or an infinity. Reads a memory-mapped file completely."""

    def finite(tensor: Tensor) -> bool:
        return all(bool(piece.isfinite().all()) for piece in tensor.flatten().split(_PIECE))

    return [name for name, tensor in published_state(model).items() if not finite(tensor)]


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Tensors of a .pt or .safetensors file, memory-mapped: pages are read when they are used.

    Raises CheckpointError if the file does not exist, is broken, or contains anything but tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"no weights file at {path}")
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except Exception as error:  # opening one runs no code of the file; the library raises errors of many kinds
            raise CheckpointError(f"{path} is not a readable checkpoint: {_first_line(error)}") from error
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, OSError, EOFError, ValueError) as error:
        raise CheckpointError(f"{path} is not a readable checkpoint: {_first_line(error)}") from error
    except Exception as error:  # torch raises pickle's own errors for anything that is not plain tensors
        raise CheckpointError(f"{path} contains more than tensors, so it is refused: {_first_line(error)}") from error
    for wrapper in ("model", "state_dict", "network"):
        if isinstance(loaded, dict) and isinstance(loaded.get(wrapper), dict):
            loaded = loaded[wrapper]
    if not isinstance(loaded, dict) or not all(isinstance(v, Tensor) for v in loaded.values()) or not loaded:
        raise CheckpointError(f"{path} is not a state dict of tensors")
    return loaded


def open_checkpoint(
    path: str | Path, config: ModelConfig | None = None, *, dtype: torch.dtype = torch.float32
) -> Reconstructor:
    """A model with the weights of a file, in eval mode on the CPU.

    config: None takes the one in the file (the project's checkpoints contain one), else that of the published network.
    dtype: float32 or bfloat16 (see Reconstructor.set_precision). VGGT checkpoints have no memories, so these get
    initial weights that have no effect, and a warning is given. Raises CheckpointError.
    """
    tensors = read_tensors(path)
    config = config or stored_config(Path(path)) or ModelConfig.scal3r()
    from_vggt = any(name.startswith("camera_head.") for name in tensors)
    if from_vggt:
        tensors = {_from_vggt(k): v for k, v in tensors.items() if not k.startswith(_VGGT_UNUSED)}
    with torch.device("meta"):
        model = Reconstructor(config)
    if from_vggt:
        fresh = _fresh_memories(config)
        warnings.warn(
            f"{path} is a VGGT checkpoint without memories: their {len(fresh)} tensors get initial values that have no "
            "effect until they are trained",
            stacklevel=2,
        )
        tensors |= fresh
    try:
        load_published(model, tensors)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    model.requires_grad_(False)
    return model.set_precision(dtype).eval()


def save_checkpoint(model: Reconstructor, path: str | Path, *, notes: Mapping[str, str] | None = None) -> None:
    """Write a model's tensors and configuration as .safetensors (float32). The file appears only when it is complete.
    notes: further metadata."""
    path = Path(path)
    tensors = {name: t.detach().float().cpu().contiguous() for name, t in published_state(model).items()}
    metadata = {"model_config": json.dumps(model.config.to_dict()), **dict(notes or {})}
    partial = path.with_name(path.name + ".partial")
    save_file(tensors, partial, metadata=metadata)
    partial.replace(path)


def stored_config(path: Path) -> ModelConfig | None:
    """The configuration in a checkpoint of the project; None for other checkpoints. Raises CheckpointError."""
    if path.suffix != ".safetensors":
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except Exception as error:  # as in read_tensors
        raise CheckpointError(f"{path} is not a readable checkpoint: {_first_line(error)}") from error
    if "model_config" not in metadata:
        return None
    try:
        if len(metadata["model_config"]) > _LONGEST_CONFIG:
            raise ValueError(f"it has more than {_LONGEST_CONFIG} characters")
        config = ModelConfig.from_dict(json.loads(metadata["model_config"]))
        _check_size(config)
        return config
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path} contains a configuration that cannot be built: {error}") from error


def _check_size(config: ModelConfig) -> None:
    """Raises ValueError for absurdly large settings: the network is built before its tensors are compared with them."""
    for field, value in asdict(config).items():
        limit = _LARGEST_CONFIG.get(field, _LARGEST_OTHER)
        for one in value if isinstance(value, tuple | list) else (value,):
            if isinstance(one, int | float) and not -limit <= one <= limit:
                raise ValueError(f"{field} must be at most {limit}, not {one}")


def _from_vggt(name: str) -> str:
    for prefix, published in _FROM_VGGT.items():
        if name.startswith(prefix):
            return published + name[len(prefix) :]
    return name


def _fresh_memories(config: ModelConfig) -> dict[str, Tensor]:
    fresh = {}
    for layer in config.memory_layers:
        memory = ContextMemory(
            config.embed_dim, config.memory_hidden_ratio, config.memory_base_rate, config.memory_steps
        )
        for name, tensor in memory.state_dict().items():
            fresh[f"agg_regator.global_blocks.{layer}.ttt.{name}"] = tensor
    return fresh


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
