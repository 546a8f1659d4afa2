"""The Scal3R network: frames of overlapping chunks -> cameras and depth. It imports torch and safetensors only.

Read `reconstructor.py` first. In: images, lists of chunks, weights under their published names. Out: one prediction per
chunk, in the coordinates of its reference camera.
"""

from models.checkpoint import CheckpointError, open_checkpoint
from models.config import ModelConfig
from models.reconstructor import Prediction, Reconstructor

__all__ = ["CheckpointError", "ModelConfig", "Prediction", "Reconstructor", "open_checkpoint"]
