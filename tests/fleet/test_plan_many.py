"""Plans of many drives: each once, in the driver or in processes beside it, whatever becomes of those."""

import os
import signal
import time
from dataclasses import dataclass

import pytest

from pipeline.config import RunConfig
from pipeline.errors import DecodeError
from pipeline.fleet import plan_many
from pipeline.fleet.config import FleetConfig
from pipeline.fleet.failures import Failures
from pipeline.fleet.plan import Planner
from pipeline.fleet.plan_many import FEW_DRIVES, plan_drives
from pipeline.fleet.refs import DriveRef, RefusedDrive
from tests.fleet.standins import World, made_up_drive


def planner(tmp_path, find=None):
    world = World()
    config = RunConfig(output=str(tmp_path), input="made-up")
    made = world.planner(config, str(tmp_path), Failures(str(tmp_path)))
    return Planner(made.config, made.model, "sha", str(tmp_path), made.failures, find or world.find)


def test_what_was_refused_where_it_was_found_is_a_row_of_its_own(tmp_path):
    two, row = RefusedDrive("d", "in/other", "drive d: there are two"), RefusedDrive("", "x", "row 3")
    refs = [DriveRef("d", "in/d"), two, row]
    found = plan_drives(planner(tmp_path), refs, FleetConfig(scan_threads=2))
    plans = {p.drive_id: (p.todo, p.reason) for p in found}
    assert plans == {"d": ("do", None), "d#2": ("bad", "drive d: there are two"), "unnamed": ("bad", "row 3")}


@dataclass(frozen=True)
class Finder:
    """Finds drives whose length says where they were planned; its process dies or stands still, or it has a bug, at
    some."""

    driver: int
    deadly: tuple[str, ...] = ()
    stopping: tuple[str, ...] = ()
    buggy: tuple[str, ...] = ()

    def __call__(self, config):
        far = os.getpid() != self.driver
        if config.drive_id in self.buggy:
            raise RuntimeError("a bug")
        if far and config.drive_id in self.deadly:
            os._exit(1)
        if far and config.drive_id in self.stopping:
            os.kill(os.getpid(), signal.SIGSTOP)
        if config.drive_id.endswith("77"):
            raise DecodeError("no readable image")
        return made_up_drive(config, 12 if far else 10)


def many():
    """More drives than are planned before a process is up."""
    for number in range(FEW_DRIVES + 400):
        if number > FEW_DRIVES:
            time.sleep(0.04)
        yield DriveRef(f"d{number}", "in/d")


@pytest.mark.cluster
def test_a_large_fleet_is_planned_beside_the_driver_and_a_lost_process_loses_no_drive(tmp_path, one_ray):
    find = Finder(os.getpid(), deadly=(f"d{FEW_DRIVES + 390}",))
    plans = list(plan_drives(planner(tmp_path, find), many(), FleetConfig(scan_threads=2, scan_processes=1)))
    assert sorted(p.drive_id for p in plans) == sorted(ref.drive_id for ref in many())
    assert {p.drive_id for p in plans if p.todo == "bad"} == {p.drive_id for p in plans if p.drive_id.endswith("77")}
    frames = {p.drive_id: p.frames for p in plans}
    assert frames["d0"] == 10 and list(frames.values()).count(12) > 50
    assert frames[f"d{FEW_DRIVES + 390}"] == frames[f"d{FEW_DRIVES + 399}"] == 10  # the driver went on without it


@pytest.mark.cluster
def test_drives_of_a_process_that_stands_still_are_planned_by_the_driver(tmp_path, one_ray, monkeypatch):
    monkeypatch.setattr(plan_many, "STUCK_S", 3.0)
    last = f"d{FEW_DRIVES + 399}"
    find = Finder(os.getpid(), stopping=(last,))
    plans = list(plan_drives(planner(tmp_path, find), many(), FleetConfig(scan_threads=2, scan_processes=1)))
    frames = {p.drive_id: p.frames for p in plans}
    assert len(frames) == FEW_DRIVES + 400 and 12 in frames.values() and frames[last] == 10


@pytest.mark.cluster
def test_a_bug_in_planning_is_raised_wherever_it_happens(tmp_path, one_ray):
    find = Finder(os.getpid(), buggy=(f"d{FEW_DRIVES + 350}",))
    with pytest.raises(RuntimeError, match="a bug"):
        list(plan_drives(planner(tmp_path, find), many(), FleetConfig(scan_threads=2, scan_processes=2)))


def test_without_ray_and_with_no_processes_the_driver_plans_all(tmp_path):
    refs = [DriveRef(f"d{number}", "in/d") for number in range(FEW_DRIVES + 20)]
    plans = list(plan_drives(planner(tmp_path), refs, FleetConfig(scan_processes=0)))
    assert len(plans) == len(refs) and {p.frames for p in plans} == {10}
