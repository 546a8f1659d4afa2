"""Memory of this process and of those it started."""

import subprocess
import sys
import threading

import pytest

from pipeline.common.process_memory import MemoryTrace, descendants_bytes, whole_resident_bytes

HOLDS = "held = b'x' * 150_000_000; print(flush=True); input()"


def test_memory_of_started_processes_is_theirs_alone_whatever_this_one_holds():
    before, own = descendants_bytes(), whole_resident_bytes()
    here = bytearray(b"x" * 120_000_000)
    assert descendants_bytes() - before < 50e6  # not what this process holds
    assert whole_resident_bytes() - own > 100e6
    with subprocess.Popen([sys.executable, "-c", HOLDS], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout.readline()
        assert 140e6 < descendants_bytes() - before < 250e6
        child.communicate(b"\n")
    assert descendants_bytes() - before < 50e6  # it has ended
    assert len(here) == 120_000_000


def test_the_peak_is_what_was_held_at_the_beginning_between_and_at_the_end():
    figures, seen = iter([3, 7, 5]), threading.Event()

    def held():
        found = next(figures, 4)
        if found == 7:
            seen.set()
        return found

    with MemoryTrace(0.001, held) as trace:
        assert seen.wait(20)
    assert trace.peak == 7 and trace.samples[0][1] == 3 and len(trace.samples) >= 3
    assert [when for when, _ in trace.samples] == sorted(when for when, _ in trace.samples)


@pytest.mark.parametrize(("samples", "growth"), [([1, 5, 2, 9], 4), ([1, 5, 2, 5], 0), ([8], 0)])
def test_growth_is_that_of_the_peaks_of_both_halves(samples, growth):
    trace = MemoryTrace(of=lambda: 0)
    trace.samples = [(float(second), held) for second, held in enumerate(samples)]
    assert trace.growth == growth
