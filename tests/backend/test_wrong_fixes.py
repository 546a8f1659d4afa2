"""Fixes that only the images show to be wrong: the drive goes on without them, and says why in a line."""

import re
import sys

import numpy as np
import pytest

from pipeline.backend import Fixes, join_chunks
from pipeline.common.geodesy import enu_from_geodetic


@pytest.fixture(scope="module")
def drive(make, shared):
    """Half a minute of KITTI 00 (300 frames at 10 Hz): scenario, times of frames, fixes once a second."""
    sys.path.insert(0, str(shared / "scenarios"))
    try:
        from gnss import make_gnss
    finally:
        sys.path.pop(0)
    scenario, time_s = make(limit=300, seed=2), np.arange(300) * 0.1
    return scenario, time_s, make_gnss(scenario.world_from_cam, time_s, seed=4)


@pytest.fixture(scope="module")
def plain(drive):
    """The drive without positions."""
    return join_chunks(drive[0].chunks)


def written_as_minutes(degrees):
    whole = np.floor(degrees)
    return whole + (degrees - whole) * 0.6


def joined(drive, spoil, **told):
    scenario, time_s, gnss = drive
    columns = [np.asarray(a, float) for a in (gnss.time, gnss.latitude, gnss.longitude, gnss.altitude, gnss.accuracy)]
    return join_chunks(scenario.chunks, frame_time_s=time_s, fixes=Fixes(*spoil(*columns)), **told)


REFUSED = {
    "swapped": (lambda t, la, lo, h, a: (t, lo, la, h, a), {}, "swapped"),
    "the other hemisphere": (lambda t, la, lo, h, a: (t, -la, lo, h, a), {}, "upside down"),
    "minutes, and a camera of a known height": (
        lambda t, la, lo, h, a: (t, written_as_minutes(la), written_as_minutes(lo), h, a),
        {"camera_height_m": 1.65},
        "0.60 times those by the camera's height",
    ),
    "another drive": (lambda t, la, lo, h, a: (t, la[::-1], lo, h, a), {}, "another drive's file"),
    "a clock that is ahead by leap seconds": (lambda t, la, lo, h, a: (t + 18, la, lo, h, a), {}, "clock-window"),
    "accuracies in millimetres": (lambda t, la, lo, h, a: (t, la, lo, h, a * 1000), {}, "millimetres"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_unusable_fixes_are_reported_in_one_line_and_the_drive_is_joined_without_them(drive, plain, kind):
    spoil, told, said = REFUSED[kind]
    result = joined(drive, spoil, **told)
    assert result.georeference is None
    assert re.search(said, result.relative_because) and "\n" not in result.relative_because
    if not told:
        np.testing.assert_array_equal(result.world_from_camera, plain.world_from_camera)


NOTED = {
    "minutes": (
        lambda t, la, lo, h, a: (t, written_as_minutes(la), written_as_minutes(lo), h, a),
        {},
        ["degrees and minutes"],
    ),
    "feet, and a camera that is said to be higher": (
        lambda t, la, lo, h, a: (t, la, lo, h / 0.3048, a),
        {"camera_height_m": 2.5},
        ["feet, not metres", "not 2.50 m as given"],
    ),
    "a part of the drive alone": (
        lambda *columns: tuple(one[:12] for one in columns),
        {},
        ["cover 11 s of the drive's 30"],
    ),
}


@pytest.mark.parametrize("kind", NOTED)
def test_what_may_be_wrong_is_said_of_a_drive_that_is_placed(drive, kind):
    spoil, told, sentences = NOTED[kind]
    found = joined(drive, spoil, **told).georeference
    for said in sentences:
        assert any(said in note for note in found.notes), found.notes


def test_two_fixes_place_a_drive_and_leave_its_clock(drive):
    found = joined(drive, lambda *columns: tuple(one[[2, -3]] for one in columns)).georeference
    assert found.used.all() and abs(found.clock_offset_s) < 0.2


def test_altitudes_that_are_wrong_for_a_while_do_not_move_the_drive(drive):
    part = slice(9, 18)

    def higher(t, la, lo, h, a):
        h = h.copy()
        h[part] += 50
        return t, la, lo, h, a

    right = joined(drive, lambda *columns: columns).georeference
    found = joined(drive, higher).georeference
    away = enu_from_geodetic(*found.geodetic(), right.origin) - right.enu_from_camera[:, :3, 3]
    assert np.abs(away).max() < 1
    assert found.used[part].sum() >= 8 and np.isnan(found.residual_m[part, 2]).sum() >= 8
    assert any(re.search("altitudes of [89] of 30", note) for note in found.notes) and right.notes == ()
