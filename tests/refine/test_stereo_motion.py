"""Two cameras with known poses measure the car's motion in metres."""

import json

import cv2
import numpy as np
import pyarrow as pa
import pytest

from pipeline.errors import DriveError
from pipeline.refine.segment_files import read_table, write_table
from pipeline.refine.stereo_files import StereoTracker, read_motions
from pipeline.refine.stereo_motion import motion, pair_of, stereo_points
from pipeline.refine.tracks import Picture

WIDTH, HEIGHT, FOCAL, BASE, WALL = 480, 160, 300.0, 0.5, 9.0
CAMERA = (FOCAL, FOCAL, WIDTH / 2, HEIGHT / 2)
STEP = 0.6  # metres that the car drives between two instants

noise = np.random.default_rng(0).integers(0, 256, (600, 1200)).astype(np.uint8)
SHEET = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2.0), None, 0, 255, cv2.NORM_MINMAX)


def picture(aside: float, ahead: float, slope: float = 0.3) -> Picture:
    """The picture of a wall in front of the car, which is nearer on the right, by a camera at (aside, 0, ahead)."""
    # The point (u, v) of the wall is at x = u / 100 - 6, y = v / 100 - 3, z = WALL - slope x.
    world = np.array([[0.01, 0, -6.0], [0, 0.01, -3.0], [-0.01 * slope, 0, WALL + 6 * slope]])
    world[0, 2] -= aside
    world[2, 2] -= ahead
    k = np.array([[FOCAL, 0, WIDTH / 2 - 0.5], [0, FOCAL, HEIGHT / 2 - 0.5], [0, 0, 1]])
    return Picture.of(np.ascontiguousarray(cv2.warpPerspective(SHEET, k @ world, (WIDTH, HEIGHT))))


def right(aside: float = BASE, ahead: float = 0.0, degrees: float = 0.0) -> np.ndarray:
    """rig_from_camera (4, 4) of a camera beside the reference."""
    pose = np.eye(4)
    pose[:3, :3] = cv2.Rodrigues(np.array([0, np.radians(degrees), 0]))[0]
    pose[:3, 3] = aside, 0, ahead
    return pose


PAIR = pair_of(np.stack([np.eye(4), right()]), CAMERA)


def test_points_are_on_the_wall_in_metres() -> None:
    assert PAIR is not None
    corners, points = stereo_points(picture(0, 0), picture(BASE, 0), PAIR)
    assert len(points) > 100
    np.testing.assert_allclose(points[:, 2], WALL - 0.3 * points[:, 0], atol=0.35)
    assert abs(np.mean(points[:, 2] - WALL + 0.3 * points[:, 0])) < 0.05
    np.testing.assert_allclose(points[:, 0] / points[:, 2] * FOCAL + WIDTH / 2, corners[:, 0], atol=1e-6)


def test_the_motion_has_the_length_in_metres_and_the_direction_of_the_cars() -> None:
    assert PAIR is not None
    found = motion(picture(0, 0), picture(BASE, 0), picture(0.1, STEP), PAIR)
    assert found is not None
    np.testing.assert_allclose(found[:3, 3], [0.1, 0, STEP], atol=0.02)
    np.testing.assert_allclose(found[:3, :3], np.eye(3), atol=0.003)


def test_pictures_that_have_nothing_in_common_give_no_motion() -> None:
    assert PAIR is not None
    other = Picture.of(np.ascontiguousarray(SHEET[300:460, 600:1080]))
    assert motion(picture(0, 0), other, picture(0, STEP), PAIR) is None
    assert motion(picture(0, 0), picture(BASE, 0), Picture.of(np.zeros((HEIGHT, WIDTH), np.uint8)), PAIR) is None


@pytest.mark.parametrize(
    ("others", "second"),
    [
        ([right()], 1),
        ([right(0.1), right(0.5)], 2),  # the larger baseline of two
        ([right(degrees=55.0)], None),  # looks to the side
        ([right(0.1, 1.5)], None),  # in front of the reference: points ahead have no disparity
        ([right(0.0)], None),
        ([np.full((4, 4), np.nan), right()], 2),
    ],
)
def test_the_pair_is_a_camera_beside_the_reference_that_looks_the_same_way(others, second) -> None:
    pair = pair_of(np.stack([np.eye(4), *others]), CAMERA)
    assert (None if pair is None else pair.second) == second


def test_motions_are_staged_by_segment_and_read_as_one_drive(tmp_path) -> None:
    """Frames of three cameras; the third looks elsewhere. A segment begins in the middle of an instant."""
    rig = np.stack([np.eye(4), right(), right(degrees=90.0)])
    pair = pair_of(rig, CAMERA)
    assert pair is not None
    tracker = StereoTracker(str(tmp_path), pair)
    frames = [picture(BASE * (camera == 1), STEP * instant) for instant in range(6) for camera in range(3)]
    seen: list[Picture | None] = list(frames)
    seen[3 * 2 + 1] = None  # the second camera has no picture of instant 2
    tracker.segment_done(0, seen[:10])
    tracker.segment_done(10, seen[10:])
    instants, motions = read_motions(str(tmp_path))
    assert instants.tolist() == [0, 1, 3, 4]  # the pictures of 3 are in two segments
    np.testing.assert_allclose(motions[:, 2, 3], STEP, atol=0.02)
    assert read_motions(str(tmp_path / "none"))[1].shape == (0, 4, 4)


@pytest.mark.parametrize(
    "columns",
    [
        {"instant": [0]},
        {"instant": [0], "first_from_next": [[1.0] * 11]},
        {"instant": [0], "first_from_next": [[float("nan")] * 12]},
        {"instant": [None], "first_from_next": [[1.0] * 12]},
        {"instant": [0], "first_from_next": [None]},
    ],
)
def test_damaged_motions_are_named(tmp_path, columns) -> None:
    write_table(str(tmp_path / "stereo-0000000-0000010.arrow"), pa.table(columns))
    with pytest.raises(DriveError, match=r"stereo-0000000-0000010\.arrow holds no motions .*run the drive again"):
        read_motions(str(tmp_path))


_DAMAGE = (None, [], "x", [[float("nan")] * 4] * 4)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((field, value) for field in ("count", "camera", "second_from_first") for value in _DAMAGE),
        *(("count", value) for value in (0, 1, float("inf"))),
        *(("second", value) for value in (0, 9, float("inf"))),
        *(
            ("pictures", value)
            for value in (
                None,
                [{"frame": 0, "shape": [WIDTH * HEIGHT], "scale": [1, 1]}],
                "x",
                [{}],
                [{"frame": 0, "shape": [9, 9], "scale": [1, 1]}],
            )
        ),
    ],
)
def test_damaged_borders_of_segments_are_named(tmp_path, field, value) -> None:
    assert PAIR is not None
    StereoTracker(str(tmp_path), PAIR).segment_done(0, [picture(BASE * (n % 2), STEP * (n // 2)) for n in range(4)])
    (file,) = tmp_path.glob("stereo-*.arrow")
    table = read_table(str(file))
    metadata = table.schema.metadata
    facts = {**json.loads(metadata[b"segment"]), field: value}
    write_table(str(file), table.replace_schema_metadata({**metadata, b"segment": json.dumps(facts).encode()}))
    with pytest.raises(DriveError, match=r"holds no motions .*run the drive again"):
        read_motions(str(tmp_path))
