"""Leases of machines with a wrong clock: a run waits for them at most the lease's length, by its own clock."""

import subprocess
import sys
import threading
import time

import pytest

from pipeline.errors import DriveError
from pipeline.leases import Claim, HeldElsewhere, Lease, Leases


@pytest.fixture
def foreign(tmp_path):
    """A lease of another machine whose clock is a day ahead; each call writes it again."""
    folder = tmp_path / "_leases"
    folder.mkdir()

    def write(nonce: str) -> None:
        claim = Claim("other", "host", "machine", 1, time.time() + 86_400, True, 0, nonce, 0.2)
        (folder / "d.json").write_bytes(claim.to_bytes())

    write("a")
    return write


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_a_lease_that_does_not_change_for_its_length_is_taken_over(tmp_path, foreign, clock):
    with Leases(str(tmp_path), "mine", 60.0) as mine:
        held = mine.take("d")
        assert isinstance(held, HeldElsewhere) and held.free_in_s == 70.0
        clock.sleep(69.9)
        assert isinstance(mine.take("d"), HeldElsewhere)
        clock.sleep(0.2)
        assert isinstance(mine.take("d"), Lease)


def test_a_lease_that_is_renewed_is_not_taken_over(tmp_path, foreign, clock):
    with Leases(str(tmp_path), "mine", 60.0) as mine:
        assert isinstance(mine.take("d"), HeldElsewhere)
        clock.sleep(75)
        foreign("b")
        assert isinstance(mine.take("d"), HeldElsewhere)


def test_a_run_that_is_started_again_continues_the_wait(tmp_path, foreign):
    """Each try is a new process, as when a user starts the command again."""
    try_it = (
        "from pipeline import leases; leases._CLOCK_SKEW_S = 0.1\n"
        f"held = leases.Leases({str(tmp_path)!r}, 'mine', 0.2).take('d'); print(getattr(held, 'left_s', 'taken'))"
    )
    said: list[str] = []
    while not said or (said[-1] != "taken" and len(said) < 20):
        said.append(subprocess.run([sys.executable, "-c", try_it], capture_output=True, text=True).stdout.strip())
    left = [float(one) for one in said[:-1]]
    assert left and said[-1] == "taken" and left == sorted(left, reverse=True)


def test_a_single_drive_says_that_it_waits_for_a_lease_of_a_clock_ahead_and_takes_it_over(
    tmp_path, foreign, clock, capsys
):
    begun = clock.now
    with Leases(str(tmp_path), "mine", 60.0) as mine:
        assert isinstance(mine.take_when_free("d"), Lease)
    assert 70 <= clock.now - begun < 75
    said = capsys.readouterr().err
    assert said.count("waits for drive d: run other on host has it") == 1 and "at the latest (70 s)" in said


def test_a_single_drive_is_refused_as_soon_as_another_machine_renews_its_lease(tmp_path, foreign):
    renewing = threading.Timer(0.1, foreign, ["b"])
    with Leases(str(tmp_path), "mine", 30.0) as mine:
        renewing.start()
        with pytest.raises(DriveError, match="drive d: run other on host is working on it"):
            mine.take_when_free("d")


def test_a_single_drive_that_a_live_process_of_this_machine_holds_is_refused_at_once(tmp_path):
    with Leases(str(tmp_path), "first", 600.0) as first, Leases(str(tmp_path), "second", 600.0) as second:
        first.take("d")
        begun = time.monotonic()
        with pytest.raises(DriveError, match="run first on"):
            second.take_when_free("d")
        assert time.monotonic() - begun < 5
