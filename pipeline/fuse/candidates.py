"""Candidates: frames of two drives that may show the same place.

Drives with positions on Earth are compared by cells of the map, all drives by place descriptors. Candidates are cheap
and may be wrong; verification decides. The search is exact: it compares all pairs of descriptors, one block at a time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from pipeline.fuse.tasks import Tasks

Array = NDArray[np.float64]
Floats = NDArray[np.float32]
Numbers = NDArray[np.int64]

_SECTORS = 8  # headings of a cell; a frame counts in the two nearest ones
_ROWS, _COLUMNS = 512, 512  # size of a block of pairs: one megabyte, which fits into a core's cache
_SHIPPED, _BLOCKS = 50_000, 8  # rows above which tasks compare them; blocks of a task
_OF_A_ROW = 4  # most pairs of a descriptor with one other drive
_NEAR_ROWS = 4  # descriptors before and after, among which a second pair must be similar too


GROUND = "ground"
"""What proposes frames that see the same road from different directions (`common_ground.py`)."""


@dataclass(frozen=True, order=True)
class Candidate:
    """Frame `first_frame` of drive `first` and frame `second_frame` of drive `second` may show the same place.

    Drives are counted from 0; frames are indices of the drives' arrays. score: candidates with a higher one are kept
    and verified first; by: what proposed it, see city_schema.LINKS; opposite: the drives went in opposite directions,
    so that forward cameras saw different sides of everything.
    """

    first: int
    first_frame: int
    second: int
    second_frame: int
    score: float
    by: str
    opposite: bool = False


@dataclass(frozen=True, eq=False)
class Track:
    """A drive on a map. drive: its number; frame (n,): indices of the drive's arrays; place (n, 3): positions of its
    cameras in metres east, north, up, with one origin for all drives; ahead (n, 3): their viewing directions; leads
    (n,): whether a frame's direction is that of the drive (of a rig, the reference camera's); None: of all."""

    drive: int
    frame: Numbers
    place: Array
    ahead: Array
    leads: NDArray[np.bool_] | None = None


def by_positions(tracks: Sequence[Track], cell_m: float, per_pair: int, budget: int) -> list[Candidate]:
    """Candidates of pairs of drives that went through the same cells; pairs with more common cells have higher scores.

    cell_m: side of a cell in metres; per_pair: most candidates of a pair of drives, spread over their common cells;
    budget: most candidates of a drive. Two drives that went through a cell in opposite directions are one candidate
    with `opposite`.
    """
    if len(tracks) < 2:
        return []
    cells: dict[tuple[int, int, int], int] = {}
    rows: list[Numbers] = []
    led: list[Numbers] = []
    reverse: list[Numbers] = []
    first_seen: list[dict[int, int]] = []
    for track in tracks:
        own: dict[int, int] = {}
        leading: set[int] = set()
        turned: set[int] = set()
        sector = np.arctan2(track.ahead[:, 1], track.ahead[:, 0]) / (2 * np.pi / _SECTORS)
        grid = np.floor(track.place[:, :2] / cell_m).astype(np.int64)
        for n in range(len(track.frame)):
            for near in {int(np.floor(sector[n])) % _SECTORS, int(np.ceil(sector[n])) % _SECTORS}:
                place = (int(grid[n, 0]), int(grid[n, 1]), near)
                own.setdefault(cells.setdefault(place, len(cells)), n)
                if track.leads is not None and not track.leads[n]:
                    continue
                leading.add(cells[place])
                turned.add(cells.setdefault((*place[:2], (near + _SECTORS // 2) % _SECTORS), len(cells)))
        rows.append(np.array(sorted(own), np.int64))
        led.append(np.array(sorted(leading), np.int64))
        reverse.append(np.array(sorted(turned), np.int64))
        first_seen.append(own)
    same = _shared(rows, rows, len(cells))
    against = _shared(led, reverse, len(cells))
    made: list[Candidate] = []
    for a, b, count in same:
        common = np.intersect1d(rows[a], rows[b], assume_unique=True)
        order = common[np.argsort([first_seen[b][int(c)] for c in common], kind="stable")]
        for c in order[np.unique(np.linspace(0, len(order) - 1, min(per_pair, len(order))).round().astype(int))]:
            made.append(_at(tracks, a, first_seen[a][int(c)], b, _nearest(tracks, a, first_seen[a][int(c)], b), count))
    for a, b, count in against:
        c = int(np.intersect1d(led[a], reverse[b], assume_unique=True)[0])
        n = first_seen[a][c]
        made.append(_at(tracks, a, n, b, _nearest(tracks, a, n, b), count, opposite=True))
    return within_budget(made, budget)


def _shared(rows: Sequence[Numbers], others: Sequence[Numbers], width: int) -> list[tuple[int, int, int]]:
    """(a, b, number of cells that set a of `rows` and set b of `others` share), for a < b, largest number first."""

    def matrix(sets: Sequence[Numbers]) -> scipy.sparse.csr_matrix:
        starts = np.cumsum([0, *(len(one) for one in sets)])
        columns = np.concatenate(sets) if sets else np.zeros(0, np.int64)
        return scipy.sparse.csr_matrix((np.ones(len(columns), np.int32), columns, starts), shape=(len(sets), width))

    product = scipy.sparse.triu(matrix(rows) @ matrix(others).T, k=1).tocoo()
    order = np.lexsort((product.col, product.row, -product.data))
    return [(int(product.row[n]), int(product.col[n]), int(product.data[n])) for n in order]


def _nearest(tracks: Sequence[Track], a: int, n: int, b: int) -> int:
    return int(np.argmin(((tracks[b].place - tracks[a].place[n]) ** 2).sum(1)))


def _at(tracks: Sequence[Track], a: int, n: int, b: int, m: int, score: float, *, opposite: bool = False) -> Candidate:
    return Candidate(
        tracks[a].drive, int(tracks[a].frame[n]), tracks[b].drive, int(tracks[b].frame[m]), score, "positions", opposite
    )


def by_descriptors(
    rows: Floats,
    drive: Numbers,
    frame: Numbers,
    threshold: float,
    per_pair: int,
    budget: int,
    *,
    fresh: frozenset[int] | None = None,
    threads: int = 2,
    tasks: Tasks | None = None,
) -> list[Candidate]:
    """Candidates of pairs of drives with similar descriptors.

    A pair of descriptors counts only if another pair of the same drives, a few frames before or after, is similar too:
    a single facade that looks like another one is not enough. All pairs of rows are multiplied, one block at a time.
    Memory: a block of 512 x 512 floats a thread, and for each row its few best pairs with each other drive.

    Args:
        rows: (M, K) unit descriptors.
        drive, frame: (M,) the drive and the frame of each row; drives in rising order.
        threshold: least dot product of two similar descriptors.
        per_pair: most candidates of a pair of drives.
        budget: most candidates of a drive.
        fresh: only pairs with at least one of these drives; None: all.
        threads: that compare blocks.
        tasks: that compare the blocks of more than 50,000 rows instead of threads.

    Raises:
        ValueError: the arrays have different lengths.
    """
    if rows.ndim != 2 or len(drive) != len(rows) or len(frame) != len(rows):
        raise ValueError(f"expected (M, K) descriptors of M drives and frames, got {rows.shape}, {len(drive)}")
    starts = range(0, len(rows), _ROWS)
    new = np.ones(len(rows), bool) if fresh is None else np.isin(drive, list(fresh))
    if tasks is not None and len(rows) > _SHIPPED:
        common = [tasks.keep(one) for one in (rows, drive, new)]
        some = [(*common, threshold, list(starts[n : n + _BLOCKS])) for n in range(0, len(starts), _BLOCKS)]
        found = [hit for hits in tasks.mapped(_alike_in_blocks, some) for hit in hits]
    else:
        with ThreadPoolExecutor(threads, thread_name_prefix="alike") as pool:
            found = list(pool.map(lambda start: _alike(rows, drive, start, threshold, new), starts))
    if not found:
        return []
    i, j, value = (np.concatenate([hit[n] for hit in found]) for n in range(3))
    order = np.lexsort((i, drive[i], drive[j]))
    i, j, value = i[order], j[order], value[order]
    pair = drive[j] * (int(drive[-1]) + 1) + drive[i]
    made: list[Candidate] = []
    begins = np.flatnonzero(np.diff(pair, prepend=-1))
    ends = np.append(begins[1:], len(pair))
    several = ends - begins > 1  # most pairs of drives have a single pair of rows, by chance
    for begin, end in zip(begins[several].tolist(), ends[several].tolist(), strict=True):
        made += _spread(np.arange(begin, end), i, j, value, drive, frame, per_pair)
    return within_budget(made, budget)


def _alike_in_blocks(
    rows: Floats, drive: Numbers, new: NDArray[np.bool_], threshold: float, starts: Sequence[int]
) -> list[tuple[Numbers, Numbers, Floats]]:
    """`_alike` of some blocks, in a task."""
    return [_alike(rows, drive, start, threshold, new) for start in starts]


def _alike(
    rows: Floats, drive: Numbers, start: int, threshold: float, new: NDArray[np.bool_]
) -> tuple[Numbers, Numbers, Floats]:
    """Pairs of a row of the block that begins at `start` and a similar row of an earlier drive, and their similarity.
    new (M,): at least one row of a pair must be True there."""
    stop = min(start + _ROWS, len(rows))
    before = int(np.searchsorted(drive, drive[stop - 1]))  # rows of earlier drives than the block's last
    lows = np.arange(0, before, _COLUMNS)
    if len(lows) and not new[start:stop].any():
        lows = lows[np.logical_or.reduceat(new[:before], lows)]
    hits: list[tuple[Numbers, Numbers, Floats]] = []
    room = np.empty((stop - start, _COLUMNS), np.float32)
    for low in lows.tolist():
        high = min(low + _COLUMNS, before)
        similar = room[:, : high - low]
        np.matmul(rows[start:stop], rows[low:high].T, out=similar)
        high_rows = np.flatnonzero(similar.max(1) > threshold)  # few rows; the others need no further work
        if not len(high_rows):
            continue
        part = similar[high_rows]
        k, j = np.nonzero(part > threshold)
        i, j, value = high_rows[k] + start, j + low, part[k, j]
        good = (drive[j] < drive[i]) & (new[i] | new[j])
        hits.append((i[good], j[good], value[good]))
    if not hits:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32)
    i, j, value = (np.concatenate([hit[n] for hit in hits]) for n in range(3))
    # A few pairs of a row with one other drive are enough: while a car stands, many of its rows are similar.
    order = np.lexsort((-value, drive[j], i))
    i, j, value = i[order], j[order], value[order]
    place = np.arange(len(i))
    first = np.concatenate([[True], (np.diff(i) != 0) | (np.diff(drive[j]) != 0)]) if len(i) else np.zeros(0, bool)
    kept = place - np.maximum.accumulate(np.where(first, place, 0)) < _OF_A_ROW
    return i[kept], j[kept], value[kept]


def _spread(
    mine: Numbers, i: Numbers, j: Numbers, value: Floats, drive: Numbers, frame: Numbers, per_pair: int
) -> list[Candidate]:
    """Candidates of one pair of drives. mine: indices of its pairs of rows in i, j and value."""
    backed = _backed(j[mine], i[mine], value[mine])
    score = float(backed.sum())
    made: list[Candidate] = []
    taken: list[int] = []
    for n in mine[np.argsort(-backed, kind="stable")][: int((backed > 0).sum())]:
        # They must be apart along the second drive, so that they are independent evidence.
        if all(abs(int(i[n]) - int(i[m])) > _NEAR_ROWS for m in taken):
            taken.append(int(n))
            ends = (int(drive[j[n]]), int(frame[j[n]]), int(drive[i[n]]), int(frame[i[n]]))
            made.append(Candidate(*ends, score, "descriptors"))
        if len(taken) == per_pair:
            break
    return made


def _backed(first: Numbers, second: Numbers, value: Floats) -> Floats:
    """Similarities (n,) of pairs of rows, 0 where no other pair is near in both drives."""
    near = (np.abs(first[:, None] - first) <= _NEAR_ROWS) & (np.abs(second[:, None] - second) <= _NEAR_ROWS)
    near &= (first[:, None] != first) & (second[:, None] != second)
    return np.where(near.any(1), value, np.float32(0.0))


def within_budget(
    candidates: Sequence[Candidate], budget: int, already: Mapping[int, int] | None = None
) -> list[Candidate]:
    """The candidates with the highest scores, so that no drive has more than `budget`, or that less those that it has
    `already`. Each pair of drives gets its first candidate before any pair gets a second one."""
    turn: dict[tuple[int, int], int] = defaultdict(int)
    ranked = []
    for one in sorted(candidates, key=lambda c: (-c.score, c.first, c.second)):
        ranked.append((turn[one.first, one.second], -one.score, one))
        turn[one.first, one.second] += 1
    used: dict[int, int] = defaultdict(int, already or {})
    kept = []
    for _, _, one in sorted(ranked):
        if max(used[one.first], used[one.second]) < budget:
            used[one.first] += 1
            used[one.second] += 1
            kept.append(one)
    return sorted(kept)
