"""The Scal3R network: frames of overlapping chunks -> cameras and depth. It imports torch and safetensors only.

Read `reconstructor.py` first. In: images, lists of chunks, weights under their published names. Out: one prediction per
chunk, in the coordinates of its reference camera.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from models.checkpoint import CheckpointError, open_checkpoint
    from models.config import ModelConfig
    from models.reconstructor import Prediction, Reconstructor

__all__ = ["CheckpointError", "ModelConfig", "Prediction", "Reconstructor", "open_checkpoint"]

_HOMES = {
    "CheckpointError": "checkpoint",
    "ModelConfig": "config",
    "Prediction": "reconstructor",
    "Reconstructor": "reconstructor",
    "open_checkpoint": "checkpoint",
}


def __getattr__(name: str) -> Any:  # Python asks it for a name that the package does not have yet
    """Imports a public name when it is first used. torch takes seconds to load, and the many processes that only read
    settings (`models.config`) do without it."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"models.{_HOMES[name]}"), name)
