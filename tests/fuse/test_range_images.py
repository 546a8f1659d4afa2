"""A camera's range image is that of a plain loop over all points, and each one is made once."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.fuse.range_images import RangeImage, RangeImages
from tests.fuse.scenes import FOCAL, HEIGHT, WIDTH, cameras

CUBE, REACH = 0.2, 30.0
CELL = max(FOCAL * np.radians(1.0), 1.0)


def plain(eye, points, asked):
    """Whether a camera at `eye` looks through `asked` (3,), and whether it saw a surface there."""

    def at(xyz, reach):
        x, y, z = xyz - eye
        away = float(np.linalg.norm(xyz - eye))
        if z <= 0 or away >= reach:
            return None
        row, column = (FOCAL * y / z + HEIGHT / 2) / CELL, (FOCAL * x / z + WIDTH / 2) / CELL
        rows, columns = (8 * -(-int(np.ceil(n / CELL)) // 8) for n in (HEIGHT, WIDTH))
        return (int(row), int(column), away) if 0 <= row < rows and 0 <= column < columns else None

    def nearest(row, column):
        """Range of the nearest point that covers a cell."""
        ranges = [np.inf]
        for one in seen:
            level = int(np.clip(np.ceil(np.log2(max(CUBE / (np.radians(1.0) * one[2]), 1.0))), 0, 3))
            if one[0] >> level == row >> level and one[1] >> level == column >> level:
                ranges.append(one[2])
        return min(ranges)

    seen = [one for one in (at(xyz, 2 * REACH) for xyz in points) if one is not None]
    here = at(asked, REACH)
    if here is None:
        return False, False
    rows, columns = (8 * -(-int(np.ceil(n / CELL)) // 8) for n in (HEIGHT, WIDTH))
    steps = [(here[0] + i, here[1] + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
    around = [nearest(*one) for one in steps if 0 <= one[0] < rows and 0 <= one[1] < columns]
    slack = 0.05 * here[2] + 2 * CUBE
    enough = np.isfinite(around).sum() >= 5
    return bool(enough and min(around) > here[2] + slack), bool(abs(nearest(*here[:2]) - here[2]) < slack)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_what_a_camera_looks_through_is_what_a_plain_loop_over_all_points_says(seed):
    rng = np.random.default_rng(seed)
    points = rng.uniform((-6, -3, -8), (6, 3, 50), (400, 3)).astype(np.float32)
    asked = rng.uniform((-4, -2, -5), (4, 2, 35), (12, 3)).astype(np.float32)
    at = cameras(count=1)
    through, met = RangeImage(at, 0, points, CUBE, REACH).look(asked)
    assert list(zip(through.tolist(), met.tolist(), strict=True)) == [plain(np.zeros(3), points, one) for one in asked]


def test_each_image_is_made_once_and_its_own_one_has_only_points_of_the_same_time():
    asked = []

    def points_of(camera):
        asked.append(camera)
        xyz = np.array([[0.0, 0.0, 10.0 + n] for n in range(20)], np.float32)
        return xyz, np.arange(20)

    images = RangeImages(cameras(), points_of, CUBE, REACH)
    assert images.of(12) is images.of(12) and asked == [12]
    where = np.array([[0.0, 0.0, 10.0]], np.float32)
    assert not images.of(0).look(where)[0] and images.of(0).look(where)[1]
    assert not images.of(6, own=True).look(where)[1]  # frame 0 saw this point, six instants before
    assert asked == [12, 0, 6]
