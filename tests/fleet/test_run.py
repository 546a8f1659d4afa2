"""The decisions of a run: which drives are tried again, how often and whether alone, and which are given up."""

import threading
import time

import pytest

from models import ModelConfig
from pipeline.errors import AlignmentError, DecodeError
from pipeline.fleet.discover.drive_ref import RefusedDrive
from pipeline.fleet.plan.drive_plan import state_bytes_per_frame
from pipeline.fleet.records.ledger import read_run
from pipeline.fleet.run import fleet_summary
from pipeline.forward.group import GroupError
from pipeline.leases import LeaseLostError
from pipeline.storage import UnreachableError
from pipeline.storage import retry as patience
from tests.fleet.standins import World, manifest_of, states

SCRIPT = {
    "input": ["input"],
    "store": ["store", "store", "ok"],
    "dead-store": ["store"],
    "crash": ["crash", "ok"],
    "poison": ["crash"],
    "node": ["node"] * 4 + ["ok"],
    "die": ["die", "ok"],
    "bug": ["bug", "ok"],
}
GOOD = tuple(f"good-{n}" for n in range(12))


@pytest.fixture(scope="module")
def faults(tmp_path_factory):
    """One run over drives with every kind of fault: its output, the tries, and its final state."""
    output, world = tmp_path_factory.mktemp("faults"), World(SCRIPT)
    world.bad = {"empty": DecodeError("drive empty: no images"), "away": UnreachableError("no answer")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(patience, "STORE_WAITS_S", (0.1,))
        run = world.run(output, [*SCRIPT, *GOOD, "empty", "away"])
    return output, world, run


def test_every_drive_ends_in_the_state_that_follows_from_its_faults(faults):
    expected = dict.fromkeys([*GOOD, "store", "crash", "node", "die", "bug"], "published")
    expected |= dict.fromkeys(["input", "dead-store", "empty", "away"], "failed") | {"poison": "quarantined"}
    assert states(faults[2]) == expected


def test_faults_of_drives_leave_the_run_finished_and_all_drives_listed(faults):
    assert faults[2].info.state == "finished" and faults[2].info.listed


def test_errors_of_a_drive_are_tried_once_and_errors_of_a_store_several_times(faults):
    tries = {name: len(faults[1].tries[name]) for name in SCRIPT}
    assert tries == {
        "input": 1,
        "store": 3,
        "dead-store": 3,
        "crash": 2,
        "poison": 3,
        "node": 5,
        "die": 2,
        "bug": 2,
    }


def test_a_good_drive_passes_the_network_once_whatever_happens_to_others(faults):
    assert all(len(faults[1].tries[name]) == 1 for name in GOOD)


def test_a_drive_on_which_a_process_died_is_tried_again_alone(faults):
    # before, the drive may have been put back because a process died on another drive of its wave
    assert [wave for wave in faults[1].waves if "poison" in wave][-2:] == [["poison"], ["poison"]]
    assert "died" in faults[2].rows["poison"].reason and faults[2].rows["poison"].attempts == 3


def test_a_failed_drive_says_frame_stage_and_reason(faults):
    row = faults[2].rows["input"]
    assert row.reason == "drive input: depth is not finite at frame 7" and row.frame == 7
    assert row.stage == "forward: layers 2/3"


def test_a_published_drive_has_the_seconds_of_each_stage(faults):
    assert faults[2].rows["good-0"].seconds.keys() >= {"find", "forward", "join", "publish"}


def test_the_ledger_on_the_output_equals_the_final_state_of_the_run(faults):
    stored = read_run(str(faults[0]))
    assert stored.rows == faults[2].rows and stored.info.state == "finished"
    assert not (faults[0] / "_leases").exists()


def test_the_summary_counts_drives_names_failures_and_gives_the_command_to_retry(faults):
    said = fleet_summary(faults[2], str(faults[0]))
    assert "17 published" in said and "poison" in said and "jobs.reconstruct --retry-failed" in said


@pytest.mark.timeout(60)
@pytest.mark.parametrize("groups", [1, 2, 3])
def test_a_drive_that_was_put_back_belongs_only_to_its_new_wave(tmp_path, groups):
    # drives and the ends of groups are so slow that the next wave is claimed before the current wave ends
    world = World({"d0": ["crash", "ok"], "d1": ["node", "ok"]}, groups=groups, end_s=0.3)
    world.on_go = lambda drive: time.sleep(0.15)
    run = world.run(tmp_path, [f"d{number}" for number in range(8)])
    assert run.counts["published"] == 8
    assert {name: len(tries) for name, tries in world.tries.items()} == {f"d{n}": 2 if n < 2 else 1 for n in range(8)}
    assert {name: row.attempts for name, row in run.rows.items()} == {f"d{n}": 2 if n < 2 else 1 for n in range(8)}
    assert len(world.waves) <= 4 * groups + 2


def test_a_failure_of_the_drive_is_skipped_by_later_runs_and_one_of_the_store_is_tried_again(tmp_path):
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
    changed.frames["input"] = 11  # another input: the recorded failure does not apply to it
    assert len(changed.tries["input"]) == 1
    changed.script = {}
    assert states(changed.run(tmp_path, ["input"])) == {"input": "published"}


def test_publishing_is_tried_again_after_errors_of_the_store_only_and_without_the_network(tmp_path):
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


def test_a_group_that_cannot_start_ends_the_run_with_the_reason(tmp_path):
    world = World({"a": ["no start"], "b": ["no start"]})
    # the group fails before its first drive
    world.run_wave = lambda *a, **k: (_ for _ in ()).throw(GroupError("wrong weights", None))
    run = world.run(tmp_path, ["a", "b"])
    assert run.info.state == "failed" and "wrong weights" in run.info.message
    assert set(states(run).values()) == {"queued"}


def test_the_longest_drives_are_done_first_and_a_limit_takes_the_longest(tmp_path):
    world = World(frames={"a": 10, "b": 30, "c": 20})
    run = world.run(tmp_path, ["a", "b", "c"], limit=2)
    assert states(run) == {"a": "skipped", "b": "published", "c": "published"}
    assert [one for wave in world.waves for one in wave] == ["b", "c"]


def test_a_long_drive_gets_a_larger_group_and_groups_share_the_slots(tmp_path):
    per_frame = state_bytes_per_frame(ModelConfig.city_tiny(), 128, 128, 4)
    world = World(frames={"long": 60}, groups=4, rank_bytes=25 * per_frame)  # a rank holds two chunks of 12 frames
    run = world.run(tmp_path, ["long", "a", "b"], fleet={"wave_drives": 1})
    assert set(states(run).values()) == {"published"}
    sizes = {wave[0]: size for wave, size in zip(world.waves, world.sizes, strict=True)}
    assert sizes["a"] == sizes["b"] == 1 and sizes["long"] == 4  # nine chunks need five ranks; there are four


def test_only_selects_drives_whose_name_or_tag_matches_the_pattern(tmp_path):
    assert set(World().run(tmp_path, ["north-1", "north-2", "south-1"], only="north*").rows) == {"north-1", "north-2"}


def test_groups_wait_while_too_many_drives_wait_to_be_published(tmp_path):
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
    assert most[0] <= 2 * 2 + 1  # twice the number that is finished at a time


@pytest.mark.parametrize("name", ["../up", "a/b", ".hidden", "_runs", "x" * 200])
def test_an_id_that_is_no_folder_name_is_refused_and_no_file_changes(tmp_path, name):
    run = World().run(tmp_path / "out", [name, "good"])
    assert states(run) == {name: "failed", "good": "published"}
    assert "drive id" in run.rows[name].reason
    assert {p.name for p in tmp_path.iterdir()} == {"out"}


def test_a_run_leaves_its_report_beside_its_ledger(tmp_path):
    run = World({"bad": ["input"]}).run(tmp_path, ["good", "bad"])
    page = (tmp_path / "_runs" / run.info.run_id / read_run(str(tmp_path)).info.report).read_text()
    assert "depth is not finite at frame 7" in page and '"good","published"' in page
    assert "report.html" in fleet_summary(run, str(tmp_path))


def test_a_drive_that_could_not_be_listed_is_planned_again_on_its_turn(tmp_path, monkeypatch):
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


def test_the_failure_record_of_a_published_drive_is_removed(tmp_path):
    identity = World({"d": ["input"]}).run(tmp_path, ["d"]).rows["d"].identity
    assert (tmp_path / "_failed" / "d.json").exists()
    manifest_of(tmp_path, "d", identity)
    assert states(World().run(tmp_path, ["d"])) == {"d": "skipped"}
    assert not (tmp_path / "_failed" / "d.json").exists()


def test_gpu_seconds_of_failed_tries_are_counted(tmp_path):
    world = World({"bad": ["input"], "again": ["crash", "ok"]}, gpus=2)
    world.on_go = lambda drive_id: time.sleep(0.1)
    rows = world.run(tmp_path, ["bad", "again", "good"], workers=2).rows
    for name, tries in (("bad", 1), ("again", 2), ("good", 1)):
        assert rows[name].gpu_seconds == pytest.approx(2 * rows[name].seconds["forward"])
        assert 0.1 * tries <= rows[name].seconds["forward"] < 0.1 * tries + 1


def test_a_refused_drive_is_refused_again_with_retry_failed(tmp_path):
    refused = RefusedDrive("../up", "in/up", "drive id '../up': no folder's name")
    first = World({"d": ["input"]}).run(tmp_path, [refused, "d", "fine"])
    assert states(first) == {"../up": "failed", "d": "failed", "fine": "published"}
    again = World().run(tmp_path, [refused, "d", "fine"], retry_failed=True)
    assert states(again) == {"../up": "failed", "d": "published"}


def test_with_overwrite_a_damaged_result_is_made_again(tmp_path):
    manifest_of(tmp_path, "d", "whatever it was")
    (tmp_path / "d" / "poses.parquet").unlink()
    (tmp_path / "d" / "manifest.json").write_bytes((tmp_path / "d" / "manifest.json").read_bytes()[:200])
    run = World().run(tmp_path, ["d", "e"])
    assert states(run) == {"d": "failed", "e": "published"} and "manifest.json" in run.rows["d"].reason
    assert states(World().run(tmp_path, ["d"], overwrite=True)) == {"d": "published"}
