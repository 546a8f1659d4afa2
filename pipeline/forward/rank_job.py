"""What every rank of a group is told: which network, how a drive goes through it, where predictions go."""

from __future__ import annotations

from dataclasses import dataclass, field

from models.config import MemoryScope
from pipeline.forward.budgets import MemoryBudgets
from pipeline.forward.loop_chunks import LoopFinder
from pipeline.forward.network import NetworkSpec, Precision


@dataclass(frozen=True)
class ForwardSettings:
    """How a drive is run: over which chunks memories are summed, the precision of the orthogonalisation of their steps
    (Newton-Schulz), how many bad frames are too many."""

    memory_scope: MemoryScope = "drive"
    orthogonalise_precision: Precision = "float32"
    max_bad_share: float = 0.2


@dataclass(frozen=True)
class WorkerJob:
    """What every rank of a group is told."""

    network: NetworkSpec
    settings: ForwardSettings
    output: str
    threads: int | None
    """CPU threads of a rank; None: its machine's cores, shared among the group's ranks there."""
    finder: LoopFinder | None
    """Finds places seen twice; None: no loop chunks."""
    budgets: MemoryBudgets = field(default_factory=MemoryBudgets)
    """How much memory waiting chunks may take in each worker."""
