"""Where a drive was: positions and speeds of any usual source -> `Fixes` and `Speed` on the drive's clock.

`find_positions` finds the files that belong to a drive, `read_positions` reads them. Positions that cannot be used
raise NoPositionsError, one line; the drive is then reconstructed without positions.
"""

from pipeline.georeference.clocks import OnDrive
from pipeline.georeference.config import PositionsConfig
from pipeline.georeference.drive_positions import DrivePositions
from pipeline.georeference.find import PositionsSource, find_positions, with_positions
from pipeline.georeference.positions import NoPositionsError, Positions
from pipeline.georeference.read import read_file, read_positions

__all__ = [
    "DrivePositions",
    "NoPositionsError",
    "OnDrive",
    "Positions",
    "PositionsConfig",
    "PositionsSource",
    "find_positions",
    "read_file",
    "read_positions",
    "with_positions",
]
