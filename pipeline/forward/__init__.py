"""Frames of chunks -> staged predictions. Comes in: DriveTasks and the network's name. Goes out: chunk files.

`phases.py` is one drive on one rank, `worker.py` the rank's loop, `group.py` starts the ranks.
"""

from pipeline.forward.events import Progress
from pipeline.forward.group import Outcome, run_forward
from pipeline.forward.network import DTYPES, NetworkSpec
from pipeline.forward.phases import ForwardSettings
from pipeline.forward.staging import ChunkPrediction, StagedChunks
from pipeline.forward.worker import WorkerJob

__all__ = [
    "DTYPES",
    "ChunkPrediction",
    "ForwardSettings",
    "NetworkSpec",
    "Outcome",
    "Progress",
    "StagedChunks",
    "WorkerJob",
    "run_forward",
]
