"""Many drives are planned, each once, in the driver or in processes beside it, even if such a process fails."""

import itertools
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.config import RunConfig
from pipeline.errors import DecodeError, StorageError
from pipeline.fleet.discover.drive_ref import DriveRef, RefusedDrive
from pipeline.fleet.plan import parallel_planner as plan_many
from pipeline.fleet.plan.drive_plan import Planner
from pipeline.fleet.plan.parallel_planner import FEW_DRIVES, default_processes, plan_drives
from pipeline.fleet.records.failure_records import Failures
from pipeline.fleet_config import FleetConfig
from tests.fleet.standins import World, made_up_drive


def planner(tmp_path, find=None):
    world = World()
    config = RunConfig(output=str(tmp_path), input="made-up")
    made = world.planner(config, str(tmp_path), Failures(str(tmp_path)))
    return Planner(made.config, made.model, "sha", str(tmp_path), made.failures, find or world.find)


def test_an_entry_that_discovery_refused_has_its_own_row(tmp_path):
    two, row = RefusedDrive("d", "in/other", "drive d: there are two"), RefusedDrive("", "x", "row 3")
    refs = [two, DriveRef("d", "in/d"), row]  # also where a good drive follows it
    found = plan_drives(planner(tmp_path), refs, FleetConfig(scan_threads=2))
    plans = {p.drive_id: (p.todo, p.reason) for p in found}
    assert plans == {"d": ("do", None), "d#2": ("bad", "drive d: there are two"), "unnamed": ("bad", "row 3")}


@dataclass(frozen=True)
class Finder:
    """Finds drives whose length shows where they were planned. At some of them a process dies, hangs, fails or does not
    see the drive; or every process has a bug."""

    driver: int
    used: str
    deadly: tuple[str, ...] = ()
    stopping: tuple[str, ...] = ()
    failing: tuple[str, ...] = ()
    unseen: tuple[str, ...] = ()
    buggy: tuple[str, ...] = ()

    def __call__(self, config):
        far = os.getpid() != self.driver
        if far:
            Path(self.used).touch()
        if config.drive_id in self.buggy:
            raise RuntimeError("a bug")
        if far and config.drive_id in self.deadly:
            os._exit(1)
        if far and config.drive_id in self.stopping:
            os.kill(os.getpid(), signal.SIGSTOP)
        if far and config.drive_id in self.failing:
            raise OSError("of this machine")
        if config.drive_id.endswith("77") or (far and config.drive_id in self.unseen):
            raise DecodeError("no readable image")
        return made_up_drive(config, 12 if far else 10)


def many(find):
    """So many drives that a process is started, then more until it has planned one, and fifty more."""
    yield from (DriveRef(f"d{number}", "in/d") for number in range(FEW_DRIVES))
    end = time.monotonic() + 100
    for number in itertools.count():
        if Path(find.used).exists() or time.monotonic() > end:
            break
        yield DriveRef(f"early{number}", "in/d")
        time.sleep(0.05)
    for number in range(50):
        yield DriveRef(f"late{number}", "in/d")
        time.sleep(0.01)


@pytest.mark.cluster
def test_a_large_fleet_is_planned_in_processes_and_no_drive_is_lost_when_one_fails(tmp_path, one_ray):
    find = Finder(os.getpid(), str(tmp_path / "used"), failing=("late20",), unseen=("late25",), deadly=("late40",))
    plans = list(plan_drives(planner(tmp_path, find), many(find), FleetConfig(scan_threads=2, scan_processes=1)))
    frames = {p.drive_id: p.frames for p in plans}
    assert len(frames) == len(plans) and {f"late{number}" for number in range(50)} <= set(frames)
    assert {p.drive_id for p in plans if p.todo == "bad"} == {name for name in frames if name.endswith("77")} != set()
    assert frames["d0"] == 10 and list(frames.values()).count(12) > 20
    # the driver continued without the process
    assert [frames[f"late{number}"] for number in (20, 25, 40, 49)] == [10] * 4


@pytest.mark.cluster
def test_the_driver_plans_the_drives_of_a_process_that_hangs(tmp_path, one_ray, monkeypatch):
    monkeypatch.setattr(plan_many, "STUCK_S", 3.0)
    monkeypatch.setattr(plan_many, "LOOK_EVERY_S", 1.0)
    find = Finder(os.getpid(), str(tmp_path / "used"), stopping=("late45",))
    plans = list(plan_drives(planner(tmp_path, find), many(find), FleetConfig(scan_threads=2, scan_processes=1)))
    frames = {p.drive_id: p.frames for p in plans}
    assert 12 in frames.values() and frames["late45"] == frames["late49"] == 10


@pytest.mark.parametrize(("cpus", "processes"), [(0, 2), (3, 2), (12, 3), (500, 8)])
def test_a_larger_cluster_plans_with_more_processes_within_bounds(cpus, processes):
    assert default_processes(cpus) == processes


def test_a_bug_in_planning_is_raised(tmp_path):
    find = Finder(os.getpid(), str(tmp_path / "used"), buggy=("d7",))
    with pytest.raises(RuntimeError, match="a bug"):
        list(plan_drives(planner(tmp_path, find), [DriveRef(f"d{n}", "in/d") for n in range(9)], FleetConfig()))


def test_drives_found_before_discovery_failed_are_planned(tmp_path):
    def refs():
        yield from (DriveRef(f"d{number}", "in/d") for number in range(30))
        raise StorageError("the store is gone")

    found = []
    with pytest.raises(StorageError, match="the store is gone"):
        for plan in plan_drives(planner(tmp_path), refs(), FleetConfig()):
            found.append(plan.drive_id)
    assert sorted(found) == sorted(f"d{number}" for number in range(30))


def test_the_driver_plans_all_drives_without_ray_and_with_zero_processes(tmp_path):
    refs = [DriveRef(f"d{number}", "in/d") for number in range(FEW_DRIVES + 20)]
    plans = list(plan_drives(planner(tmp_path), refs, FleetConfig(scan_processes=0)))
    assert len(plans) == len(refs) and {p.frames for p in plans} == {10}
