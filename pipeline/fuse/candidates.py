"""Which frames of which drives may show one place: by position cells where drives are on Earth, else by descriptors.

Candidates are cheap and may be wrong; verification decides. Exact: all pairs of rows are compared, a block at a time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

Array = NDArray[np.float64]
Floats = NDArray[np.float32]
Numbers = NDArray[np.int64]

_SECTORS = 8  # headings of a cell; a frame is in the two nearest
_OPPOSITE = -0.5  # cosine of two headings below which two drives go against each other
_BLOCK = 2048  # rows compared at once
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
    rows: Floats, drive: Numbers, frame: Numbers, threshold: float, per_pair: int, budget: int
) -> list[Candidate]:
    """Pairs of rows (M, K), unit descriptors of frames (M,) of drives (M,) (rising), that are alike, where neighbours
    of both are alike as well: a facade that only looks alike is alone.

    Memory: a block of 2,048 x 2,048 floats, and the pairs above the threshold. Raises ValueError for arrays that do not
    fit together.
    """
    if rows.ndim != 2 or len(drive) != len(rows) or len(frame) != len(rows):
        raise ValueError(f"expected (M, K) descriptors of M drives and frames, got {rows.shape}, {len(drive)}")
    hits: list[tuple[Numbers, Numbers, Floats]] = []
    for start in range(0, len(rows), _BLOCK):
        stop = min(start + _BLOCK, len(rows))
        before = int(np.searchsorted(drive, drive[stop - 1]))  # rows of earlier drives than the block's last
        for low in range(0, before, _BLOCK):
            high = min(low + _BLOCK, before)
            similar = rows[start:stop] @ rows[low:high].T
            # of a flat array: five times as fast as of a matrix
            i, j = np.divmod(np.flatnonzero((similar > threshold).reshape(-1)), similar.shape[1])
            value = similar[i, j]
            i, j = i + start, j + low
            earlier = drive[j] < drive[i]
            hits.append((i[earlier], j[earlier], value[earlier]))
    if not hits:
        return []
    i, j, value = (np.concatenate([hit[n] for hit in hits]) for n in range(3))
    pairs: dict[tuple[int, int], list[int]] = defaultdict(list)
    for n, pair in enumerate(zip(drive[j].tolist(), drive[i].tolist(), strict=True)):
        pairs[pair].append(n)
    made: list[Candidate] = []
    for (a, b), numbers in sorted(pairs.items()):
        mine = np.array(numbers)
        backed = _backed(j[mine], i[mine], value[mine])
        if not (backed > 0).any():
            continue
        score = float(backed.sum())
        order = mine[np.argsort(-backed, kind="stable")][: int((backed > 0).sum())]
        taken: list[int] = []
        for n in order:  # apart along the second drive, so that they say different things
            if all(abs(int(i[n]) - int(i[m])) > _NEAR_ROWS for m in taken):
                taken.append(int(n))
                made.append(Candidate(a, int(frame[j[n]]), b, int(frame[i[n]]), score, "descriptors"))
            if len(taken) == per_pair:
                break
    return within_budget(made, budget)


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
