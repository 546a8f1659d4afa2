"""The Scal3R network: frames of overlapping chunks in, cameras and depth out. torch and safetensors only.

Read `reconstructor.py` first. Comes in: images, chunk lists, weights under their published names.
Goes out: one prediction a chunk, in the frame of its reference camera.
"""

from models.checkpoint import CheckpointError, open_checkpoint
from models.config import ModelConfig
from models.reconstructor import Prediction, Reconstructor

__all__ = ["CheckpointError", "ModelConfig", "Prediction", "Reconstructor", "open_checkpoint"]
