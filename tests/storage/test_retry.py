import pickle

import pytest

from pipeline.errors import (
    AlignmentError,
    CheckpointError,
    ClusterError,
    DecodeError,
    DriveError,
    LeaseLostError,
    PipelineError,
    StorageError,
)
from pipeline.forward.budgets import MemoryBudgetError
from pipeline.forward.group import GroupError
from pipeline.storage import NotFoundError, RefusedError, UnreachableError, retry
from pipeline.storage.retry import doubling, is_retryable, patiently, wait_before_retry


@pytest.mark.parametrize(
    ("kind", "parent", "again"),
    [
        (DriveError, PipelineError, False),
        (DecodeError, DriveError, False),
        (AlignmentError, DriveError, False),
        (CheckpointError, DriveError, False),
        (MemoryBudgetError, DriveError, True),
        (StorageError, PipelineError, True),
        (UnreachableError, StorageError, True),
        (RefusedError, StorageError, True),
        (NotFoundError, StorageError, False),
        (ClusterError, PipelineError, False),
        (LeaseLostError, PipelineError, False),
    ],
)
def test_every_kind_of_error_has_its_base_class_and_says_whether_to_try_again(kind, parent, again):
    assert issubclass(kind, parent) and is_retryable(kind("x")) is again
    assert not issubclass(StorageError, DriveError) and issubclass(GroupError, ClusterError)


def test_a_single_error_may_differ_from_its_kind_also_after_it_was_sent_to_another_process():
    error = pickle.loads(pickle.dumps(DriveError("drive d: no room", retryable=True)))
    assert is_retryable(error) and str(error) == "drive d: no room" and not DriveError.retryable


def test_unknown_errors_may_be_tried_again():
    assert is_retryable(RuntimeError("a bug")) and is_retryable(OSError("no space"))


def test_tries_are_counted_and_waits_double():
    waits = doubling(5.0, 3)
    assert waits == (5.0, 10.0) and doubling(5.0, 1) == ()
    error = UnreachableError("no answer")
    assert [wait_before_retry(error, tries, waits) for tries in (1, 2, 3)] == [5.0, 10.0, None]
    assert wait_before_retry(NotFoundError("no such file"), 1, waits) is None


@pytest.mark.parametrize(("failures", "asked"), [(0, 1), (2, 3), (9, 3)])
def test_a_request_to_a_store_that_does_not_answer_is_repeated_a_few_times(monkeypatch, failures, asked):
    monkeypatch.setattr(retry, "STORE_WAITS_S", (0.0, 0.0))
    tries = []

    def ask():
        tries.append(1)
        if len(tries) <= failures:
            raise UnreachableError("no answer")
        return "here"

    if failures < asked:
        assert patiently(ask) == "here"
    else:
        with pytest.raises(UnreachableError):
            patiently(ask)
    assert len(tries) == asked


@pytest.mark.parametrize("kind", [NotFoundError, RefusedError, DecodeError])
def test_a_request_that_a_store_refuses_is_not_repeated(kind):
    tries = []

    def ask():
        tries.append(1)
        raise kind("no")

    with pytest.raises(kind):
        patiently(ask)
    assert len(tries) == 1
