from pipeline.forward.events import Dropped, GroupLost, Staged
from pipeline.forward.group import outcomes_of


def test_the_outcome_of_a_drive_whose_worker_died_twice_says_so():
    found = outcomes_of(["a", "b"], [GroupLost("a"), GroupLost(None), GroupLost("a")])
    assert found["a"].attempt is None and found["a"].reason is not None
    assert "drive a: a worker died while it worked on it, 2 times" in found["a"].reason
    assert found["b"].reason == "drive b: the group ended before its turn"


def test_a_drive_that_was_finished_after_a_worker_died_counts_as_done():
    found = outcomes_of(
        ["a", "b"], [GroupLost("a"), Staged("a", "try", 3), GroupLost("b"), Dropped("b", 0, "no", True)]
    )
    assert found["a"].attempt == "try" and found["a"].reason is None
    assert found["b"].reason == "no"
