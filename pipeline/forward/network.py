"""The network that a worker runs: its weights, device and precision."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import models
from models.config import WEIGHTS_FOLDER, ModelConfig
from pipeline import storage
from pipeline.common.hashing import sha256_of
from pipeline.errors import CheckpointError

if TYPE_CHECKING:  # torch and the network are imported where they run: settings name them in many processes without
    import torch

    from models import Reconstructor

Precision = Literal["float32", "bfloat16"]
"""Arithmetic of encoder, attention and memories."""
PrecisionSetting = Literal["auto", "float32", "bfloat16"]
"""The user's setting; auto is replaced by the machine's choice before an identity is computed."""
Device = Literal["auto", "gpu", "cpu"]
_UNTRAINED_SEED = 0
_COMPILED_FOLDER = "compiled-kernels"


def dtype_of(precision: Precision) -> torch.dtype:
    """torch's dtype of a precision."""
    import torch

    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]


@dataclass(frozen=True)
class NetworkSpec:
    """A network by name. It can be pickled, so that a driver can send it to its workers.

    preset: a name of models.config, or None for the configuration in the weights (the published network's for files
    without one). weights: URI of a checkpoint, or None for the weights that come with the preset; a preset without
    weights gets random ones. compiled: run blocks, memories and heads through torch.compile, where the machine has a
    compiler.
    """

    preset: str | None
    weights: str | None
    precision: Precision = "float32"
    compiled: bool = False

    def config(self) -> ModelConfig:
        """The network's configuration, from the preset or from the weights."""
        if self.preset is not None:
            return ModelConfig.preset(self.preset)
        if self.weights is None:
            raise ValueError("a network needs a preset or weights")
        return _config_of(self.weights)

    @property
    def trained(self) -> bool:
        """Whether the weights are trained; the numbers of a result with random weights mean nothing."""
        return self._source() is not None

    def _source(self) -> str | None:
        if self.weights is not None:
            return self.weights
        shipped = WEIGHTS_FOLDER / f"{self.preset}.safetensors"
        return str(shipped) if shipped.is_file() else None

    def sha256(self) -> str:
        """SHA-256 of the weights' file; random weights have a name instead."""
        source = self._source()
        if source is None:
            return f"untrained-{self.preset}-seed-{_UNTRAINED_SEED}"
        with open(storage.fetch_to_cache(source), "rb") as file:
            return sha256_of(file)

    def check(self) -> None:
        """Raise what `build` would raise, without a device: CheckpointError or StorageError. It also checks every
        number of the weights: `build` maps the file and checks only the ends of each tensor."""
        source = self._source()
        if source is None:
            return
        from models.checkpoint import not_finite

        useless = not_finite(_opened(source, None if self.preset is None else self.config()))
        if useless:
            raise CheckpointError(
                f"weights {storage.redacted(source)}: numbers that are not finite in "
                f"{', '.join(useless)}; take an undamaged copy"
            )

    def build(self, device: torch.device, say: Callable[[str], None] = lambda line: None) -> Reconstructor:
        """The network on a device, in eval mode. The process's setting for float32 products is changed to fit it.

        Fetches the weights once for each node; compiled kernels are kept beside them. If the machine has no compiler,
        `say` gets a line, and the network is not compiled. Raises CheckpointError for weights that do not fit,
        StorageError where they cannot be fetched.
        """
        import torch

        from models.compiled import CompileError, compile_blocks
        from models.reconstructor import Reconstructor
        from models.tuning import on_device, set_tf32, tf32_for

        dtype = dtype_of(self.precision)
        set_tf32(*tf32_for(dtype))
        source = self._source()
        if source is None:
            generator_state = torch.get_rng_state()
            torch.manual_seed(_UNTRAINED_SEED)  # all workers must have the same random weights
            model = Reconstructor(self.config())
            torch.set_rng_state(generator_state)
            model.requires_grad_(False).set_precision(dtype).eval()
        else:
            config = None if self.preset is None else self.config()
            model = _opened(source, config, dtype=dtype)
        model = on_device(model, device)
        if self.compiled:
            try:
                compile_blocks(model, storage.cache_folder() / _COMPILED_FOLDER)
            except CompileError as error:
                say(str(error))
        return model


@lru_cache(maxsize=8)
def _config_of(weights: str) -> ModelConfig:
    from models.checkpoint import stored_config

    with _checkpoint_errors():
        return stored_config(Path(storage.fetch_to_cache(weights))) or ModelConfig.scal3r()


def _opened(source: str, config: ModelConfig | None, dtype: torch.dtype | None = None) -> Reconstructor:
    with _checkpoint_errors():
        return models.open_checkpoint(storage.fetch_to_cache(source), config, dtype=dtype or dtype_of("float32"))


@contextlib.contextmanager
def _checkpoint_errors() -> Iterator[None]:
    """Turns an error of models/, which does not know the pipeline, into one of the pipeline's errors."""
    try:
        yield
    except models.CheckpointError as error:
        raise CheckpointError(str(error)) from error
