"""Settings of publishing, declared once."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.common.settings import ALWAYS, setting


@dataclass(frozen=True)
class PublishConfig:
    """Which pixels of a drive become points, and how the files are cut."""

    with_points: bool = setting(True, expert=True, identity=ALWAYS)
    """Write the point cloud; without it only poses, chunks and loops are published."""
    confidence_share: float = setting(0.75, expert=True, identity=ALWAYS)
    """Keep a point if its confidence is at least this share of the median over its chunk's own frames; 0
    keeps all. Relative to the chunk, because confidences of two chunks of one drive may differ by a
    factor."""
    far: float = setting(20.0, expert=True)
    """Points deeper than this many times the median depth of their chunk are of the class sky: they are written, and
    readers and exports leave them out unless they are asked for."""
    voxel_size: float | None = setting(None, group="output", identity=ALWAYS)
    """Keep one point (the most confident) in each cube of this side, in world units; None keeps all."""
    voxel_memory: int = setting(16_777_216, expert=True, identity=ALWAYS)
    """The number of occupied cubes that are remembered (8 bytes each, 128 MB by default). At least the last half of
    them is remembered from file to file. A drive with fewer cubes gets exactly one point in each cube; a longer one may
    get a second point in a cube that it left long ago."""
    shard_rows: int = setting(4_194_304, expert=True, identity=ALWAYS)
    """Most points in a file. 4 million points take about 60 MB on disk, and 0.4 GB of memory while they are sorted and
    written (0.6 GB with voxels), for drives of every length."""
    row_group_rows: int = setting(65_536, expert=True, identity=ALWAYS)
    """Points in a row group, the smallest part that a reader fetches for a box: about 1 MB."""

    def __post_init__(self) -> None:
        if not 0 <= self.confidence_share < float("inf"):
            raise ValueError(f"confidence_share must be 0 or more, got {self.confidence_share}")
        if not self.far > 1:
            raise ValueError(f"far must be above 1, got {self.far}")
        if self.voxel_size is not None and not 0 < self.voxel_size < float("inf"):
            raise ValueError(f"voxel_size must be above zero, got {self.voxel_size}")
        if self.voxel_memory < 2:
            raise ValueError(f"voxel_memory must be at least 2, got {self.voxel_memory}")
        if not 1 <= self.row_group_rows <= 2**22:  # readers refuse more
            raise ValueError(f"row_group_rows must be 1 to {2**22}, got {self.row_group_rows}")
        if self.shard_rows < self.row_group_rows:
            raise ValueError(
                f"shard_rows must be at least row_group_rows, got {self.shard_rows} < {self.row_group_rows}"
            )
