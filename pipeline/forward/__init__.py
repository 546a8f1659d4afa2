"""Frames of chunks -> staged predictions. In: DriveTasks and the network's name. Out: chunk files.

`phases.py` is one drive on one rank, `worker.py` the rank's loop, `group.py` starts the ranks. Those need torch and Ray
and are imported by name, so that the rest loads quickly: processes that decode, join or publish do without torch.
"""

from pipeline.forward.events import Progress
from pipeline.forward.network import NetworkSpec
from pipeline.forward.rank_job import ForwardSettings
from pipeline.forward.staging import ChunkPrediction, StagedChunks

__all__ = ["ChunkPrediction", "ForwardSettings", "NetworkSpec", "Progress", "StagedChunks"]
