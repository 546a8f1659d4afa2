"""Free memory inside the heap is given back to the system."""

from pipeline.common.heap_trim import return_gaps
from pipeline.common.process_memory import resident_bytes


def test_free_memory_inside_the_heap_is_given_back_to_the_system(monkeypatch):
    # small enough to be in the heap and not in memory maps of their own
    blocks = [bytearray(60_000) for _ in range(3000)]
    for block in blocks:
        block[::4096] = bytes([1]) * len(block[::4096])
    kept, blocks = blocks[::50], None  # a block at the end, so that the heap cannot shrink from there
    before = resident_bytes()
    monkeypatch.setattr("pipeline.common.heap_trim._returned", float("-inf"))
    return_gaps()
    assert before - resident_bytes() > 100e6 and len(kept) == 60
