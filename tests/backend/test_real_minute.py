"""A real minute of driving (comma2k19): errors of real receivers and wheels, on chunks made from the true poses."""

import numpy as np
import pytest

from pipeline.backend import join_chunks
from pipeline.common.geodesy import ecef_from_enu_rotation, ecef_from_geodetic, enu_from_geodetic
from pipeline.georeference import read_file


@pytest.fixture(scope="module")
def minute(shared):
    """Folder, true camera places (N, 3) east, north, up at an origin, times (N,), the origin, poses (N, 4, 4)."""
    folder = shared / "data" / "comma2k19"
    table = np.genfromtxt(folder / "truth.csv", delimiter=",", names=True)
    w, x, y, z = (table[name] for name in ("qw", "qx", "qy", "qz"))
    ecef_from_body = np.stack(
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)]
        + [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)]
        + [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        -1,
    ).reshape(-1, 3, 3)
    origin = tuple(float(table[name][0]) for name in ("latitude", "longitude", "altitude_m"))
    ecef_from_enu = ecef_from_enu_rotation(*origin[:2])
    place = np.stack([table[f"{axis}_ecef_m"] for axis in "xyz"], 1) - ecef_from_geodetic(*origin)
    poses = np.tile(np.eye(4), (len(table), 1, 1))
    poses[:, :3, 3] = place @ ecef_from_enu
    # forward, right, down -> right, down, forward
    poses[:, :3, :3] = (ecef_from_enu.T @ ecef_from_body)[:, :, [1, 2, 0]]
    return folder, table["time_s"], origin, poses


@pytest.fixture(scope="module", params=[range(1), pytest.param(range(5), marks=pytest.mark.full)], ids=["one", "five"])
def drawn(request, drives, minute):
    """The drive's chunks, once for each seed of their noise."""
    poses = minute[3]

    def chunks(seed):
        rng = np.random.default_rng(seed)
        return [
            drives._predict(poses, drives.middle_first(list(range(at, min(at + 60, len(poses))))), rng, 8, 20, 1.0)
            for at in range(0, len(poses) - 30, 30)
        ]

    return [chunks(seed) for seed in request.param]


def joined(drawn, minute, name, *, with_speed=True, **settings):
    """Results by a file of positions, the mean of their horizontal errors, and of path lengths over the true one."""
    folder, time_s, origin, poses = minute
    read, truth = read_file(str(folder / name)), poses[:, :3, 3]
    told = {"fixes": read.fixes} if len(read.fixes) else {}
    told |= {"speed": read.speed} if with_speed else {}
    results = [join_chunks(one, frame_time_s=time_s, **told, **settings) for one in drawn]
    errors, scales = [], []
    for result in results:
        enu = result.world_from_camera[:, :3, 3]
        steps = [np.linalg.norm(np.diff(one[::20], axis=0), axis=1).sum() for one in (enu, truth)]
        scales.append(steps[0] / steps[1])
        if result.georeference is not None:
            away = enu_from_geodetic(*result.georeference.geodetic(), origin) - truth
            errors.append(np.sqrt((away[:, :2] ** 2).sum(1).mean()))
    return results, np.mean(errors) if errors else None, np.array(scales)


def test_a_receiver_of_decimetres_places_the_drive_and_tells_how_late_it_is(drawn, minute):
    results, off, _ = joined(drawn, minute, "ublox.csv")
    assert off <= 0.65
    for result in results:
        assert result.georeference.clock_offset_s == pytest.approx(0.10, abs=0.05)
        assert result.georeference.speed_factor == pytest.approx(1, abs=0.01)


def test_its_positions_alone_do_though_their_times_scatter(drawn, minute):
    results, off, _ = joined(drawn, minute, "ublox.csv", with_speed=False)
    assert off <= 0.65
    for result in results:
        assert result.georeference.clock_offset_s == pytest.approx(0.10, abs=0.05)


def test_a_phones_thirty_fixes_place_the_drive_better_than_they_are_themselves(drawn, minute):
    _, off, scale = joined(drawn, minute, "qcom.csv", clock_window_s=0.0)
    assert off <= 3.0
    np.testing.assert_allclose(scale, 1, atol=0.01)


def test_the_wheels_alone_give_the_scale(drawn, minute):
    results, _, scale = joined(drawn, minute, "speed.csv")
    assert {result.metric.source for result in results} == {"speed"}
    np.testing.assert_allclose(scale, 1, atol=0.015)
