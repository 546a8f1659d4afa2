"""Public benchmarks in their own layouts: their sequences, frames and truth.

In: an unpacked data set, as a path or URI. Out: `Sequence`s that can be reconstructed and evaluated, with published
figures and a table.
"""

from pipeline.evaluation.benchmarks.eth3d import ETH3D
from pipeline.evaluation.benchmarks.kitti import KITTI
from pipeline.evaluation.benchmarks.oxford_spires import OXFORD_SPIRES
from pipeline.evaluation.benchmarks.sequence import Benchmark, Sequence
from pipeline.evaluation.benchmarks.tum import TUM
from pipeline.evaluation.benchmarks.virtual_kitti import VIRTUAL_KITTI

BENCHMARKS: dict[str, Benchmark] = {one.name: one for one in (KITTI, OXFORD_SPIRES, VIRTUAL_KITTI, ETH3D, TUM)}
"""By their names for --benchmark."""

__all__ = ["BENCHMARKS", "Benchmark", "Sequence"]
