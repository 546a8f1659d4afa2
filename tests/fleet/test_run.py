"""What a run decides: what is tried again, how often, alone or not, what is given up and remembered."""

import hashlib
import os
import signal
import threading
import time
from collections import Counter

import pytest

from models import ModelConfig
from pipeline.errors import AlignmentError, DecodeError
from pipeline.fleet.discover.drive_ref import RefusedDrive
from pipeline.fleet.plan.drive_plan import state_bytes_per_frame
from pipeline.fleet.records.ledger import read_run
from pipeline.fleet.run import fleet_summary
from pipeline.forward.group import GroupError
from pipeline.leases import LeaseLostError, Leases
from pipeline.publish import Counts, Manifest
from pipeline.publish.files import WrittenFile
from pipeline.schema import SCHEMA_VERSION
from pipeline.storage import UnreachableError
from pipeline.storage import retry as patience
from tests.fleet.standins import World


def states(run):
    return {drive_id: row.state for drive_id, row in run.rows.items()}


def test_every_kind_of_failure_gets_its_due_and_costs_no_other_drive_anything(tmp_path, monkeypatch):
    monkeypatch.setattr(patience, "STORE_WAITS_S", (0.1,))
    script = {
        "input": ["input"],
        "store": ["store", "store", "ok"],
        "dead-store": ["store"],
        "crash": ["crash", "ok"],
        "poison": ["crash"],
        "node": ["node"] * 4 + ["ok"],
        "die": ["die", "ok"],
        "bug": ["bug", "ok"],
    }
    world = World(script)
    world.bad = {"empty": DecodeError("drive empty: no images"), "away": UnreachableError("no answer")}
    good = [f"good-{n}" for n in range(12)]
    run = world.run(tmp_path, [*script, *good, "empty", "away"])
    assert run.info.state == "finished" and run.info.listed
    expected = dict.fromkeys([*good, "store", "crash", "node", "die", "bug"], "published")
    expected |= dict.fromkeys(["input", "dead-store", "empty", "away"], "failed") | {"poison": "quarantined"}
    assert states(run) == expected
    assert {name: len(world.tries[name]) for name in script} == {
        "input": 1,
        "store": 3,
        "dead-store": 3,
        "crash": 2,
        "poison": 3,
        "node": 5,
        "die": 2,
        "bug": 2,
    }
    assert all(len(world.tries[name]) == 1 for name in good)
    # before its first death it may have been put back unblamed, for another's
    retried_alone = [wave for wave in world.waves if "poison" in wave][-2:]
    assert retried_alone == [["poison"], ["poison"]]
    row = run.rows["input"]
    assert row.reason == "drive input: depth is not finite at frame 7" and row.frame == 7
    assert row.stage == "forward: layers 2/3"
    assert "died" in run.rows["poison"].reason and run.rows["poison"].attempts == 3
    assert run.rows["good-0"].seconds.keys() >= {"find", "forward", "join", "publish"}
    assert read_run(str(tmp_path)).rows == run.rows and read_run(str(tmp_path)).info.state == "finished"
    said = fleet_summary(run, str(tmp_path))
    assert "17 published" in said and "poison" in said and "jobs.reconstruct --retry-failed" in said
    assert not (tmp_path / "_leases").exists()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("groups", [1, 2, 3])
def test_a_drive_that_comes_back_belongs_to_the_wave_that_takes_it_not_to_the_one_it_left(tmp_path, groups):
    # drives, and the ends of groups, take so long that the next wave is claimed before the wave that asked for it ends
    world = World({"d0": ["crash", "ok"], "d1": ["node", "ok"]}, groups=groups, end_s=0.3)
    world.on_go = lambda drive: time.sleep(0.15)
    run = world.run(tmp_path, [f"d{number}" for number in range(8)])
    assert run.counts["published"] == 8
    assert {name: len(tries) for name, tries in world.tries.items()} == {f"d{n}": 2 if n < 2 else 1 for n in range(8)}
    assert {name: row.attempts for name, row in run.rows.items()} == {f"d{n}": 2 if n < 2 else 1 for n in range(8)}
    assert len(world.waves) <= 4 * groups + 2


def test_a_failure_in_the_drive_is_remembered_one_of_the_store_is_tried_again_until_asked(tmp_path):
    names = ["a", "input", "poison", "dead-store"]
    first = World({"input": ["input"], "poison": ["crash"], "dead-store": ["store"]})
    first.run(tmp_path, names)
    second = World()
    run = second.run(tmp_path, names)
    assert states(run) == {"a": "published", "input": "skipped", "poison": "skipped", "dead-store": "published"}
    assert "quarantined before" in run.rows["poison"].reason and "not finite" in run.rows["input"].reason
    again = World()
    run = again.run(tmp_path, names, retry_failed=True)
    assert states(run) == {"input": "published", "poison": "published"}
    changed = World({"input": ["input"]})
    changed.run(tmp_path, ["input"])
    changed.frames["input"] = 11  # other input: the failure says nothing of it
    assert len(changed.tries["input"]) == 1
    changed.script = {}
    assert states(changed.run(tmp_path, ["input"])) == {"input": "published"}


def test_publishing_is_tried_again_for_the_store_not_for_the_drive_and_forward_is_not_repeated(tmp_path):
    world = World()
    world.finish = {
        "later": [UnreachableError("no answer"), UnreachableError("no answer")],
        "never": [UnreachableError("no answer")] * 9,
        "crooked": [AlignmentError("drive crooked: chunks cannot be joined at frame 3")],
        "bug": [KeyError("x")],
        "lost": [LeaseLostError("drive lost: this run's claim ran out")],
    }
    run = world.run(tmp_path, [*world.finish, "fine"])
    assert states(run) == {
        "later": "published",
        "never": "failed",
        "crooked": "failed",
        "bug": "failed",
        "lost": "skipped",
        "fine": "published",
    }
    assert all(len(tries) == 1 for tries in world.tries.values())
    assert (run.rows["crooked"].stage, run.rows["crooked"].frame) == ("join", 3)
    assert run.rows["never"].stage == "publish" and "tried 3 times" in run.rows["never"].reason


def test_a_group_that_cannot_even_start_ends_the_run_with_its_reason(tmp_path):
    world = World({"a": ["no start"], "b": ["no start"]})
    # a group's own failure before it came to a drive
    world.run_wave = lambda *a, **k: (_ for _ in ()).throw(GroupError("wrong weights", None))
    run = world.run(tmp_path, ["a", "b"])
    assert run.info.state == "failed" and "wrong weights" in run.info.message
    assert set(states(run).values()) == {"queued"}


def test_longest_first_and_a_limit_takes_the_longest(tmp_path):
    world = World(frames={"a": 10, "b": 30, "c": 20})
    run = world.run(tmp_path, ["a", "b", "c"], limit=2)
    assert states(run) == {"a": "skipped", "b": "published", "c": "published"}
    assert [one for wave in world.waves for one in wave] == ["b", "c"]


def test_a_long_drive_gets_a_larger_group_and_groups_share_the_room(tmp_path):
    per_frame = state_bytes_per_frame(ModelConfig.city_tiny(), 128, 128, 4)
    world = World(frames={"long": 60}, groups=4, rank_bytes=25 * per_frame)  # two chunks of 12 a rank
    run = world.run(tmp_path, ["long", "a", "b"], fleet={"wave_drives": 1})
    assert set(states(run).values()) == {"published"}
    sizes = {wave[0]: size for wave, size in zip(world.waves, world.sizes, strict=True)}
    assert sizes["a"] == sizes["b"] == 1 and sizes["long"] == 4  # nine chunks want five ranks, there are four


def test_only_takes_names_and_tags_by_pattern(tmp_path):
    assert set(World().run(tmp_path, ["north-1", "north-2", "south-1"], only="north*").rows) == {"north-1", "north-2"}


def test_what_two_runs_at_once_do_is_done_once(tmp_path):
    names = [f"d{n}" for n in range(30)]
    worlds = [World(groups=2), World(groups=2)]
    runs = [None, None]

    def go(number):
        worlds[number].on_go = lambda drive_id: time.sleep(0.02)
        runs[number] = worlds[number].run(tmp_path, names, fleet={"wave_drives": 2, "lease_s": 4.0})

    threads = [threading.Thread(target=go, args=(n,)) for n in range(2)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    # nothing here writes a manifest, so a drive may be done by both, one after the other, but never at once
    for name in names:
        assert {states(run)[name] for run in runs} <= {"published", "skipped"}
        assert "published" in {states(run)[name] for run in runs}


def test_a_drive_that_a_living_run_has_is_left_to_it_and_one_of_a_dead_run_is_taken_over(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.leases._CLOCK_SKEW_S", 0.0)
    with Leases(str(tmp_path), "other", 4.0) as other:
        other.take("living")
        dead = other.take("dead")
        other._held.pop("dead")  # is not renewed any more
        run = World().run(tmp_path, ["living", "dead", "free"])
    assert states(run) == {"living": "skipped", "dead": "published", "free": "published"}
    assert "run other" in run.rows["living"].reason
    assert dead.claim.owner == "other"


def test_a_drive_that_killed_run_after_run_is_quarantined(tmp_path):
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


def test_a_group_on_a_node_that_is_going_begins_nothing_more_there(tmp_path):
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


def test_groups_wait_while_too_much_waits_to_be_published(tmp_path):
    world = World()
    gate, most, running = threading.Event(), [0], [0]
    finished = world.finished

    def slow(*arguments):
        running[0] += 1
        gate.wait(5)
        return finished(*arguments)

    world.finished = slow
    started = []
    world.on_go = started.append
    threading.Timer(1.0, lambda: (most.__setitem__(0, len(started)), gate.set())).start()
    run = world.run(tmp_path, [f"d{n}" for n in range(12)], fleet={"finishing": 2})
    assert set(states(run).values()) == {"published"}
    assert most[0] <= 2 * 2 + 1  # twice what is finished at a time


def test_a_stopped_run_says_at_once_what_it_did_not_do_and_the_next_goes_on(tmp_path):
    world = World()

    def on_go(drive_id):
        if drive_id == "d5":
            os.kill(os.getpid(), signal.SIGTERM)  # a job that is stopped, a spot node that goes
            while not stopped():
                time.sleep(0.01)
            end = time.monotonic() + 2  # the next wave may be being claimed in this moment
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
    assert seen == [[]]  # whoever told it to stop may kill it now: no drive is anybody's
    assert set(found.values()) <= {"published", "queued"} and found["d0"] == "published"
    assert found["d6"] == found["d7"] == "queued"
    assert not (tmp_path / "_leases").exists()
    assert set(states(World().run(tmp_path, names)).values()) == {"published"}


@pytest.mark.parametrize("name", ["../up", "a/b", ".hidden", "_runs", "x" * 200])
def test_a_name_that_is_no_folder_is_refused_by_name_and_touches_nothing(tmp_path, name):
    run = World().run(tmp_path / "out", [name, "good"])
    assert states(run) == {name: "failed", "good": "published"}
    assert "drive id" in run.rows[name].reason
    assert {p.name for p in tmp_path.iterdir()} == {"out"}


def test_a_run_leaves_its_report_beside_its_ledger(tmp_path):
    run = World({"bad": ["input"]}).run(tmp_path, ["good", "bad"])
    page = (tmp_path / "_runs" / run.info.run_id / read_run(str(tmp_path)).info.report).read_text()
    assert "depth is not finite at frame 7" in page and '"good","published"' in page
    assert "report.html" in fleet_summary(run, str(tmp_path))


def manifest_of(output, drive_id, identity):
    """A result of this identity, as far as a run looks at it."""
    counts = Counts(10, 10, 0, 0, 1, 0, 0, 5, 1.0)
    poses = WrittenFile("poses.parquet", 1, hashlib.sha256(b"x").hexdigest(), 10)
    manifest = Manifest(SCHEMA_VERSION, drive_id, identity, "", {}, None, {}, "", counts, {}, {}, (poses,))
    (output / drive_id).mkdir()
    (output / drive_id / "poses.parquet").write_bytes(b"x")
    (output / drive_id / "manifest.json").write_bytes(manifest.to_bytes())


def test_a_drive_that_could_not_be_listed_is_planned_on_its_turn_and_done_if_it_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr(patience, "STORE_WAITS_S", ())
    identity = World().run(tmp_path / "first", ["there"]).rows["there"].identity
    out = tmp_path / "out"
    out.mkdir()
    manifest_of(out, "there", identity)
    manifest_of(out, "old", "made from other input")
    away = [UnreachableError("no answer")]
    world = World(frames={"old": 33})
    world.bad = {"there": [*away], "old": [*away], "never": UnreachableError("no answer"), "empty": [*away, BAD]}
    run = world.run(out, ["there", "old", "never", "empty", "fine"])
    assert states(run) == {
        "there": "skipped",
        "old": "published",
        "never": "failed",
        "empty": "failed",
        "fine": "published",
    }
    assert run.rows["there"].reason == "published already" and set(world.tries) == {"old", "fine"}
    assert run.rows["old"].identity and run.rows["old"].frames == 33
    assert "tried 3 times" in run.rows["never"].reason and run.rows["empty"].reason == str(BAD)
    assert not (out / "_leases").exists()


BAD = DecodeError("drive empty: no images")


def test_a_failure_that_was_remembered_of_a_drive_that_is_published_is_forgotten(tmp_path):
    identity = World({"d": ["input"]}).run(tmp_path, ["d"]).rows["d"].identity
    assert (tmp_path / "_failed" / "d.json").exists()
    manifest_of(tmp_path, "d", identity)
    assert states(World().run(tmp_path, ["d"])) == {"d": "skipped"}
    assert not (tmp_path / "_failed" / "d.json").exists()


def test_what_another_run_staged_is_not_cleared_by_the_one_that_lost_the_drive(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.leases._CLOCK_SKEW_S", 0.0)
    world, theirs = World({"d": ["crash", "ok"]}), tmp_path / "_staging" / "d" / "theirs"

    def on_go(drive_id):
        if not world.tries["d"]:
            (tmp_path / "_leases" / "d.json").write_bytes(b"")  # as if it had run out and been given back since
            other = Leases(str(tmp_path), "other", 4)
            other.work_on(other.take("d"))
            theirs.mkdir(parents=True)
            (theirs / "chunk").write_bytes(b"x")
            time.sleep(1.0)  # this run hears of it when it renews

    world.on_go = on_go
    run = world.run(tmp_path, ["d"], fleet={"lease_s": 1.0, "max_attempts": 2})
    assert (theirs / "chunk").exists()
    assert run.rows["d"].state in ("skipped", "published")


def test_machines_that_a_try_took_are_counted_whatever_came_of_it(tmp_path):
    world = World({"bad": ["input"], "again": ["crash", "ok"]}, gpus=2)
    world.on_go = lambda drive_id: time.sleep(0.1)
    rows = world.run(tmp_path, ["bad", "again", "good"], workers=2).rows
    for name, tries in (("bad", 1), ("again", 2), ("good", 1)):
        assert rows[name].gpu_seconds == pytest.approx(2 * rows[name].seconds["forward"])
        assert 0.1 * tries <= rows[name].seconds["forward"] < 0.1 * tries + 1


def test_what_is_refused_is_refused_again_when_failures_are_asked_for(tmp_path):
    refused = RefusedDrive("../up", "in/up", "drive id '../up': no folder's name")
    first = World({"d": ["input"]}).run(tmp_path, [refused, "d", "fine"])
    assert states(first) == {"../up": "failed", "d": "failed", "fine": "published"}
    again = World().run(tmp_path, [refused, "d", "fine"], retry_failed=True)
    assert states(again) == {"../up": "failed", "d": "published"}


def test_what_a_killed_run_left_of_a_published_drive_goes_with_the_next(tmp_path):
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


def test_a_group_that_ends_on_a_node_that_is_going_is_not_held_against_its_drive(tmp_path):
    world = World({"d": ["crash"] * 4 + ["ok"]})  # Ray Train ends the group when the notice is over
    world.draining = {"node-0"}
    world.run_wave = lambda *a: (world.draining.clear(), World.run_wave(world, *a))[1]
    world.on_go = lambda drive_id: world.draining.add("node-0")
    row = world.run(tmp_path, ["d"], fleet={"max_attempts": 2}).rows["d"]
    assert (row.state, row.attempts) == ("published", 5)


def test_a_damaged_result_is_made_again_when_that_is_asked(tmp_path):
    manifest_of(tmp_path, "d", "whatever it was")
    (tmp_path / "d" / "poses.parquet").unlink()
    (tmp_path / "d" / "manifest.json").write_bytes((tmp_path / "d" / "manifest.json").read_bytes()[:200])
    run = World().run(tmp_path, ["d", "e"])
    assert states(run) == {"d": "failed", "e": "published"} and "manifest.json" in run.rows["d"].reason
    assert states(World().run(tmp_path, ["d"], overwrite=True)) == {"d": "published"}


def test_a_publish_that_is_not_through_when_the_run_is_left_says_nothing_more(tmp_path, monkeypatch):
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
