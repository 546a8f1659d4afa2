"""nuScenes' tables: which calibration a picture has, and what it says."""

import json
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from pipeline.cameras.camera import Camera
from pipeline.cameras.fields import CalibrationError
from pipeline.cameras.nuscenes_tables import Stretch, calibration, picture_key, read_calibrated, read_stretches
from pipeline.cameras.rig import Rig
from tests.datasets import EGO_FROM_FRONT, write_nuscenes
from tests.mutators import damaged_bytes, damaged_json

LENS = Camera("pinhole", 1600, 900, 1266.4, 1266.4, 816.8, 492.0)
LOG = "n015-2018-07-24-11-22-45+0800"
START = 1_532_402_927_612_460


def _names(camera, start, count, log=LOG):
    return [
        f"{'samples' if n % 6 == 0 else 'sweeps'}/{camera}/{log}__{camera}__{start + n * 83_000}.jpg"
        for n in range(count)
    ]


def _scenes(pose=EGO_FROM_FRONT):
    later = START + 60_000_000
    return [
        {camera: (LENS, pose, _names(camera, START, 20)) for camera in ("CAM_FRONT", "CAM_BACK_LEFT")},
        {"CAM_FRONT": (LENS, np.eye(4), _names("CAM_FRONT", later, 20))},
    ]


def test_the_name_of_a_picture_tells_log_camera_and_time() -> None:
    assert picture_key(_names("CAM_BACK_LEFT", START, 1)[0]) == ((LOG, "CAM_BACK_LEFT"), START)
    for other in ("a.jpg", "x__CAM_FRONT__.jpg", "x__CAM_FRONT__12a.jpg", f"x__CAM_FRONT__{'9' * 5000}.jpg"):
        assert picture_key(other) is None
    assert picture_key(f"sweeps/LIDAR_TOP/{LOG}__LIDAR_TOP__{START}.pcd.bin") is None


def test_stretches_are_the_same_however_the_file_is_cut_into_blocks(tmp_path) -> None:
    data = (write_nuscenes(tmp_path, _scenes()) / "sample_data.json").read_bytes()
    whole = read_stretches([data], "s")
    assert set(whole) == {(LOG, "CAM_FRONT"), (LOG, "CAM_BACK_LEFT")}
    assert [(one.first_us, one.last_us) for one in whole[LOG, "CAM_FRONT"]] == [
        (START, START + 19 * 83_000),
        (START + 60_000_000, START + 60_000_000 + 19 * 83_000),
    ]
    for size in (1, 7, 100, 1000):
        assert read_stretches([data[at : at + size] for at in range(0, len(data), size)], "s") == whole
    values = json.loads(data)
    random.Random(5).shuffle(values)
    turned = [dict(reversed(record.items())) for record in values]
    again = read_stretches([json.dumps(turned, separators=(",", ":")).encode()], "s")
    assert {key: sorted(map(str, found)) for key, found in again.items()} == {
        key: sorted(map(str, found)) for key, found in whole.items()
    }


angles, places = st.tuples(*[st.floats(-180, 180)] * 3), st.tuples(*[st.floats(-9, 9)] * 3)


@settings(max_examples=30, deadline=None)
@given(angles, places, angles, places)
def test_calibrations_are_read_back_and_places_are_those_by_the_reference(tmp_path_factory, a, b, c, d) -> None:
    ego, front_from_left = np.eye(4), np.eye(4)
    for pose, degrees, place in ((ego, a, b), (front_from_left, c, d)):
        pose[:3, :3] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
        pose[:3, 3] = place
    scene = {"CAM_FRONT": (LENS, ego, []), "CAM_LEFT": (LENS, ego @ front_from_left, [])}
    folder = write_nuscenes(tmp_path_factory.mktemp("root"), [scene])
    records = read_calibrated((folder / "calibrated_sensor.json").read_bytes(), "c")
    tokens = list(records)[:2]
    found = [calibration(records, "c", Stretch(0, 1, token, 1600, 900)) for token in tokens]
    assert found[0].camera.intrinsics == pytest.approx(LENS.intrinsics)
    assert (found[0].camera.model, found[0].camera.width, found[0].camera.height) == ("pinhole", 1600, 900)
    assert found[0].is_like(found[0]) and found[0].is_like(found[1]) == bool((found[0].pose == found[1].pose).all())
    rig = Rig.of({"front": found[0].pose, "left": found[1].pose}, "front")
    np.testing.assert_allclose(rig.poses[1], front_from_left, atol=1e-9)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: b"", "expected a list of records, got 0 and no end of it"),
        (lambda data: b"[]", "expected a list of records, got 0"),
        (lambda data: data[:-1], ".*no end of it; copy it again"),
        (lambda data: data[:-200], ".*no end of it; copy it again"),
        (lambda data: data + b"]", ".*no end of it"),
        (lambda data: b"{" + data, r"behind record 0: .* expected '\[' before a record"),
        (lambda data: data.replace(b"},", b"}", 3), "behind record 0: expected records of JSON"),
        (lambda data: data.replace(b'"filename": ', b'"filename": 3, "x": ', 1), "record 0, filename: expected a text"),
        (lambda data: data.replace(b'"filename"', b'"name"', 1), "record 0, filename is missing"),
        (
            lambda data: data.replace(b"calibrated_sensor_token", b"token2", 1),
            "record 0, calibrated_sensor_token is missing",
        ),
        (lambda data: b"[" + b" " * 2_000_000, "record 0: expected less than 1,048,576 bytes"),
        (lambda data: b"[" + b'{"a":' * 100_000 + b"}", "behind record 0: expected records of JSON"),
    ],
)
def test_a_damaged_table_of_pictures_is_named_with_its_record(tmp_path, change, said) -> None:
    data = change((write_nuscenes(tmp_path, _scenes()) / "sample_data.json").read_bytes())
    with pytest.raises(CalibrationError, match=f"^s: {said}"):
        read_stretches([data[at : at + 5000] for at in range(0, len(data), 5000)], "s")


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("rotation", [1, 0, 0], "rotation: expected 4 numbers, got 3"),
        ("rotation", [0.5, 0, 0, 0], "rotation: expected a quaternion of length 1"),
        ("translation", [1, "x", 0], r"translation\[1\]: expected a finite number"),
        ("translation", None, "translation is missing"),
        ("camera_intrinsic", [], "camera_intrinsic: expected 3 rows of 3 numbers"),
        ("camera_intrinsic", [[0, 0, 800], [0, 9, 450], [0, 0, 1]], "camera_intrinsic: expected fx 0 cx, 0 fy cy"),
        ("camera_intrinsic", [[9, 1, 800], [0, 9, 450], [0, 0, 1]], "camera_intrinsic: expected fx 0 cx, 0 fy cy"),
        ("camera_intrinsic", [[9, 0], [0, 9, 450], [0, 0, 1]], r"camera_intrinsic\[0\]: expected 3 numbers, got 2"),
        (
            "camera_intrinsic",
            [[9, 0, 1800], [0, 9, 450], [0, 0, 1]],
            r"camera_intrinsic\[0\]\[2\]: expected a principal",
        ),
    ],
)
def test_a_damaged_calibration_is_named_with_its_token_and_field(tmp_path, field, value, said) -> None:
    folder = write_nuscenes(tmp_path, _scenes())
    records = read_calibrated((folder / "calibrated_sensor.json").read_bytes(), "c")
    token = next(iter(records))
    damaged = {**records, token: {**records[token], field: value}}
    with pytest.raises(CalibrationError, match=f"^c: record '{token}', {said}"):
        calibration(damaged, "c", Stretch(0, 1, token, 1600, 900))
    with pytest.raises(CalibrationError, match=r"^c: record 'x', which sample_data\.json names, is missing"):
        calibration(records, "c", Stretch(0, 1, "x", 1600, 900))
    with pytest.raises(CalibrationError, match=f"^sample_data.json: record '{token}', width: expected a whole number"):
        calibration(records, "c", Stretch(0, 1, token, 0, 900))


def test_random_damage_is_an_error_of_one_line_or_a_table(tmp_path) -> None:
    folder = write_nuscenes(tmp_path, _scenes())
    pictures, calibrated = ((folder / f"{name}.json").read_bytes() for name in ("sample_data", "calibrated_sensor"))
    for number in range(60):
        damage = damaged_json if number % 2 else damaged_bytes
        for read, data in ((lambda table: read_stretches([table], "file"), pictures), (_all, calibrated)):
            try:
                read(damage(data, random.Random(number)))
            except CalibrationError as error:
                assert str(error).startswith("file: ") and "\n" not in str(error)


def _all(data):
    records = read_calibrated(data, "file")
    return [calibration(records, "file", Stretch(0, 1, token, 1600, 900)) for token in records]
