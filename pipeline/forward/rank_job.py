"""The job of the ranks of a group: the network, the settings for a drive, and the folder for predictions."""

from __future__ import annotations

from dataclasses import dataclass, field

from models.config import MemoryScope
from pipeline.forward.budgets import MemoryBudgets
from pipeline.forward.loop_chunks import LoopFinder
from pipeline.forward.network import NetworkSpec, Precision


@dataclass(frozen=True)
class ForwardSettings:
    """Settings for a drive: the chunks over which a memory's steps are summed, the precision of their orthogonalisation
    (Newton-Schulz), the largest share of bad frames."""

    memory_scope: MemoryScope = "drive"
    orthogonalise_precision: Precision = "float32"
    max_bad_share: float = 0.2


@dataclass(frozen=True)
class WorkerJob:
    """The job that every rank of a group gets."""

    network: NetworkSpec
    settings: ForwardSettings
    output: str
    threads: int | None
    """CPU threads of a rank; None: the machine's cores, shared among the group's ranks on it."""
    finder: LoopFinder | None
    """Finds places seen twice; None: no loop chunks."""
    budgets: MemoryBudgets = field(default_factory=MemoryBudgets)
    """How much memory waiting chunks may take in each worker."""
