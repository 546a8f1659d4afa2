"""Which frames are in which chunk, which chunk owns a frame, and which rank works on which chunks. Pure arithmetic.

Ranges are half-open. They are places among the kept frames (`segments.DriveTask`), or numbers of chunks where stated.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence


def plan_chunks(frame_count: int, chunk_size: int, overlap: int) -> tuple[range, ...]:
    """Cut a drive into overlapping chunks (Scal3R, method section "Chunks").

    Chunk k starts at frame k (chunk_size - overlap) and has chunk_size frames. The first chunk that reaches the last
    frame is the last chunk, and may be shorter.

    Raises:
        ValueError: no frames, a chunk size below 1, or an overlap that is not smaller than the chunk size.
    """
    if frame_count < 1:
        raise ValueError(f"a drive needs at least one frame to be cut into chunks, got {frame_count}")
    if chunk_size < 1:
        raise ValueError(f"chunk size must be at least 1 frame, got {chunk_size}")
    if overlap < 0:
        raise ValueError(f"overlap must not be negative, got {overlap}")
    if overlap >= chunk_size:
        raise ValueError(
            f"overlap must be smaller than the chunk size, got overlap {overlap} and chunk size "
            f"{chunk_size}; half the chunk size ({chunk_size // 2}) is usual"
        )
    step = chunk_size - overlap
    # ceil((N - O) / (M - O)) in integers; a drive not longer than a chunk is one chunk
    count = 1 if frame_count <= chunk_size else -((overlap - frame_count) // step)
    return tuple(range(k * step, min(k * step + chunk_size, frame_count)) for k in range(count))


def owned_frames(chunks: Sequence[range]) -> tuple[range, ...]:
    """Give every frame exactly one owner: each of two chunks owns half of their overlap, the later one the odd frame.

    Args:
        chunks: the chunks of one drive in order, as `plan_chunks` makes them.

    Returns:
        One range for each chunk, inside that chunk; together they cover the drive once, in order.

    Raises:
        ValueError: chunks that are empty, out of order or leave a gap.
    """
    _check_chunks(chunks)
    if not chunks:
        return ()
    borders = [chunks[0].start]
    for before, after in itertools.pairwise(chunks):
        borders.append(after.start + (before.stop - after.start) // 2)
    borders.append(chunks[-1].stop)
    return tuple(range(start, stop) for start, stop in itertools.pairwise(borders))


def rank_chunks(chunk_count: int, world_size: int) -> tuple[range, ...]:
    """Share chunk numbers among ranks: contiguous runs whose lengths differ by at most one.

    With fewer chunks than ranks some runs are empty; those ranks still join every collective.

    Raises:
        ValueError: a negative number of chunks, or no rank.
    """
    if chunk_count < 0:
        raise ValueError(f"the number of chunks must not be negative, got {chunk_count}")
    if world_size < 1:
        raise ValueError(f"a group needs at least one rank, got {world_size}")
    borders = [rank * chunk_count // world_size for rank in range(world_size + 1)]
    return tuple(range(start, stop) for start, stop in itertools.pairwise(borders))


def plan_segments(chunks_of_rank: Sequence[range], max_length: int) -> tuple[range, ...]:
    """Cut the frames that a rank needs into segments, which are read and decoded in one task; each frame is in one.

    Args:
        chunks_of_rank: frame ranges of the rank's contiguous chunks, in order; without chunks there are no segments.
        max_length: most frames in a segment; with chunk size - overlap, segments start where chunks start.

    Raises:
        ValueError: a length below one, or chunks that are empty, out of order or leave a gap.
    """
    if max_length < 1:
        raise ValueError(f"a segment holds at least one frame, got a maximum of {max_length}")
    _check_chunks(chunks_of_rank)
    if not chunks_of_rank:
        return ()
    first, last = chunks_of_rank[0].start, chunks_of_rank[-1].stop
    return tuple(range(start, min(start + max_length, last)) for start in range(first, last, max_length))


def _check_chunks(chunks: Sequence[range]) -> None:
    for chunk in chunks:
        if len(chunk) == 0 or chunk.step != 1:
            raise ValueError(f"a chunk is a range of at least one consecutive frame, got {chunk}")
    for before, after in itertools.pairwise(chunks):
        if not (before.start < after.start <= before.stop < after.stop):
            raise ValueError(f"chunks must advance and leave no gap, got {before} and then {after}")
