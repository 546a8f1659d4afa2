"""Frames of chunks -> staged predictions. In: DriveTasks and the network's name. Out: chunk files.

`phases.py` is one drive on one rank, `worker.py` the rank's loop, `group.py` starts the ranks. Those two need
Ray and are imported by name, so that the rest loads quickly without it.
"""

from pipeline.forward.events import Progress
from pipeline.forward.network import DTYPES, NetworkSpec
from pipeline.forward.phases import ForwardSettings
from pipeline.forward.staging import ChunkPrediction, StagedChunks

__all__ = ["DTYPES", "ChunkPrediction", "ForwardSettings", "NetworkSpec", "Progress", "StagedChunks"]
