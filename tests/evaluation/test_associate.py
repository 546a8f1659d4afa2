import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import DriveError
from pipeline.evaluation import PosedFrames, associate
from pipeline.evaluation.associate import match_names, match_times
from tests.evaluation.paths import walk


def frames(count, *, times=None, names=None, missing=(), filled=(), what="it"):
    poses = walk(count)
    known, is_filled = np.ones(count, bool), np.zeros(count, bool)
    known[list(missing)], is_filled[list(filled)] = False, True
    poses[~known] = np.nan
    return PosedFrames(what, poses, known, is_filled, None if times is None else np.asarray(times, float), names)


def test_frames_are_matched_by_number_where_neither_times_nor_names_are_known():
    (first, second), matched = associate(frames(5), frames(5))
    assert (first == second).all()
    assert (matched.by, matched.compared, matched.tolerance_s) == ("index", 5, None)


def test_times_are_preferred_to_names_and_names_to_numbers():
    times = 0.1 * np.arange(8)
    names = tuple("abcdefgh")
    estimate = frames(4, times=times[::2], names=tuple("bdfh"))
    assert associate(estimate, frames(8, times=times, names=names))[1].by == "time"
    (_, second), matched = associate(estimate, frames(8, names=names))
    assert (matched.by, second.tolist()) == ("name", [1, 3, 5, 7])
    assert associate(estimate, frames(4, names=tuple("wxyz")))[1].by == "index"


def test_a_frame_without_a_pose_is_left_out_and_counted():
    (first, _), matched = associate(frames(6, missing=[2]), frames(6))
    assert first.tolist() == [0, 1, 3, 4, 5]
    assert (matched.missing, matched.compared, matched.unmatched) == (1, 5, 0)


def test_filled_frames_count_unless_they_are_skipped():
    estimate = frames(6, filled=[1, 4])
    assert associate(estimate, frames(6))[1].filled_compared == 2
    (first, _), matched = associate(estimate, frames(6), filled="skip")
    assert first.tolist() == [0, 2, 3, 5]
    assert (matched.filled_compared, matched.filled_skipped, matched.compared) == (0, 2, 4)


def test_frames_without_a_true_pose_are_counted():
    estimate = frames(6, times=np.arange(6))
    _, matched = associate(estimate, frames(4, times=np.arange(4)))
    assert (matched.compared, matched.unmatched) == (4, 2)


@given(
    first=st.lists(st.integers(0, 500), min_size=1, max_size=30, unique=True),
    second=st.lists(st.integers(0, 500), min_size=1, max_size=30, unique=True),
    tolerance=st.integers(0, 30),
)
def test_matched_times_are_one_to_one_within_the_tolerance_and_complete(first, second, tolerance):
    a, b = np.sort(first) / 10, np.sort(second) / 10
    i, j = match_times(a, b, tolerance / 10)
    assert (np.diff(i) > 0).all() and (np.diff(j) > 0).all()
    assert (np.abs(a[i] - b[j]) <= tolerance / 10 + 1e-6).all()
    for k, m in zip(i, j, strict=True):
        assert np.abs(b - a[k]).min() == pytest.approx(abs(a[k] - b[m]))
    assert set(np.intersect1d(a, b)) <= set(a[i])


def test_names_in_another_order_are_refused():
    with pytest.raises(DriveError, match="another order"):
        match_names(("a", "b", "c"), ("b", "a", "c"))


@pytest.mark.parametrize(
    ("estimate", "truth", "options", "message"),
    [
        (frames(4), frames(5), {}, "lengths differ: it has 4 poses, it has 5"),
        (frames(4), frames(4), {"by": "time"}, "has no times"),
        (frames(4), frames(4), {"by": "name"}, "has no image names"),
        (
            frames(4, times=np.arange(4)),
            frames(4, times=np.arange(4) + 100.0),
            {},
            "0 do, by time within 0.01 s",
        ),
        (frames(5, missing=[0, 1, 2]), frames(5), {}, "at least 3 frames must match"),
        (frames(4, filled=[0, 1]), frames(4), {"filled": "skip"}, "2 do, by index"),
    ],
)
def test_frames_that_cannot_be_matched_are_reported_in_one_line(estimate, truth, options, message):
    with pytest.raises(DriveError, match=message) as caught:
        associate(estimate, truth, **options)
    assert "\n" not in str(caught.value)


def test_times_must_rise_and_be_as_many_as_poses():
    with pytest.raises(DriveError, match="frame 2 is no later"):
        frames(3, times=[0, 1, 1])
    with pytest.raises(DriveError, match="expected 3 timestamps"):
        frames(3, times=[0, 1])
