"""Benchmarks of the field in their own layouts: which sequences, where their frames and their truth are.

In: a data set as it was unpacked, on a path or URI. Out: `Sequence`s that can be reconstructed and judged; the
figures others published for them; a table of all.
"""

from pipeline.evaluation.benchmarks.eth3d import ETH3D
from pipeline.evaluation.benchmarks.kitti import KITTI
from pipeline.evaluation.benchmarks.oxford_spires import OXFORD_SPIRES
from pipeline.evaluation.benchmarks.sequence import Benchmark, Sequence
from pipeline.evaluation.benchmarks.tum import TUM
from pipeline.evaluation.benchmarks.virtual_kitti import VIRTUAL_KITTI

BENCHMARKS: dict[str, Benchmark] = {one.name: one for one in (KITTI, OXFORD_SPIRES, VIRTUAL_KITTI, ETH3D, TUM)}
"""By the name that --benchmark knows."""

__all__ = ["BENCHMARKS", "Benchmark", "Sequence"]
