"""The queue of drives gives the longest first, in waves that get smaller; no drive is lost and none is given twice."""

import threading
import time

from pipeline.fleet.discover.drive_ref import DriveRef
from pipeline.fleet.plan.drive_plan import Costs, PlannedDrive
from pipeline.fleet.schedule.queue import DriveQueue


def planned(name, frames):
    return PlannedDrive(DriveRef(name, name), "do", costs=Costs(frames, 1, 8, 8, 1, 1, 1, 1, 1, 1))


def ids(wave):
    return [one.drive_id for one in wave]


def test_the_longest_come_first_and_waves_shrink_so_that_groups_end_together():
    queue = DriveQueue(groups=2, wave_drives=40, wave_frames=9000)
    for number in range(40):
        queue.add(planned(f"d{number}", 400 + 20 * number))
    queue.close()
    sizes, seen = [], []
    while wave := queue.take_wave():
        sizes.append(sum(one.frames for one in wave))
        seen += ids(wave)
        queue.done(len(wave))
    assert seen == [f"d{number}" for number in reversed(range(40))]
    assert max(sizes) <= 9000 and sizes[0] > 8000 and sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < 1500 and len(sizes) < 13


def test_where_few_drives_are_left_each_group_takes_its_share_in_one_wave():
    queue = DriveQueue(groups=4, wave_drives=40, wave_frames=9000)
    for number in range(20):
        queue.add(planned(f"d{number:02d}", 10))
    assert [len(queue.take_wave()) for _ in range(4)] == [5, 3, 3, 2]


def test_a_wave_has_no_more_frames_than_allowed_but_always_a_drive():
    queue = DriveQueue(groups=1, wave_drives=10, wave_frames=100)
    for name, frames in (("long", 500), ("a", 60), ("b", 30), ("c", 30), ("d", 1), ("e", 1), ("f", 1)):
        queue.add(planned(name, frames))
    assert [ids(queue.take_wave()) for _ in range(3)] == [["long"], ["a", "b"], ["c", "d", "e", "f"]]


def test_a_drive_put_back_comes_again_later_and_alone_after_all_others():
    queue = DriveQueue(groups=1, wave_drives=2, wave_frames=1000)
    for name in "abcd":
        queue.add(planned(name, 5))
    queue.close()
    first = queue.take_wave()
    assert ids(first) == ["a", "b"]
    queue.put_back(first[0], alone=True)
    queue.put_back(first[1], after_s=0.2)
    begun = time.monotonic()
    rest = []
    while wave := queue.take_wave():
        rest.append((ids(wave), time.monotonic() - begun))
        queue.done(len(wave))
    assert [one for one, _ in rest] == [["c", "d"], ["a"], ["b"]]
    assert rest[-1][1] >= 0.2


def test_a_group_waits_for_drives_that_may_be_put_back_or_still_be_found():
    queue = DriveQueue(groups=2, wave_drives=1, wave_frames=1000)
    queue.add(planned("a", 1))
    mine = queue.take_wave()
    got = []
    other = threading.Thread(target=lambda: got.append(queue.take_wave()), daemon=True)
    other.start()
    queue.close()
    other.join(0.2)
    assert other.is_alive()  # "a" may be put back
    queue.put_back(mine[0])
    other.join(5)
    assert ids(got[0]) == ["a"]
    queue.done()
    assert queue.take_wave() == []


def test_after_a_stop_no_drives_are_handed_out():
    queue = DriveQueue(groups=1, wave_drives=1, wave_frames=1000)
    queue.add(planned("a", 1))
    got = [queue.take_wave()]
    waiting = threading.Thread(target=lambda: got.append(queue.take_wave()), daemon=True)
    waiting.start()
    queue.stop()
    waiting.join(5)
    assert got[1] == [] == queue.take_wave()
