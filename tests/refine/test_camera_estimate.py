"""Focal length and principal point by tracks: what tracks determine is found, what they do not determine stays."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.refine.camera_estimate import (
    PrincipalEvidence,
    common_focal,
    used_focal,
    used_principal,
    window_focal,
    window_principal,
)
from pipeline.refine.problem import Sigmas
from pipeline.refine.tracks import Tracks
from pipeline.refine.verdict import FocalEvidence
from tests.refine.scene import CAMERA, drive

_CENTRE = CAMERA[2:] + (12.0, -8.0)  # a centre of the picture that is not the principal point


def test_a_wrong_focal_length_is_found() -> None:
    scene = drive(frames=20, noise=0.2)
    wrong = CAMERA * np.array([1.3, 1.3, 1, 1])
    found = window_focal(scene.window(), scene.tracks, wrong, scene.grid)
    assert found is not None
    assert abs(np.log(found.asked / CAMERA[0])) < max(0.03, 3 * found.deviation)
    assert abs(np.log(found.used / found.asked)) > 0.15


def test_focal_lengths_of_windows_are_weighted_by_their_deviations() -> None:
    one = common_focal([FocalEvidence(500, 400, 0.01), None, FocalEvidence(500, 600, 0.2)])
    assert one is not None and abs(one.asked - 400) < 10
    assert common_focal([None]) is None


def test_a_guess_counts_as_far_as_tracks_do_not_determine_the_focal_length() -> None:
    assert used_focal(FocalEvidence(500, 510, 0.05), 500, 0.05) == pytest.approx(505, rel=1e-3)
    assert used_focal(FocalEvidence(500, 510, 0.001), 500, 0.05) == pytest.approx(510, rel=1e-3)
    assert used_focal(FocalEvidence(500, 510, 0.14), 500, 0.05) == pytest.approx(501.1, rel=1e-3)


def test_a_guess_that_tracks_contradict_does_not_count() -> None:
    assert used_focal(FocalEvidence(500, 400, 0.03), 500, 0.05) == 400


@pytest.mark.parametrize("seed", [1, 2])
def test_turns_determine_the_principal_point(seed: int) -> None:
    scene = drive(frames=30, points=1200, seed=seed)
    found = window_principal(
        scene.window(turn=0.003, shift=0.05), scene.tracks, np.append(CAMERA[:2], _CENTRE), scene.grid
    )
    assert found is not None
    assert (np.abs(found.asked - CAMERA[2:]) < 3 * found.deviation).all() and (found.deviation < 1.5).all()
    np.testing.assert_allclose(used_principal([found, found, None], _CENTRE), CAMERA[2:], atol=2.5)


def test_a_straight_drive_leaves_the_principal_point_where_it_is() -> None:
    scene = drive(frames=16, bend=0.0)
    found = window_principal(scene.window(), scene.tracks, np.append(CAMERA[:2], _CENTRE), scene.grid)
    prior = Sigmas.principal * 2 * _CENTRE[0]
    assert found is not None and (found.deviation > 0.5 * prior).all()
    assert np.abs(used_principal([found] * 3, _CENTRE) - _CENTRE).max() < 0.5 * prior


def test_without_evidence_the_centre_is_used() -> None:
    scene = drive(frames=6)
    assert window_principal(scene.window(), Tracks.none(), CAMERA, scene.grid) is None
    np.testing.assert_array_equal(used_principal([None], _CENTRE), _CENTRE)
    only_prior = PrincipalEvidence(_CENTRE, np.full(2, Sigmas.principal * 2 * _CENTRE[0]))
    np.testing.assert_allclose(used_principal([only_prior], _CENTRE), _CENTRE)


def test_the_prior_counts_once_however_many_windows_there_are() -> None:
    """Windows that say the same: the answer tends to what their tracks say without the prior."""
    prior = Sigmas.principal * 2 * _CENTRE[0]
    said, own = _CENTRE + 10.0, prior / 2
    variance = 1 / (own**-2 + prior**-2)
    one = PrincipalEvidence(_CENTRE + (said - _CENTRE) * variance / own**2, np.full(2, np.sqrt(variance)))
    few, many = (used_principal([one] * count, _CENTRE) for count in (1, 1000))
    assert (few < many).all()
    np.testing.assert_allclose(many, said, atol=0.02)
