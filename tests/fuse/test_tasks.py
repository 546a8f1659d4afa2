"""Ray tasks make the same city as one process, also where workers are killed."""

import os
import shutil
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest

from pipeline.common.progress import Reporter
from pipeline.errors import ClusterError, DriveError
from pipeline.fuse import FuseConfig, open_city, run_fuse
from pipeline.fuse import tasks as work
from pipeline.fuse.tasks import Tasks
from tests.fuse import test_run, test_versions

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("one_ray")]
street, made = test_run.street, test_run.made  # fixtures
output = test_versions.output


def squared(number):
    return number**2


def refused(number):
    raise DriveError(f"drive {number} is damaged")


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


def test_tasks_write_the_tiles_and_find_the_changes_that_one_process_does(output, tmp_path):
    shutil.copytree(output, tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "_city")
    run_fuse(FuseConfig(str(tmp_path / "out"), **test_versions.SETTINGS), Reporter(), Tasks())
    same_tiles(output, tmp_path / "out")
    cities = [open_city(str(one)) for one in (output, tmp_path / "out")]
    assert cities[0].changes.num_rows == 1
    assert cities[0].changes.equals(cities[1].changes) and cities[0].change_points.equals(cities[1].change_points)
