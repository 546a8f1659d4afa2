from pipeline.forward.events import Dropped, EventQueue, GroupLost, Progress, Staged


def test_events_are_taken_once_and_in_order():
    queue = EventQueue()
    events = [Progress("d", "frames", 3), Staged("d", "a", 2), Dropped("e", 1, "why", True)]
    for event in events:
        queue.send(event)
    assert queue.take() == (events, None)
    assert queue.take() == ([], None)


def test_rank_0_waits_until_the_driver_answers_and_the_driver_sees_the_question_until_then():
    queue = EventQueue()
    assert queue.ask("d") is None
    assert queue.take() == ([], "d") == queue.take()
    queue.answer("e", "go")  # an answer to an old question
    assert queue.ask("d") is None
    queue.answer("d", "go")
    assert queue.take() == ([], None)
    assert queue.ask("d") == "go"
    assert queue.end() == "d"


def asked(queue, drive_id, answer="go"):
    queue.ask(drive_id)
    queue.answer(drive_id, answer)
    assert queue.ask(drive_id) == answer


def test_a_restarted_group_does_the_remaining_drives_and_names_the_drive_on_which_it_was_lost():
    queue = EventQueue(retries_after_loss=1)
    every = ["a", "b", "c", "d"]
    assert queue.begin(every) == every
    asked(queue, "a")
    queue.send(Staged("a", "1", 2))
    asked(queue, "b", "skip")
    asked(queue, "c")
    assert queue.begin(every) == ["c", "d"]
    assert queue.take()[0][-1] == GroupLost("c")
    asked(queue, "c")
    assert queue.begin(every) == ["d"]  # the group was lost twice on drive c: it is left out
    assert queue.begin(every) == ["d"]  # lost before a drive was begun: no drive is to blame
    assert queue.take()[0] == [GroupLost("c"), GroupLost(None)]
    asked(queue, "d")
    queue.send(Dropped("d", 1, "why", True))
    assert queue.end() == "d"  # rank 0 has not asked for the next drive yet
