"""Which frames of which drives may show one place: by position cells where drives are on Earth, else by descriptors.

Candidates are cheap and may be wrong; verification decides. Exact: all pairs of rows are compared, a block at a time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

Array = NDArray[np.float64]
Floats = NDArray[np.float32]
Numbers = NDArray[np.int64]

_SECTORS = 8  # headings of a cell; a frame is in the two nearest
_OPPOSITE = -0.5  # cosine of two headings below which two drives go against each other
_ROWS, _COLUMNS = 512, 512  # compared at once: a megabyte, which a core's cache holds
_OF_A_ROW = 4  # pairs of a row with one other drive
_NEAR_ROWS = 4  # descriptors before and behind, among which a second look must be alike as well


@dataclass(frozen=True, order=True)
class Candidate:
    """Frame `first_frame` of drive `first` and `second_frame` of `second` (places in the drives' arrays) may show one
    place. score: the higher the sooner it is looked at; by: positions | descriptors; opposite: driven against each
    other, so that a forward camera sees nothing of what the other saw."""

    first: int
    first_frame: int
    second: int
    second_frame: int
    score: float
    by: str
    opposite: bool = False


@dataclass(frozen=True, eq=False)
class Track:
    """A drive on a map. drive: its number; frame (n,): places in its arrays; place (n, 3) and ahead (n, 3): of its
    cameras, metres east, north, up about one origin for all."""

    drive: int
    frame: Numbers
    place: Array
    ahead: Array


def by_positions(tracks: Sequence[Track], cell_m: float, per_pair: int, budget: int) -> list[Candidate]:
    """Pairs of drives that went through common cells of `cell_m` metres, those with most of them first.

    per_pair: candidates of a pair at most, spread over what they share; budget: candidates of a drive at most.
    Opposite passes through a cell are candidates of their own kind, one a pair of drives.
    """
    if len(tracks) < 2:
        return []
    cells: dict[tuple[int, int, int], int] = {}
    rows: list[Numbers] = []
    reverse: list[Numbers] = []
    first_seen: list[dict[int, int]] = []
    for track in tracks:
        own: dict[int, int] = {}
        turned: set[int] = set()
        sector = np.arctan2(track.ahead[:, 1], track.ahead[:, 0]) / (2 * np.pi / _SECTORS)
        grid = np.floor(track.place[:, :2] / cell_m).astype(np.int64)
        for n in range(len(track.frame)):
            for near in {int(np.floor(sector[n])) % _SECTORS, int(np.ceil(sector[n])) % _SECTORS}:
                place = (int(grid[n, 0]), int(grid[n, 1]), near)
                own.setdefault(cells.setdefault(place, len(cells)), n)
                turned.add(cells.setdefault((*place[:2], (near + _SECTORS // 2) % _SECTORS), len(cells)))
        rows.append(np.array(sorted(own), np.int64))
        reverse.append(np.array(sorted(turned), np.int64))
        first_seen.append(own)
    same = _shared(rows, rows, len(cells))
    against = _shared(rows, reverse, len(cells))
    made: list[Candidate] = []
    for a, b, count in same:
        common = np.intersect1d(rows[a], rows[b], assume_unique=True)
        order = common[np.argsort([first_seen[b][int(c)] for c in common], kind="stable")]
        for c in order[np.unique(np.linspace(0, len(order) - 1, per_pair).round().astype(int))]:
            made.append(_at(tracks, a, first_seen[a][int(c)], b, _nearest(tracks, a, first_seen[a][int(c)], b), count))
    for a, b, count in against:
        c = int(np.intersect1d(rows[a], reverse[b], assume_unique=True)[0])
        n = first_seen[a][c]
        made.append(_at(tracks, a, n, b, _nearest(tracks, a, n, b), count, opposite=True))
    return within_budget(made, budget)


def _shared(rows: Sequence[Numbers], others: Sequence[Numbers], width: int) -> list[tuple[int, int, int]]:
    """(a, b, cells that row set a shares with set b of `others`), a < b, most first."""

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
) -> list[Candidate]:
    """Pairs of rows (M, K), unit descriptors of frames (M,) of drives (M,) (rising), that are alike, where neighbours
    of both are alike as well: a facade that only looks alike is alone.

    fresh: only pairs that one of these drives is in. Exact: every pair of rows is multiplied, a block at a time, by
    `threads`. Memory: a block of 512 x 512 floats a thread, and of each row its `per_pair` best pairs with each
    other drive. Raises ValueError for arrays that do not fit together.
    """
    if rows.ndim != 2 or len(drive) != len(rows) or len(frame) != len(rows):
        raise ValueError(f"expected (M, K) descriptors of M drives and frames, got {rows.shape}, {len(drive)}")
    starts = range(0, len(rows), _ROWS)
    new = np.ones(len(rows), bool) if fresh is None else np.isin(drive, list(fresh))
    with ThreadPoolExecutor(threads, thread_name_prefix="alike") as pool:
        found = list(pool.map(lambda start: _alike(rows, drive, start, threshold, new), starts))
    if not found:
        return []
    i, j, value = (np.concatenate([hit[n] for hit in found]) for n in range(3))
    order = np.lexsort((i, drive[i], drive[j]))
    i, j, value = i[order], j[order], value[order]
    pair = drive[j] * (int(drive[-1]) + 1) + drive[i]
    made: list[Candidate] = []
    for mine in np.split(np.arange(len(pair)), np.flatnonzero(np.diff(pair)) + 1) if len(pair) else []:
        if len(mine) > 1:
            made += _spread(mine, i, j, value, drive, frame, per_pair)
    return within_budget(made, budget)


def _alike(
    rows: Floats, drive: Numbers, start: int, threshold: float, new: NDArray[np.bool_]
) -> tuple[Numbers, Numbers, Floats]:
    """Rows of a block, rows of earlier drives that are alike, and how much, where one of both is `new` (M,)."""
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
        high_rows = np.flatnonzero(similar.max(1) > threshold)  # few: the rest is not looked at again
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
    # of a row and another drive a few pairs say all: a car that stands is alike for many rows
    order = np.lexsort((-value, drive[j], i))
    i, j, value = i[order], j[order], value[order]
    place = np.arange(len(i))
    first = np.concatenate([[True], (np.diff(i) != 0) | (np.diff(drive[j]) != 0)]) if len(i) else np.zeros(0, bool)
    kept = place - np.maximum.accumulate(np.where(first, place, 0)) < _OF_A_ROW
    return i[kept], j[kept], value[kept]


def _spread(
    mine: Numbers, i: Numbers, j: Numbers, value: Floats, drive: Numbers, frame: Numbers, per_pair: int
) -> list[Candidate]:
    """Candidates of a pair of drives, whose pairs of rows are those at `mine`."""
    backed = _backed(j[mine], i[mine], value[mine])
    score = float(backed.sum())
    made: list[Candidate] = []
    taken: list[int] = []
    for n in mine[np.argsort(-backed, kind="stable")][: int((backed > 0).sum())]:
        # apart along the second drive, so that they say different things
        if all(abs(int(i[n]) - int(i[m])) > _NEAR_ROWS for m in taken):
            taken.append(int(n))
            ends = (int(drive[j[n]]), int(frame[j[n]]), int(drive[i[n]]), int(frame[i[n]]))
            made.append(Candidate(*ends, score, "descriptors"))
        if len(taken) == per_pair:
            break
    return made


def _backed(first: Numbers, second: Numbers, value: Floats) -> Floats:
    """(n,): similarity of pairs that another pair a few rows on bears out, 0 of those that stand alone."""
    near = (np.abs(first[:, None] - first) <= _NEAR_ROWS) & (np.abs(second[:, None] - second) <= _NEAR_ROWS)
    near &= (first[:, None] != first) & (second[:, None] != second)
    return np.where(near.any(1), value, np.float32(0.0))


def within_budget(candidates: Sequence[Candidate], budget: int) -> list[Candidate]:
    """The best, so that no drive is in more than `budget` of them. Pairs of drives take turns: each has one before any
    has two."""
    turn: dict[tuple[int, int], int] = defaultdict(int)
    ranked = []
    for one in sorted(candidates, key=lambda c: (-c.score, c.first, c.second)):
        ranked.append((turn[one.first, one.second], -one.score, one))
        turn[one.first, one.second] += 1
    used: dict[int, int] = defaultdict(int)
    kept = []
    for _, _, one in sorted(ranked):
        if max(used[one.first], used[one.second]) < budget:
            used[one.first] += 1
            used[one.second] += 1
            kept.append(one)
    return sorted(kept)
