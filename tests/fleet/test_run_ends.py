"""Runs at the same time, runs that are stopped or die, nodes that are removed: what happens to the drives."""

import os
import signal
import threading
import time
from collections import Counter

from pipeline.fleet.records.ledger import read_run
from pipeline.leases import Leases
from pipeline.storage import UnreachableError
from tests.fleet.standins import World, manifest_of, states


def test_two_runs_at_once_share_the_drives(tmp_path):
    names = [f"d{n}" for n in range(30)]
    worlds = [World(groups=2), World(groups=2)]
    runs = [None, None]

    def go(number):
        worlds[number].on_go = lambda drive_id: time.sleep(0.02)
        runs[number] = worlds[number].run(tmp_path, names, fleet={"wave_drives": 2, "lease_s": 4.0})

    threads = [threading.Thread(target=go, args=(n,)) for n in range(2)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    # this test writes no manifests, so both runs may do a drive one after the other, but never at once
    for name in names:
        assert {states(run)[name] for run in runs} <= {"published", "skipped"}
        assert "published" in {states(run)[name] for run in runs}


def test_a_drive_of_a_live_run_is_skipped_and_a_drive_of_a_dead_run_is_taken_over(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.leases._CLOCK_SKEW_S", 0.0)
    with Leases(str(tmp_path), "other", 4.0) as other:
        other.take("living")
        dead = other.take("dead")
        other._held.pop("dead")  # this lease is not renewed any more
        run = World().run(tmp_path, ["living", "dead", "free"])
    assert states(run) == {"living": "skipped", "dead": "published", "free": "published"}
    assert "run other" in run.rows["living"].reason
    assert dead.claim.holder == "other"


def test_a_drive_during_which_three_runs_in_a_row_died_is_quarantined(tmp_path):
    with Leases(str(tmp_path), "dead", 600) as dead:
        lease = dead.take("d")
        text = lease.text.replace(b'"deaths": 0', b'"deaths": 2').replace(b'"working": false', b'"working": true')
        text = text.replace(f'"pid": {lease.claim.pid}'.encode(), b'"pid": 999999999')
        with open(lease.uri, "wb") as file:
            file.write(text)
        dead._held.clear()
    run = World().run(tmp_path, ["d", "e"])
    assert states(run) == {"d": "quarantined", "e": "published"}
    assert "3 runs in a row died" in run.rows["d"].reason


def test_a_group_on_a_draining_node_begins_no_more_drives_there(tmp_path):
    world = World()
    begun = []

    def on_go(drive_id):
        begun.append(drive_id)
        if len(begun) == 3:
            world.draining.add("node-0")
            world.alive = {"another"}

    world.on_go = on_go
    run = world.run(tmp_path, [f"d{n}" for n in range(8)], fleet={"wave_drives": 8})
    assert set(states(run).values()) == {"published"}
    assert len(world.waves) > 1 and Counter(one for tries in world.tries.values() for one in tries) == {"ok": 8}


def test_a_stopped_run_records_its_unfinished_drives_at_once_and_the_next_run_does_them(tmp_path):
    world = World()

    def on_go(drive_id):
        if drive_id == "d5":
            os.kill(os.getpid(), signal.SIGTERM)  # as when a job is stopped or a spot node is removed
            while not stopped():
                time.sleep(0.01)
            end = time.monotonic() + 2  # a group may claim its next wave at this moment
            while (left := [path.name for path in (tmp_path / "_leases").glob("*")]) and time.monotonic() < end:
                time.sleep(0.01)
            seen.append(left)

    seen = []

    def stopped():
        return read_run(str(tmp_path)).info.state == "interrupted"

    names = [f"d{n}" for n in range(8)]
    world.frames = {name: 100 - n for n, name in enumerate(names)}
    world.on_go = on_go
    run = world.run(tmp_path, names, limit=8, fleet={"wave_drives": 1})
    assert run.info.state == "interrupted"
    found = states(run)
    assert seen == [[]]  # if the run is killed now, no lease is left
    assert set(found.values()) <= {"published", "queued"} and found["d0"] == "published"
    assert found["d6"] == found["d7"] == "queued"
    assert not (tmp_path / "_leases").exists()
    assert set(states(World().run(tmp_path, names)).values()) == {"published"}


def test_a_run_that_lost_a_drive_does_not_remove_what_another_run_staged(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.leases._CLOCK_SKEW_S", 0.0)
    world, theirs = World({"d": ["crash", "ok"]}), tmp_path / "_staging" / "d" / "theirs"

    def on_go(drive_id):
        if not world.tries["d"]:
            # as if the lease had run out and another run had released it since
            (tmp_path / "_leases" / "d.json").write_bytes(b"")
            other = Leases(str(tmp_path), "other", 4)
            other.work_on(other.take("d"))
            theirs.mkdir(parents=True)
            (theirs / "chunk").write_bytes(b"x")
            time.sleep(1.0)  # this run notices it at the next renewal

    world.on_go = on_go
    run = world.run(tmp_path, ["d"], fleet={"lease_s": 1.0, "max_attempts": 2})
    assert (theirs / "chunk").exists()
    assert run.rows["d"].state in ("skipped", "published")


def test_the_next_run_removes_what_a_killed_run_left_of_a_published_drive(tmp_path):
    identity = World().run(tmp_path / "first", ["d"]).rows["d"].identity
    out = tmp_path / "out"
    out.mkdir()
    manifest_of(out, "d", identity)
    chunk = "20261127T181506-01e072d5/chunk-00000.safetensors"
    for name in (f"d/{chunk}", "kept/staged.json", f"other/{chunk}"):
        (out / "_staging" / name).parent.mkdir(parents=True)
        (out / "_staging" / name).write_bytes(b"x")
    manifest_of(out, "kept", World().run(tmp_path / "second", ["kept"]).rows["kept"].identity)
    assert set(states(World().run(out, ["d", "kept"])).values()) == {"skipped"}
    assert {path.name for path in (out / "_staging").iterdir()} == {"kept", "other"}


def test_a_group_that_ends_on_a_draining_node_counts_as_no_death_of_its_drive(tmp_path):
    world = World({"d": ["crash"] * 4 + ["ok"]})  # Ray Train ends the group at the end of the notice period
    world.draining = {"node-0"}
    world.run_wave = lambda *a: (world.draining.clear(), World.run_wave(world, *a))[1]
    world.on_go = lambda drive_id: world.draining.add("node-0")
    row = world.run(tmp_path, ["d"], fleet={"max_attempts": 2}).rows["d"]
    assert (row.state, row.attempts) == ("published", 5)


def test_a_publish_that_outlasts_the_run_reports_nothing_more(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.fleet.run._FINISH_AFTER_STOP_S", 0.5)
    world, gate, ended = World(), threading.Event(), threading.Event()

    def late(*arguments):
        gate.wait(30)
        ended.set()
        raise UnreachableError("chunks are gone")

    world.finished = late
    threading.Timer(1.0, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()
    run = world.run(tmp_path, ["d"])
    gate.set()
    assert ended.wait(5) and not time.sleep(0.3)
    assert states(run) == {"d": "queued"} and not (tmp_path / "_failed").exists()
    assert not (tmp_path / "_leases").exists()
