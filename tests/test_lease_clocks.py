"""Leases of machines whose clock is wrong: waited for no longer than the lease's own length, by one's own clock."""

import json
import time
from dataclasses import asdict

import pytest

from pipeline import leases
from pipeline.leases import Claim, HeldElsewhere, Lease, Leases


@pytest.fixture
def foreign(tmp_path):
    """A lease of another machine whose clock is a day ahead; writes it anew with each call."""
    folder = tmp_path / "_leases"
    folder.mkdir()

    def write(nonce: str) -> None:
        claim = Claim("other", "host", "machine", 1, time.time() + 86_400, True, 0, nonce, 0.2)
        (folder / "d.json").write_text(json.dumps(asdict(claim)))

    write("a")
    return write


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(leases, "_CLOCK_SKEW_S", 0.1)


def test_a_lease_that_stays_as_it_is_for_its_length_is_taken_over(tmp_path, foreign):
    with Leases(str(tmp_path), "mine", 0.2) as mine:
        held = mine.take("d")
        assert isinstance(held, HeldElsewhere) and held.free_in_s < 1
        time.sleep(0.4)
        assert isinstance(mine.take("d"), Lease)


def test_a_lease_that_is_renewed_stays_the_others(tmp_path, foreign):
    with Leases(str(tmp_path), "mine", 0.2) as mine:
        assert isinstance(mine.take("d"), HeldElsewhere)
        time.sleep(0.4)
        foreign("b")
        assert isinstance(mine.take("d"), HeldElsewhere)
