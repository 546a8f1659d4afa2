"""Rig files of other programs: each says the same of one rig."""

import itertools
import json

import numpy as np
import pytest
import yaml
from scipy.spatial.transform import Rotation

from pipeline.cameras.camera import Camera
from pipeline.cameras.fields import CalibrationError
from pipeline.cameras.rig import Rig
from pipeline.cameras.rig_calibrations import read_rig_camera
from pipeline.cameras.rig_files import read_rig
from pipeline.synthetic.rig import rig_cameras, rig_file

TRUE = np.eye(4)
TRUE[:3, :3] = Rotation.from_euler("xyz", (3, -55, 1), degrees=True).as_matrix()
TRUE[:3, 3] = (-0.45, 0.02, -0.3)


def _kalibr():
    return yaml.safe_dump({"cam0": {}, "cam1": {"T_cn_cnm1": np.linalg.inv(TRUE).tolist()}}).encode()


def _nerfstudio():
    opengl = np.diag([1.0, -1.0, -1.0, 1.0])
    frames = []
    for number in range(3):
        front = np.eye(4)
        front[:3, 3] = (number, 2.0, 5.0)
        for folder, pose in (("front", front), ("left", front @ TRUE)):
            frames.append({"file_path": f"./{folder}/{number}.png", "transform_matrix": (pose @ opengl).tolist()})
    return json.dumps({"frames": frames}).encode()


@pytest.mark.parametrize(
    ("data", "file", "names"),
    [(_kalibr(), "camchain.yaml", ["cam0", "cam1"]), (_nerfstudio(), "transforms.json", ["front", "left"])],
)
def test_kalibr_and_nerfstudio_say_where_a_camera_sits(data, file, names) -> None:
    poses = read_rig(data, file)
    assert list(poses) == names
    assert np.allclose(np.linalg.inv(poses[names[0]]) @ poses[names[1]], TRUE)


def test_colmaps_file_as_the_renderer_writes_it_is_read_back() -> None:
    cameras = rig_cameras(6)
    poses = read_rig(rig_file(cameras).encode(), "rig_config.json")
    assert list(poses) == ["image_0", *(camera.folder for camera in cameras)]
    for camera in cameras:
        assert np.allclose(poses[camera.folder], camera.front_from_camera)
    rig = Rig.of(dict(poses), "cam_left")
    assert rig.cameras[0] == "cam_left"
    assert np.allclose(rig.poses[1], np.linalg.inv(poses["cam_left"]))
    assert Rig.from_dict(json.loads(json.dumps(rig.to_dict()))) == rig


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"{", "expected JSON or YAML"),
        (b"[]", "expected COLMAP's rig_config.json"),
        (
            b'{"frames": [{"file_path": "a/1.png", "transform_matrix": [1]}]}',
            "transform_matrix: expected 4 rows of 4 numbers",
        ),
        (b'{"frames": []}', "frames: expected two pictures or more"),
        (b'{"frames": 3}', "frames: expected a list of blocks"),
        (b'[{"cameras": [{"image_prefix": "a/", "ref_sensor": true}]}]', "two cameras or more, got 1"),
        (
            b'[{"cameras": [{"image_prefix": "a", "ref_sensor": true}, {"image_prefix": "b", '
            b'"cam_from_rig_rotation": [1, 0, 0, 0], "cam_from_rig_translation": [NaN, 0, 0]}]}]',
            "cameras.1..cam_from_rig_translation.0.: expected a finite number",
        ),
        (
            b'[{"cameras": [{"image_prefix": "../b", "ref_sensor": true}, {"image_prefix": "a", '
            b'"cam_from_rig_rotation": [1, 0, 0, 0], "cam_from_rig_translation": [0, 0, 0]}]}]',
            "expected the name of a camera's folder below the drive, got '../b'",
        ),
    ],
)
def test_a_file_that_is_no_rig_says_what_is_wrong(data, said) -> None:
    with pytest.raises(CalibrationError, match=said):
        read_rig(data, "rig.json")


def test_a_rig_has_two_cameras_of_different_names_and_rigid_poses() -> None:
    same = tuple(np.eye(4)[:3].ravel().tolist())
    for cameras, poses in ((("a",), (same,)), (("a", "a"), (same, same)), (("a", "b"), (same,))):
        with pytest.raises(ValueError, match=r"expected 2 poses|two cameras"):
            Rig(cameras, poses)
    with pytest.raises(ValueError, match="camera b: expected a rotation"):
        Rig(("a", "b"), (same, (2.0,) * 12))
    for late in ((0.0,), (0.1, 0.0), (0.0, 1.5), (0.0, float("nan"))):
        with pytest.raises(ValueError, match="late: expected 2 shares"):
            Rig(("a", "b"), (same, None), late=late)


def test_a_rig_says_which_cameras_are_late_or_out_of_step_and_nothing_where_none_is() -> None:
    poses = {"a": np.eye(4), "b": np.eye(4), "c": np.eye(4)}
    rig = Rig.of(poses, "b", ("c",), {"a": -0.25})
    assert rig.cameras == ("b", "a", "c") and rig.lateness.tolist() == [0, -0.25, 0]
    assert np.isfinite(rig.poses[1]).all() and np.isnan(rig.poses[2, :3, 3]).all()
    assert np.isfinite(rig.poses[2, :3, :3]).all()
    assert Rig.from_dict(json.loads(json.dumps(rig.to_dict()))) == rig
    plain = Rig.of(poses, "b", (), {"a": 0.0})
    assert plain == Rig.of(poses, "b") and plain.to_dict().keys() == {"cameras", "rig_from_camera"}


def test_lists_that_name_each_other_without_end_are_refused_at_once() -> None:
    """Ten names for ten times the one before: a few hundred bytes of YAML that no memory holds written out."""
    lines = ["a: &a [1, 2, 3, 4]"]
    for before, name in itertools.pairwise("abcdefghijklmnop"):
        lines.append(f"{name}: &{name} [{', '.join([f'*{before}'] * 4)}]")
    lines += ["cam0: {}", "cam1: {T_cn_cnm1: *p}"]
    with pytest.raises(CalibrationError, match=r"camchain.yaml: cam1.T_cn_cnm1\[0\]\[0\]: expected a number, got \[\["):
        read_rig("\n".join(lines).encode(), "camchain.yaml")


def test_rig_files_that_have_calibrations_tell_those_of_each_camera() -> None:
    poses = {"T_cn_cnm1": np.linalg.inv(TRUE).tolist()}
    kalibr = {
        "cam0": {"camera_model": "pinhole", "intrinsics": [50, 51, 31.5, 23.5], "resolution": [64, 48]},
        "cam1": {"camera_model": "pinhole", "intrinsics": [70, 70, 15.5, 11.5], "resolution": [32, 24], **poses},
    }
    for camera, coefficients in zip(kalibr.values(), ([0, 0, 0, 0], [-0.1, 0.01, 0, 0]), strict=True):
        camera |= {"distortion_model": "radtan", "distortion_coeffs": coefficients}
    front = {"image_prefix": "cam0/", "ref_sensor": True, "camera_model_name": "PINHOLE"}
    side = {"image_prefix": "cam1/", "cam_from_rig_rotation": [1, 0, 0, 0], "cam_from_rig_translation": [1, 0, 0]}
    lens = {"camera_model_name": "OPENCV", "camera_params": [140, 140, 32, 24, -0.1, 0.01, 0, 0]}
    colmap = [{"cameras": [{**front, "camera_params": [50, 51, 32, 24]}, {**side, **lens}]}]
    pose = np.eye(4).tolist()
    nerfstudio = {
        "frames": [
            {"file_path": "./cam0/1.png", "transform_matrix": pose, "fl_x": 50, "fl_y": 51, "w": 64, "h": 48},
            {"file_path": "cam1/1.png", "transform_matrix": pose, "fl_x": 140, "fl_y": 140, "k1": -0.1, "k2": 0.01}
            | {"p1": 0, "p2": 0},
        ]
    }
    files = {
        "camchain.yaml": yaml.safe_dump(kalibr).encode(),
        "rig_config.json": json.dumps(colmap).encode(),
        "transforms.json": json.dumps(nerfstudio).encode(),
    }
    for file, data in files.items():
        assert list(read_rig(data, file)) == ["cam0", "cam1"]
        first, second = (read_rig_camera(data, file, name, (64, 48)) for name in ("cam0", "cam1"))
        assert first is not None and first.is_pinhole and first.intrinsics == (50, 51, 32, 24)
        assert second == Camera("radtan", 64, 48, 140.0, 140.0, 32.0, 24.0, (-0.1, 0.01, 0.0, 0.0))
    for data, file in (
        (_kalibr(), "camchain.yaml"),
        (_nerfstudio(), "transforms.json"),
        (rig_file(rig_cameras(2)).encode(), "rig_config.json"),
    ):
        assert all(read_rig_camera(data, file, name, (64, 48)) is None for name in read_rig(data, file))
    with pytest.raises(CalibrationError, match=r"camchain\.yaml: it is of 64x48 pixels and the frames have 64x64"):
        read_rig_camera(files["camchain.yaml"], "camchain.yaml", "cam0", (64, 64))
    del lens["camera_params"]
    broken = json.dumps([{"cameras": [{**front, "camera_params": [50, 51, 32, 24]}, {**side, **lens}]}]).encode()
    with pytest.raises(CalibrationError, match="camera_params is missing"):
        read_rig_camera(broken, "rig_config.json", "cam1", (64, 48))
