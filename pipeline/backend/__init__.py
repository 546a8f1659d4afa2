"""Predictions of chunks -> one trajectory with its uncertainty.

In: predictions of chunks, each in its own gauge (poses, depth, confidence), and of loop chunks. Out: JoinResult.
NumPy and SciPy; no Ray, no torch, no storage.
"""

from pipeline.backend.config import BackendConfig, QualityConfig
from pipeline.backend.georeference import Georeference, Metric
from pipeline.backend.join import Edge, JoinResult, Loop, join_chunks
from pipeline.backend.quality import Finding, Verdict, assess_quality
from pipeline.backend.sim3 import Sim3
from pipeline.common.fixes import Fixes, Speed

__all__ = [
    "BackendConfig",
    "Edge",
    "Finding",
    "Fixes",
    "Georeference",
    "JoinResult",
    "Loop",
    "Metric",
    "QualityConfig",
    "Sim3",
    "Speed",
    "Verdict",
    "assess_quality",
    "join_chunks",
]
