"""Corners of one camera of a rig are found in the pictures of the others, and tell where the cameras are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.refine.cross_tracks import Crossings, _common_motion
from pipeline.refine.problem import inverse
from pipeline.refine.rig_frames import Mount
from pipeline.refine.rig_mount import (
    common_mount,
    mount_evidence,
    place_deviation,
    place_notes,
    poses_alone,
    with_turns,
)
from pipeline.refine.rig_window import refine_rig_window
from pipeline.refine.rotation import exp
from pipeline.refine.tracks import Tracks
from pipeline.refine.window import Window
from tests.refine.rig_scene import CAMERAS, RIG, UNKNOWN, RigScene
from tests.refine.scene import CAMERA
from tests.refine.street_pictures import GRID, black, seen_window, street_drive

Array = NDArray[np.float64]


def mount_of(scene: RigScene, window: Window) -> Mount:
    begun = with_turns(Mount.of(UNKNOWN), [poses_alone(window, scene.tracks, CAMERA, GRID, CAMERAS)])
    return common_mount(begun, [mount_evidence(window, scene.tracks, CAMERA, GRID, begun)])


def unit_of(cam_from_window: Array, scene: RigScene) -> float:
    """Units of the window in a metre, by the path of the reference camera."""
    found = inverse(cam_from_window)[::CAMERAS]
    lengths = [np.linalg.norm(np.diff(one[:, :3, 3], axis=0), axis=1).sum() for one in (found, scene.world_from_rig)]
    return float(lengths[0] / lengths[1])


def places_of(cam_from_window: Array, scene: RigScene) -> Array:
    """Centres (C, 3) of the cameras in the axes of the reference camera, metres."""
    instant = cam_from_window[3 * CAMERAS : 4 * CAMERAS]
    return np.asarray(inverse(instant @ inverse(instant[:1]))[:, :3, 3] / unit_of(cam_from_window, scene))


def test_a_car_that_turns_only_about_the_vertical_tells_the_places_of_its_cameras_by_what_two_of_them_see() -> None:
    scene = street_drive(11, 0.3)
    window = seen_window(scene, unit=0.05)
    found = mount_of(scene, window)
    turned = found.turn @ RIG[:, :3, :3]
    assert np.degrees(np.arccos(np.clip((np.trace(turned, axis1=1, axis2=2) - 1) / 2, -1, 1))).max() < 0.3
    result = refine_rig_window(window, scene.tracks, CAMERA, GRID, 1.0, found)
    assert result.accepted[0]
    off = places_of(result.cam_from_window, scene) - RIG[:, :3, 3]
    blind = black(window)
    without = refine_rig_window(blind, scene.tracks, CAMERA, GRID, 1.0, mount_of(scene, blind))
    height = (places_of(without.cam_from_window, scene) - RIG[:, :3, 3])[:, 1]
    assert np.abs(height).max() > 0.08
    assert np.linalg.norm(off, axis=1).max() < 0.05  # 0.7 % of the usual depth


def test_known_places_give_the_metre_in_a_straight_drive() -> None:
    scene = street_drive(8, 0.0)
    window = seen_window(scene, unit=0.2)
    metre, sigma = [], []
    for one in (window, black(window)):
        begun = common_mount(Mount.of(RIG), [mount_evidence(one, scene.tracks, CAMERA, GRID, Mount.of(RIG))])
        result = refine_rig_window(one, scene.tracks, CAMERA, GRID, 1.0, begun)
        assert result.accepted[0]
        metre.append(np.linalg.norm(places_of(result.cam_from_window, scene)[1]) / np.linalg.norm(RIG[1, :3, 3]))
        sigma.append(float(result.metre_sigma[0]))
    assert abs(np.log(metre[0])) < sigma[0] < 0.01 and sigma[1] > 1


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000))
def test_places_follow_from_errors_between_cameras_also_over_others(seed: int) -> None:
    """The second camera shares points with the reference, the third one only with the second."""
    rng = np.random.default_rng(seed)
    mount = replace(Mount.of(UNKNOWN), coefficient=rng.normal(0, 1, 6))
    true = rng.normal(0, 1, (3, 3))
    true[0] = 0
    error = true - mount.place
    cameras = np.array([[0, 1], [2, 1]])
    shift = error[cameras[:, 1]] - error[cameras[:, 0]]
    found = Crossings(Tracks.none(), cameras, shift, rng.integers(12, 99, 2)).corrected(mount)
    np.testing.assert_allclose(found.place, true, atol=1e-6)
    only = Crossings(Tracks.none(), cameras[:1], shift[:1], np.array([20])).corrected(mount)
    np.testing.assert_allclose(only.place[1], true[1], atol=1e-6)
    np.testing.assert_allclose(only.place[2], mount.place[2], atol=1e-6)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000))
def test_a_motion_is_found_among_wrong_matches(seed: int) -> None:
    rng = np.random.default_rng(seed)
    local = np.stack([rng.uniform(-4, 4, 60), rng.uniform(-2, 2, 60), rng.uniform(4, 20, 60)], 1)
    focal, shift = np.array([200.0, 200.0]), rng.normal(0, 0.1, 3)
    moved = local @ exp(rng.normal(0, 0.003, (1, 3)))[0].T + shift
    error = focal * (moved[:, :2] / moved[:, 2:] - local[:, :2] / local[:, 2:]) + rng.normal(0, 0.1, (60, 2))
    wrong = np.arange(60) < 24
    error[wrong] = rng.uniform(-12, 12, (24, 2))
    inside, found = _common_motion(error, local, focal)
    assert inside[~wrong].mean() > 0.9 and inside[wrong].sum() <= 4
    assert np.linalg.norm(found - shift) < 0.06
    nothing, _ = _common_motion(rng.uniform(-12, 12, (60, 2)), local, focal)
    assert not nothing.any()


@pytest.mark.parametrize("reason", ["black", "bad"])
def test_pictures_that_show_nothing_change_nothing(reason: str) -> None:
    scene = street_drive(6, 0.3)
    window = seen_window(scene)
    blind = black(window)
    window = blind if reason == "black" else replace(window, ok=np.zeros(len(window.ok), np.bool_))
    mount = replace(Mount.of(UNKNOWN), turn=RIG[:, :3, :3].transpose(0, 2, 1))
    one, other = (mount_evidence(each, scene.tracks, CAMERA, GRID, mount) for each in (window, blind))
    assert one is not None and other is not None
    np.testing.assert_array_equal(one.told, other.told)


def test_a_place_that_nothing_determines_is_said() -> None:
    """A straight drive: black pictures tell nothing between cameras, and tracks of single cameras no place."""
    scene = street_drive(6, 0.0)
    window = seen_window(scene)
    mount = replace(Mount.of(UNKNOWN), turn=RIG[:, :3, :3].transpose(0, 2, 1))
    names = ("front", "left", "right")
    deviation = place_deviation(mount, [mount_evidence(window, scene.tracks, CAMERA, GRID, mount)])
    assert deviation[0] == 0 and deviation.max() < 0.02 and place_notes(names, deviation) == ()
    blind = place_deviation(mount, [None, mount_evidence(black(window), scene.tracks, CAMERA, GRID, mount)])
    assert place_notes(names, blind) == tuple(
        f"the place of camera {name} on the car is not determined by the pictures" for name in names[1:]
    )
    assert not np.isfinite(place_deviation(mount, [None])[1:]).any()
    assert place_notes(names, np.array([0, 0.01, 0.05])) == (
        "the place of camera right on the car is known to 5 % of the usual depth",
    )
    assert place_notes(names, place_deviation(Mount.of(RIG), [None])) == ()
