"""Gaps in the heap go back to the system."""

from pipeline.common.heap_trim import return_gaps
from pipeline.common.process_memory import resident_bytes


def test_gaps_in_the_heap_go_back_to_the_system(monkeypatch):
    blocks = [bytearray(60_000) for _ in range(3000)]  # small enough to lie in the heap, not in maps of their own
    for block in blocks:
        block[::4096] = bytes([1]) * len(block[::4096])
    kept, blocks = blocks[::50], None  # so that the heap cannot shrink from its end
    before = resident_bytes()
    monkeypatch.setattr("pipeline.common.heap_trim._returned", float("-inf"))
    return_gaps()
    assert before - resident_bytes() > 100e6 and len(kept) == 60
