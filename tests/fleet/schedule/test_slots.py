"""Slots for ranks are never given twice, and a large request is not overtaken by later small ones."""

import threading
import time

from pipeline.fleet.schedule.slots import Slots


def test_slots_are_shared_and_a_request_for_all_of_them_gets_its_turn():
    slots, held, most, order = Slots(4), [0], [0], []
    lock = threading.Lock()

    def work(name, count):
        with slots.hold(count):
            with lock:
                held[0] += min(count, 4)
                most[0] = max(most[0], held[0])
                order.append(name)
            time.sleep(0.05)
            with lock:
                held[0] -= min(count, 4)

    threads = []
    for name, count in (("a", 2), ("b", 2), ("all", 9), ("c", 1), ("d", 1)):
        threads.append(threading.Thread(target=work, args=(name, count)))
        threads[-1].start()
        time.sleep(0.01)
    [thread.join(10) for thread in threads]
    assert most[0] == 4 and order == ["a", "b", "all", "c", "d"]
