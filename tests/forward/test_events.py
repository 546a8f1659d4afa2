from pipeline.forward.events import Dropped, EventQueue, Progress, Staged


def test_events_are_taken_once_and_in_order():
    queue = EventQueue()
    events = [Progress("d", "frames", 3), Staged("d", "a", 2), Dropped("e", 1, "why", True)]
    for event in events:
        queue.send(event)
    assert queue.take() == events
    assert queue.take() == []
