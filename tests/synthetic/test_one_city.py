"""Drives through one city: the same streets, each drive its own way of driving, light and a car more or less."""

import json

import numpy as np
import pytest

from jobs.synthesize import SynthesizeConfig, main
from pipeline import storage
from pipeline.synthetic import CityDrive, read_drive

CITY = ["--city", "5", "--drives", "4", "--frames", "100", "--height", "8", "--width", "16", "--supersample", "1"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Four drives: the second in another light, the third with a parked car, the last the other way."""
    out = str(tmp_path_factory.mktemp("one-city"))
    assert main(["--output", out, *CITY, "--lights", "2", "--parked", "2", "--opposite", "1"]) == 0
    return out


def placed(root, name):
    """Camera poses in the city, and what city.json says."""
    sequence = storage.join(root, "sequences", name)
    known = json.loads(storage.read_bytes(storage.join(sequence, "city.json")))
    return np.array(known["city_from_first"]) @ read_drive(sequence).world_from_camera, known


def test_drives_go_through_the_same_streets_each_in_its_own_way(root):
    poses = [placed(root, f"{n:02d}")[0] for n in range(4)]
    for one in poses[1:3]:
        away = np.linalg.norm(one[:, None, :2, 3] - poses[0][None, :, :2, 3], axis=-1)
        near = away.min(1) < 1.5
        assert near.mean() > 0.5 and not np.allclose(one, poses[0], atol=0.3)
        ahead = np.einsum("ni,ni->n", one[near, :3, 2], poses[0][away.argmin(1)[near], :3, 2])
        assert ahead.min() > 0.9
    back = poses[3]
    away = np.linalg.norm(back[:, None, :2, 3] - poses[0][None, :, :2, 3], axis=-1)
    near = away.min(1) < 5.0
    assert near.mean() > 0.3
    assert np.einsum("ni,ni->n", back[near, :3, 2], poses[0][away.argmin(1)[near], :3, 2]).max() < -0.8
    assert away.min() > 2.0  # in the other lane


def test_a_parked_car_and_the_light_are_a_drives_own(root):
    (_, plain), (_, lit), (poses, parked), (_, back) = (placed(root, f"{n:02d}") for n in range(4))
    assert (plain["parked"], lit["parked"], plain["opposite"], back["opposite"]) == (None, None, False, True)
    assert plain["light"] is None and lit["light"] == 6
    x, y, heading = parked["parked"]
    away = np.hypot(poses[:, 0, 3] - x, poses[:, 1, 3] - y)
    assert 2.0 < away.min() < 8.0
    # the frame that sees it from behind differs there, and nowhere else, from a city without it
    at = int(np.argmin(np.abs(away[: away.argmin()] - 12.0)))
    parked_there = CityDrive(9, 100, 56, 112, city_seed=5, streets=0, parked=(x, y, heading))
    with_car = parked_there.render_poses(poses[at : at + 1])
    without = CityDrive(9, 100, 56, 112, city_seed=5, streets=0).render_poses(poses[at : at + 1])
    nearer = with_car.depth < without.depth - 0.3
    assert 5 < nearer.sum() < 0.2 * nearer.size and (with_car.depth <= without.depth + 1e-3)[without.depth > 0].all()
    dark = CityDrive(9, 100, 56, 112, city_seed=5, streets=0, light=6).render_poses(poses[at : at + 1])
    assert (dark.depth == without.depth).all() and np.abs(dark.images.astype(int) - without.images).mean() > 3


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"opposite": 1}, "give --city"),
        ({"city": 5, "opposite": 9}, "opposite must be"),
        ({"city": 5, "lights": 0}, "lights must be"),
        ({"city": 5, "parked": 3}, "parked must be"),
        ({"city": 5, "lens": "barrel"}, "leave out --lens"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        SynthesizeConfig("out", **wrong)
