"""How many unknowns a drive has in the joint solution: a Sim(3) for each chunk, for fewer chunks, or for more nodes."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.backend.config import BackendConfig
from pipeline.backend.join import JoinResult
from pipeline.fuse.drive_nodes import Joints, joints_of, thinned
from pipeline.fuse.finer_nodes import FEWEST_NODES, finer

# Up to the first number of chunks all are unknowns. Of more chunks only every second, third ... seventh of a drive is,
# and fewer still if that leaves more than the third number.
_SOLVED_FINELY, _COARSE, _MOST_CHUNKS = 1_000, 7, 24_000


def unknowns_of(chunks: Sequence[int]) -> int:
    """Which chunks of a drive are unknowns: every so many. 0: all, and more nodes where a drive has few.

    chunks: numbers of chunks of the city's drives.
    """
    count = sum(chunks)
    if sum(max(one, FEWEST_NODES) for one in chunks) <= _SOLVED_FINELY:
        return 0
    return max(min(-(-count // _SOLVED_FINELY), _COARSE), -(-count // _MOST_CHUNKS))


def with_unknowns(drive: JoinResult, config: BackendConfig, looseness: float, every: int) -> tuple[JoinResult, Joints]:
    """A drive with its unknowns, and its joints. every: of `unknowns_of`; looseness: of `joints_of`."""
    joints = joints_of(drive, config, looseness)
    if every > 1:
        return thinned(drive, joints, every)
    return finer(drive, joints) if every < 1 else (drive, joints)
