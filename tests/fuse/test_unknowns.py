"""The number of unknowns of a city is bounded, and small cities have more than chunks."""

from __future__ import annotations

from pipeline.fuse.unknowns import unknowns_of


def test_small_cities_have_more_nodes_and_large_ones_fewer_than_chunks() -> None:
    assert unknowns_of([3] * 20) == 0
    assert unknowns_of([30] * 30) == 0
    assert unknowns_of([3] * 100) == 1, "a hundred drives of twelve nodes would be too many"
    assert unknowns_of([30] * 50) == 2
    assert unknowns_of([83] * 120) == 7
    assert unknowns_of([83] * 2000) * 24_000 >= 83 * 2000
