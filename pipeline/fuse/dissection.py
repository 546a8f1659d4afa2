"""The order in which the chunks of a city are eliminated: by areas and the borders between them (nested dissection).

The chunks are divided at a line through the city. The chunks of a smallest border, whose removal separates both sides,
are eliminated last, and the sides are divided in the same way (George 1973). A network of streets has short borders, so
that the factor has few entries.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse
import scipy.sparse.csgraph

from pipeline.fuse.drive_nodes import Array, Numbers

_LINES = (0.38, 0.44, 0.5, 0.56, 0.62)  # shares of an area's chunks before a line that may divide it
_MANY = 200  # with fewer chunks only the middle line is tried
_LEAF = 20  # most chunks of an area that is not divided


@dataclass(frozen=True, eq=False)
class Part:
    """Chunks that are eliminated together, as numbers in the order of elimination. own: these chunks, consecutive;
    border: later chunks that they and the areas before them touch, rising; areas: parts whose areas they separate."""

    own: Numbers
    border: Numbers
    areas: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Order:
    """order (n,): chunks in the order of elimination; parts: an area's parts come before the border of the area; ends:
    the last part of each connected set of chunks."""

    order: Numbers
    parts: tuple[Part, ...]
    ends: tuple[int, ...]


def order_of(pattern: scipy.sparse.csr_matrix, place: Array) -> Order:
    """The order for matrices with an entry for two chunks only where `pattern`, symmetric (n, n), has one. place
    (n, 3): of the chunks."""
    made: list[tuple[Numbers, tuple[int, ...]]] = []

    def divide(chunks: Numbers) -> int:
        areas: tuple[int, ...] = ()
        if len(chunks) > _LEAF:
            first, border, second = _halved(pattern, place, chunks)
            if len(first) and len(second):
                areas, chunks = (divide(first), divide(second)), border
        made.append((chunks, areas))
        return len(made) - 1

    number, label = scipy.sparse.csgraph.connected_components(pattern, directed=False)
    every = np.argsort(label, kind="stable")
    sets = np.split(every, np.searchsorted(label[every], np.arange(1, number)))
    ends = tuple(divide(chunks) for chunks in sets)
    order = np.concatenate([own for own, _ in made])
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    parts: list[Part] = []
    start = 0
    for own, areas in made:
        stop = start + len(own)
        touched = [rank[pattern[own].indices], *(parts[area].border for area in areas)]
        later = np.unique(np.concatenate(touched))
        parts.append(Part(np.arange(start, stop), later[later >= stop], areas))
        start = stop
    return Order(order, tuple(parts), ends)


def _halved(pattern: scipy.sparse.csr_matrix, place: Array, chunks: Numbers) -> tuple[Numbers, Numbers, Numbers]:
    """Chunks (m,) in two parts without the smallest border between them: first, border, second. Lines across the
    longest axis, and across the other one if it is at least half as long, are tried at several places; in a
    small area, one across the middle of the longest axis."""
    mine = place[chunks]
    length = mine.max(0) - mine.min(0)
    best: tuple[Numbers, Numbers, Numbers] | None = None
    for axis in np.argsort(-length)[:2].tolist():
        if best is not None and (len(chunks) <= _MANY or length[axis] < length.max() / 2):
            break
        order = chunks[np.argsort(mine[:, axis], kind="stable")]
        for share in _LINES if len(order) > _MANY else (0.5,):
            at = round(share * len(order))
            parts = _separated(pattern, order[:at], order[at:])
            if len(parts[0]) and len(parts[2]) and (best is None or len(parts[1]) < len(best[1])):
                best = parts
    return best or (chunks[:0], chunks, chunks[:0])


def _separated(pattern: scipy.sparse.csr_matrix, first: Numbers, second: Numbers) -> tuple[Numbers, Numbers, Numbers]:
    """Two sets of chunks without the fewest chunks that separate them: first, these, second.

    The entries between the sets are the edges of a bipartite graph, whose smallest vertex cover follows from a largest
    matching (König 1931).
    """
    across = pattern[first][:, second].tocsr()
    pair = scipy.sparse.csgraph.maximum_bipartite_matching(across, perm_type="column")
    mate = np.full(len(second), -1)
    mate[pair[pair >= 0]] = np.flatnonzero(pair >= 0)
    # Alternating paths begin at unmatched rows, and go from a row to any column and from a column to its mate. The
    # columns that they reach are in the cover, and the rows that they do not reach.
    reached, covered = np.zeros(len(first), bool), np.zeros(len(second), bool)
    new = np.flatnonzero(pair < 0)
    while len(new):
        reached[new] = True
        seen = np.unique(across[new].indices)
        seen = seen[~covered[seen]]
        covered[seen] = True
        new = mate[seen]
        new = new[(new >= 0) & ~reached[new]]
    return first[reached], np.concatenate([first[~reached], second[covered]]), second[~covered]
