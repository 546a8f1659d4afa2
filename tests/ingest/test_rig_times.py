"""Pictures of one instant, and how much later a camera takes its own."""

import numpy as np
import pytest
from PIL import Image

from pipeline.ingest.drive import Drive
from pipeline.ingest.drives import find_drive
from pipeline.ingest.rig_times import Matched, matched

START = 1_600_000_000_000_000_000
STEP_MS = 100


@pytest.fixture
def pictures(tmp_path):
    """A function that makes the drive of a camera with pictures at some milliseconds."""

    def make(name: str, times_ms) -> Drive:
        (tmp_path / name).mkdir()
        for time in times_ms:
            Image.new("RGB", (64, 48)).save(tmp_path / name / f"{START + round(time * 1e6)}.png")
        return find_drive(str(tmp_path / name))

    return make


def times(count: int) -> np.ndarray:
    return STEP_MS * np.arange(count)


def _matched(base: Drive, other: Drive, tolerance_s=0.06, at_once=False) -> Matched:
    return matched(base, other, tolerance_s, range(base.frame_count), at_once, "pictures of b")


@pytest.mark.parametrize("count", [3, 12])
def test_a_camera_half_a_step_later_has_one_picture_for_each_instant(pictures, count) -> None:
    """Its first picture is as near to the second instant as to the first one."""
    met = _matched(pictures("a", times(count)), pictures("b", times(count) + 50))
    assert met.late in (0.5, -0.5) and not met.out_of_step
    places = [one for one in met.step if one is not None]
    assert len(places) == len(set(places)) >= count - 1
    assert [abs(one - place) for place, one in enumerate(met.step) if one is not None].count(0) in (0, count)


@pytest.mark.parametrize(("early", "late"), [(-20, -0.2), (24, 0.24), (1.2, 0.012), (0.9, 0)])
def test_how_late_a_camera_is_is_a_share_of_a_step_from_a_millisecond_on(pictures, early, late) -> None:
    jitter = np.random.default_rng(0).uniform(-0.4, 0.4, 12)
    met = _matched(pictures("a", times(12)), pictures("b", times(12) + early + jitter))
    assert met.late == pytest.approx(late, abs=0.003) and met.step == list(range(12))
    assert bool(met.notes("b", "a")) == (abs(early) >= 10)


@pytest.mark.parametrize("count", [11, 12])
def test_a_camera_that_is_now_early_now_late_is_out_of_step_and_keeps_all_its_pictures(pictures, count) -> None:
    met = _matched(pictures("a", times(count)), pictures("b", times(count) + 18 * (-1) ** np.arange(count)), 0.025)
    assert met.out_of_step and met.late == 0 and met.step == list(range(count))
    assert "up to 18 ms before or after a" in met.notes("b", "a")[0] and "no metres" in met.notes("b", "a")[0]


def test_a_pair_that_is_triggered_at_once_is_never_late_and_two_instants_are_needed_to_tell_it(pictures) -> None:
    a, b = pictures("a", times(5)), pictures("b", times(5) + 15)
    assert _matched(a, b, at_once=True) == Matched(list(range(5)))
    assert matched(a, b, 0.06, [2], False, "b") == Matched(list(range(5)))


def test_only_the_instants_that_are_used_tell_how_late_a_camera_is(pictures) -> None:
    a, b = pictures("a", times(12)), pictures("b", times(12) + np.where(np.arange(12) < 6, 0, 10))
    assert matched(a, b, 0.025, range(6, 12, 2), False, "b").late == 0.05
    assert matched(a, b, 0.025, range(6), False, "b").late == 0
