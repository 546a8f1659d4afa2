"""Leases: one run holds a drive. Of many that ask at once one gets it; a run that does not renew its lease loses it."""

import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline import leases, storage
from pipeline.errors import StorageError
from pipeline.leases import Claim, HeldElsewhere, Lease, LeaseLostError, Leases, remote_guard
from pipeline.storage import UnreachableError
from tests.s3_server import s3, s3_server  # noqa: F401

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(params=["disk", pytest.param("s3", marks=pytest.mark.cluster)])
def output(request, tmp_path):
    """A place of each kind."""
    if request.param == "disk":
        return str(tmp_path)
    return f"{request.getfixturevalue('s3')}/{tmp_path.name}"


def test_of_many_runs_that_ask_at_once_one_gets_the_drive_and_another_one_after_it_was_released(output):
    runs = [Leases(output, f"run-{n}", 60) for n in range(6)]
    with ThreadPoolExecutor(6) as pool:
        for _ in range(3):
            taken = list(pool.map(lambda run: run.take("d"), runs))
            won = [one for one in taken if isinstance(one, Lease)]
            assert len(won) == 1
            won[0].guard()
            assert {one.claim.holder for one in taken if isinstance(one, HeldElsewhere)} <= {
                won[0].claim.holder,
                *(run._holder for run in runs),
            }
            runs[taken.index(won[0])].release(won[0])
            with pytest.raises(LeaseLostError):
                won[0].guard()


def test_a_lease_is_renewed_while_its_holder_lives_and_lost_when_the_holder_stops(output, monkeypatch, clock):
    monkeypatch.setattr(leases, "_CLOCK_SKEW_S", 0.0)
    monkeypatch.setattr(leases, "_is_alive", lambda pid: True)
    with Leases(output, "first", 2.0) as first:
        lease = first.take("d")
        first.work_on(lease)
        for _ in range(2):
            clock.sleep(1.5)
            _wait_for_renewal([lease])
        second = Leases(output, "second", 2.0)
        assert isinstance(second.take("d"), HeldElsewhere)
        lease.guard()
        remote_guard(output, "d", "first")()
        first._stop.set()  # as if the run hung: it renews no more
        first._thread.join()
        clock.sleep(2.5)
        taken = second.take("d")
        assert isinstance(taken, Lease) and taken.deaths == 1
        with pytest.raises(LeaseLostError, match="drive d"):
            lease.guard()
        with pytest.raises(LeaseLostError, match="drive d"):
            remote_guard(output, "d", "first")()
        first._move_on(lease)
        assert lease.lost
    remote_guard(output, "d", "second")()  # the end of the first run did not change it
    second.release(taken)
    assert isinstance(Leases(output, "third", 2.0).take("d"), Lease)


def _wait_for_renewal(held):
    begun, before = time.monotonic(), {lease.claim.nonce for lease in held}
    while any(lease.claim.nonce in before for lease in held):
        assert time.monotonic() - begun < 60, "not every lease is renewed"
        time.sleep(0.05)


def test_a_dead_process_of_this_machine_is_not_waited_for_and_its_death_counts_if_it_worked_on_the_drive(tmp_path):
    code = (
        "import os, sys; from pipeline.leases import Leases; run = Leases(sys.argv[1], 'dead', 600);"
        "run.take('waiting'); run.work_on(run.take('working')); os.kill(os.getpid(), 9)"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    for deaths in (1, 3):
        assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=env).returncode == -9
        with Leases(str(tmp_path), "me", 600) as mine:
            working, waiting = mine.take("working"), mine.take("waiting")
            assert (working.deaths, waiting.deaths) == (deaths, 0)
            if deaths == 1:  # as if this process died as well: its lease stays
                text = working.text.replace(b'"working": false', b'"working": true')
                storage.write_bytes_atomically(working.uri, text.replace(str(os.getpid()).encode(), b"999999999"))
                mine.release(waiting)
                mine._held.clear()


def test_a_compare_and_swap_writes_everything_or_nothing(output):
    uri = storage.join(output, "one")
    assert storage.compare_and_swap(uri, None, b"a")
    assert not storage.compare_and_swap(uri, None, b"b")
    assert not storage.compare_and_swap(uri, b"b", b"c")
    assert storage.compare_and_swap(uri, b"a", b"b")
    won = []

    def swap(number):
        if storage.compare_and_swap(uri, b"b", f"winner {number}".encode()):
            won.append(number)

    threads = [threading.Thread(target=swap, args=(n,)) for n in range(6)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert len(won) == 1 and storage.read_bytes(uri) == f"winner {won[0]}".encode()
    assert not storage.compare_and_swap(uri, b"b", None)
    assert storage.compare_and_swap(uri, storage.read_bytes(uri), None)
    assert not storage.exists(uri)
    assert not storage.compare_and_swap(uri, b"b", b"c")


def test_a_reader_sees_a_whole_lease_while_it_is_renewed(tmp_path):
    uri = str(tmp_path / "lease.json")
    texts = [bytes([letter]) * 5000 for letter in b"ab"]
    assert storage.compare_and_swap(uri, None, texts[0])
    seen, done = set(), threading.Event()

    def look():
        while not done.is_set():
            seen.add(storage.read_bytes(uri))

    reader = threading.Thread(target=look)
    reader.start()
    for number in range(200):
        assert storage.compare_and_swap(uri, texts[number % 2], texts[1 - number % 2])
    done.set()
    reader.join()
    assert seen <= set(texts) and os.listdir(tmp_path) == ["lease.json"]


def test_a_store_without_conditional_writes_swaps_as_well_as_it_can():
    uri = "memory://leases/one"
    assert storage.compare_and_swap(uri, None, b"a")
    assert not storage.compare_and_swap(uri, None, b"b")
    assert storage.compare_and_swap(uri, b"a", b"b") and storage.read_bytes(uri) == b"b"
    assert storage.compare_and_swap(uri, b"b", None) and not storage.exists(uri)


class Away:
    """A store that does not answer while it is `away`."""

    def __init__(self, monkeypatch):
        self.away = False
        for name in ("compare_and_swap", "read_bytes"):
            monkeypatch.setattr(storage, name, self._through(getattr(storage, name)))

    def _through(self, call):
        def through(*arguments):
            if self.away:
                raise UnreachableError("no answer")
            return call(*arguments)

        return through


def test_a_drive_whose_release_failed_is_taken_again_at_once_and_no_death_is_counted(tmp_path, monkeypatch):
    store, mine = Away(monkeypatch), Leases(str(tmp_path), "me", 60)
    lease = mine.take("d")
    mine.work_on(lease)
    assert isinstance(mine.take("d"), HeldElsewhere)  # already held: a run cannot take it twice
    store.away = True
    mine.release(lease)
    store.away = False
    again = mine.take("d")
    assert isinstance(again, Lease) and again.deaths == 0
    again.guard()
    assert isinstance(Leases(str(tmp_path), "other", 60).take("d"), HeldElsewhere)


def test_a_lease_that_ran_out_while_the_store_was_away_is_kept_unless_another_run_took_the_drive(
    tmp_path, monkeypatch, clock
):
    monkeypatch.setattr(leases, "_CLOCK_SKEW_S", 0.0)
    monkeypatch.setattr(leases, "_is_alive", lambda pid: True)
    store, mine = Away(monkeypatch), Leases(str(tmp_path), "me", 1.0)
    kept, lost = mine.take("kept"), mine.take("lost")
    far = remote_guard(str(tmp_path), "kept", "me")
    clock.sleep(1.2)
    for lease in (kept, lost):
        with pytest.raises(LeaseLostError):
            lease.guard()
    with pytest.raises(StorageError, match="not renewed in time"):  # the finishing task's guard: try again
        far()
    assert isinstance(Leases(str(tmp_path), "other", 60).take("lost"), Lease)
    store.away = True
    with pytest.raises(StorageError):
        mine.keep(kept)
    store.away = False
    mine.keep(kept)
    far()
    with pytest.raises(LeaseLostError):
        mine.keep(lost)


def test_many_leases_are_renewed_released_and_marked_at_rest_in_parallel(tmp_path, monkeypatch):
    swap, lock, running, most = storage.compare_and_swap, threading.Lock(), set(), []

    def slow_swap(uri, expected, text):
        with lock:
            running.add(uri)
            most.append(len(running))
        time.sleep(0.05)
        with lock:
            running.discard(uri)
        return swap(uri, expected, text)

    with Leases(str(tmp_path), "me", 8.0) as mine:
        held = [mine.take(f"d{number}") for number in range(60)]
        for lease in held:
            mine.work_on(lease)
        monkeypatch.setattr(storage, "compare_and_swap", slow_swap)
        _wait_for_renewal(held)
        for step in (None, lambda: mine.say_at_rest(held[:30]), lambda: mine.give_back(held[30:])):
            if step is not None:
                step()
            assert max(most) > 8  # one after the other, a thousand leases would run out before they are renewed
            most.clear()
        texts = [(tmp_path / "_leases" / f"d{number}.json").read_text() for number in range(30)]
        assert all('"working": false' in text for text in texts)
        assert sorted(mine.drive_ids()) == sorted(f"d{number}" for number in range(30))


def test_a_stored_lease_names_its_holder_under_the_word_that_older_programs_use(tmp_path):
    lease = Leases(str(tmp_path), "me", 60).take("d")
    stored = json.loads((tmp_path / "_leases" / "d.json").read_text())
    assert stored["owner"] == "me" and "holder" not in stored
    assert storage.parse_record(lease.text, Claim, "lease") == lease.claim
