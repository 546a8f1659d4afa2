"""Ray tasks make the same city as one process, also where workers are killed."""

import os
import shutil
import signal
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from pipeline.backend.sim3 import Sim3
from pipeline.common.progress import Reporter
from pipeline.errors import ClusterError, DriveError
from pipeline.fuse import (
    FuseConfig,
    candidates,
    city_equations,
    city_problem,
    dissection,
    large_systems,
    open_city,
    run_fuse,
    solve,
)
from pipeline.fuse import tasks as work
from pipeline.fuse.lost_drives import LostDriveError
from pipeline.fuse.tasks import Tasks
from tests.fuse import test_run, test_versions
from tests.fuse.made_up_drives import link_between
from tests.fuse.test_solve import TRUE_ENDS, town

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("one_ray")]
street, made = test_run.street, test_run.made  # fixtures
output = test_versions.output


def squared(number):
    return number**2


def refused(number):
    raise DriveError(f"drive {number} is damaged")


def lose(drive_id, key):
    raise LostDriveError(f"drive {drive_id} is gone", drive_id, key)


def killed_once(path, number):
    """Ends its worker the first time."""
    try:
        os.close(os.open(f"{path}/{number}", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return number
    os.kill(os.getpid(), signal.SIGKILL)


def killed(path, number):
    os.kill(os.getpid(), signal.SIGKILL)


def same_tiles(first, second):
    names = [path.relative_to(first) for path in sorted(Path(first).rglob("_city/0*/tiles/*/*.parquet"))]
    assert names and all((first / name).read_bytes() == (second / name).read_bytes() for name in names)


def test_parts_are_read_as_tasks_begin_and_their_results_come_with_their_numbers():
    tasks, read = Tasks(), []

    def parts():
        for number in range(40):
            read.append(number)
            yield (number,)

    answers = {}
    for number, answer in tasks.each(squared, parts()):
        answers[number] = answer
        assert len(read) <= len(answers) + 2 * 6 + 1
    assert answers == {n: n**2 for n in range(40)}
    assert tasks.mapped(squared, [(n,) for n in (3, 1, 2)]) == [9, 1, 4]
    assert dict(tasks.each(squared, [(tasks.keep(7),)])) == {0: 49}
    assert not list(tasks.each(squared, []))


def test_a_part_whose_worker_dies_is_computed_again_and_one_that_always_dies_has_a_result_of_its_own(
    tmp_path, monkeypatch
):
    tasks = Tasks()
    assert tasks.mapped(killed_once, [(str(tmp_path), n) for n in range(2)]) == [0, 1]
    monkeypatch.setattr(work, "_RETRIES", 0)
    assert dict(tasks.each(killed, [("", 5)], lost=lambda path, number: -number)) == {0: -5}
    with pytest.raises(ClusterError, match="could not be computed"):
        tasks.mapped(killed, [("", 1)])
    with pytest.raises(DriveError, match="drive 8 is damaged"):
        tasks.mapped(refused, [(8,)])
    with pytest.raises(LostDriveError) as lost:  # the run goes on without this result
        tasks.mapped(lose, [("a", "key")])
    assert (lost.value.drive_id, lost.value.key) == ("a", "key")


def test_a_worker_killed_during_verification_only_delays_and_the_city_is_that_of_one_process(made, tmp_path):
    shutil.copytree(made[0], tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "_city")
    killed_ones: list[int] = []

    def kill():
        while not killed_ones:
            for one in psutil.process_iter(["name", "cmdline", "ppid"]):
                if "ray::_on_one_thread" in " ".join(one.info["cmdline"] or ()) and _is_ours(one):
                    killed_ones.append(one.pid)
                    one.kill()
                    return
            time.sleep(0.005)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    config = FuseConfig(str(tmp_path / "out"), **test_run.SETTINGS)
    again = run_fuse(config, Reporter(), Tasks())
    killer.join(1)
    assert killed_ones
    assert (again.candidates, again.links, again.accepted) == (made[1].candidates, made[1].links, made[1].accepted)
    assert open_city(config.output).links.equals(open_city(str(made[0])).links)
    same_tiles(made[0], tmp_path / "out")


def _is_ours(process):
    me = os.getpid()
    return any(parent.pid == me for parent in process.parents())


def test_tasks_eliminate_the_areas_of_a_city_as_one_process_does(monkeypatch):
    gauges, truths, drives = town()
    links = [link_between(gauges, truths, ends) for ends in TRUE_ENDS]
    links += [link_between(gauges, truths, (0, 40, 2, 30), Sim3(1.0, np.eye(3), np.array([9.0, 0, 4])))]
    for module, name, few in ((city_problem, "_FEW", 0), (city_equations, "_DIRECTLY", 8), (dissection, "_LEAF", 3)):
        monkeypatch.setattr(module, name, few)
    here, asked = solve(drives, links), []
    monkeypatch.setattr(large_systems, "_SHIPPED", 8)
    monkeypatch.setattr(large_systems, "_AREA", 6)
    tasks = Tasks()

    def map_areas(work, parts):
        asked.append(len(parts))
        return tasks.mapped(work, parts) if len(asked) == 1 else [work(*part) for part in parts]

    there = solve(drives, links, map_areas=map_areas)
    assert max(asked) > 2
    assert there.links == here.links and there.accepted.sum() == len(TRUE_ENDS)
    for one, other in zip(there.city_from_camera, here.city_from_camera, strict=True):
        np.testing.assert_array_equal(one, other)


def test_tasks_find_the_candidates_that_threads_find(monkeypatch):
    rng = np.random.default_rng(0)
    places = rng.normal(size=(700, 32))
    rows = np.concatenate([places + 0.3 * rng.normal(size=places.shape) for _ in range(5)]).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    drive, frame = np.repeat(np.arange(5), 700), np.tile(np.arange(700), 5)
    here = candidates.by_descriptors(rows, drive, frame, 0.5, 6, 30)
    monkeypatch.setattr(candidates, "_SHIPPED", 100)
    monkeypatch.setattr(candidates, "_BLOCKS", 2)
    assert here and candidates.by_descriptors(rows, drive, frame, 0.5, 6, 30, tasks=Tasks()) == here


def test_tasks_write_the_tiles_and_find_the_changes_that_one_process_does(output, tmp_path):
    shutil.copytree(output, tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "_city")
    run_fuse(FuseConfig(str(tmp_path / "out"), **test_versions.SETTINGS), Reporter(), Tasks())
    same_tiles(output, tmp_path / "out")
    cities = [open_city(str(one)) for one in (output, tmp_path / "out")]
    assert cities[0].changes.num_rows == 1
    assert cities[0].changes.equals(cities[1].changes) and cities[0].change_points.equals(cities[1].change_points)
