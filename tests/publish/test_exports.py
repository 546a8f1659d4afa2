"""Other programs read the same drive from its exports: COLMAP, nerfstudio, PLY, LAZ, KITTI, TUM."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs import export
from pipeline.publish import PublishConfig, Selection, open_drive, publish_drive
from tests.publish.drives import Listed, small_drive
from tests.s3_server import s3, s3_server  # noqa: F401

FRAMES, HEIGHT, WIDTH = 20, 12, 16
TIMES = [1_700_000_000_000_000_000 + 100_000_000 * n for n in range(FRAMES)]
BOX = ((-2.0, -3.0, 2.0), (6.0, 3.0, 9.0))


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    """Two drives of 20 frames, 3,840 points in three shards; the second has no times."""
    folder = tmp_path_factory.mktemp("published")
    options = PublishConfig(shard_rows=1500, row_group_rows=256, confidence_share=0.0)
    for drive_id, times in (("drive-1", TIMES), ("timeless", None)):
        made = small_drive(FRAMES, drive_id=drive_id, height=HEIGHT, width=WIDTH, size=6, times=times, bad=[7])
        publish_drive(str(folder), made.facts, made.chunks, made.joined, options, made.run)
    return str(folder)


def exported(output, to, *arguments, drive="drive-1", code=0):
    assert export.main(["--output", output, "--drive", drive, "--to", str(to), *map(str, arguments)]) == code
    return Path(to)


@pytest.fixture(scope="module")
def whole(output, tmp_path_factory):
    """All formats of the whole drive but depth."""
    to = tmp_path_factory.mktemp("export") / "all"
    formats = ("colmap", "nerfstudio", "ply", "laz", "copc", "kitti", "tum")
    return exported(output, to, "--format", *formats)


def positions(table):
    return np.stack([table[axis].to_numpy() for axis in "xyz"], -1)


def sorted_rows(*columns):
    rows = np.column_stack(columns)
    return rows[np.lexsort(rows.T[::-1])]


@pytest.mark.parametrize("form", ["colmap", "colmap-text"])
def test_pycolmap_reads_the_model_and_points_reproject_into_their_frames(output, tmp_path, form):
    import pycolmap

    to = exported(output, tmp_path / "model", "--format", form)
    drive = open_drive(output, "drive-1")
    points = drive.points()
    model = pycolmap.Reconstruction(str(to / "sparse" / "0"))
    assert model.num_images() == FRAMES and model.num_points3D() == points.num_rows
    assert model.compute_num_observations() == points.num_rows
    per_frame = np.bincount(points["frame_index"].to_numpy(), minlength=FRAMES)
    cameras = drive.cameras
    for frame in range(FRAMES):
        image = model.images[frame + 1]
        assert image.name == f"{frame:06d}.png" and len(image.points2D) == per_frame[frame]
        pose = np.vstack([image.cam_from_world().matrix(), [0, 0, 0, 1]])
        np.testing.assert_allclose(np.linalg.inv(pose), cameras.world_from_camera[frame], atol=1e-9)
        camera = model.cameras[image.camera_id]
        assert camera.model == pycolmap.CameraModelId.PINHOLE
        assert (camera.width, camera.height) == (4 * WIDTH, 4 * HEIGHT + 8)
        np.testing.assert_allclose(camera.params, cameras.intrinsics[frame], rtol=1e-12)
        errors, centres = [], []
        for seen in image.points2D:
            projected = image.project_point(model.points3D[seen.point3D_id].xyz)
            errors.append(np.linalg.norm(projected - seen.xy))
            # the source image is four times the network's, cropped by four pixels above and below
            centres.append((seen.xy - (0, 4)) / 4 - 0.5)
        if errors:
            assert max(errors) < 1e-3
            # the part of the picture that the network saw
            assert np.abs(np.array(centres) - np.rint(centres)).max() < 1e-3
    stored = list(model.points3D.values())
    got = sorted_rows(*np.array([p.xyz for p in stored]).T, [p.color[0] for p in stored])
    expected = sorted_rows(*positions(points).T.astype(float), points["r"].to_numpy())
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    for number, point in model.points3D.items():
        (element,) = point.track.elements
        assert model.images[element.image_id].points2D[element.point2D_idx].point3D_id == number


def test_the_readers_of_trainers_find_every_file_and_field_that_they_need(whole):
    """gsplat and nerfstudio read sparse/0/*.bin record by record: no bytes may be left over."""
    import struct

    data = (whole / "sparse/0/images.bin").read_bytes()
    (count,), at = struct.unpack("<Q", data[:8]), 8
    names = []
    for _ in range(count):
        image, *_, camera = struct.unpack("<I4d3dI", data[at : at + 64])
        end = data.index(b"\0", at + 64)
        names.append(data[at + 64 : end].decode())
        (seen,) = struct.unpack("<Q", data[end + 1 : end + 9])
        at = end + 9 + 24 * seen
        assert image == len(names) and camera >= 1
    assert at == len(data) and names == sorted(names)  # trainers sort images by name
    data = (whole / "sparse/0/points3D.bin").read_bytes()
    (count,) = struct.unpack("<Q", data[:8])
    assert len(data) == 8 + count * struct.calcsize("<Q3d3BdQ2I")


def vertices_of(path):
    """The columns of a PLY file's vertices, as trimesh reads them."""
    import trimesh

    return trimesh.load(path).metadata["_ply_raw"]["vertex"]["data"]


def places_of(path):
    vertices = vertices_of(path)
    return np.stack([vertices[axis] for axis in "xyz"], -1)


def test_nerfstudio_poses_come_back_and_its_points_fit_them(output, whole):
    values = json.loads((whole / "transforms.json").read_text())
    drive = open_drive(output, "drive-1")
    cameras = drive.cameras
    applied = np.vstack([values["applied_transform"], [0, 0, 0, 1]])
    for frame, stated in zip(range(FRAMES), values["frames"], strict=True):
        pose = np.array(stated["transform_matrix"])
        assert np.linalg.det(pose[:3, :3]) == pytest.approx(1)
        back = np.linalg.inv(applied) @ pose @ np.diag([1, -1, -1, 1])
        np.testing.assert_allclose(back, cameras.world_from_camera[frame], atol=1e-12)
        assert [stated[k] for k in ("fl_x", "fl_y", "cx", "cy")] == cameras.intrinsics[frame].tolist()
        assert (stated["w"], stated["h"]) == tuple(cameras.sizes[frame])
        assert stated["file_path"] == f"images/{frame:06d}.png"
    up = np.array(values["frames"][0]["transform_matrix"])[:3, 1]
    # in nerfstudio the camera's y axis and the world's z axis point up
    np.testing.assert_allclose(up, [0, 0, 1], atol=1e-12)
    # as nerfstudio's parser reads them (test_trainers.py runs it): points and cameras are in one world
    cloud = places_of(whole / values["ply_file_path"])
    np.testing.assert_allclose(cloud, positions(drive.points()) @ applied[:3, :3].T, atol=1e-6)
    first = cloud[drive.points()["frame_index"].to_numpy() == 0]
    local = (first - np.array(values["frames"][0]["transform_matrix"])[:3, 3]) @ np.array(
        values["frames"][0]["transform_matrix"]
    )[:3, :3]
    assert (local[:, 2] < 0).all()  # in front of an OpenGL camera


def test_trimesh_reads_the_ply_with_all_its_properties(output, whole):
    points = open_drive(output, "drive-1").points()
    cloud = vertices_of(whole / "points.ply")
    np.testing.assert_array_equal(places_of(whole / "points.ply"), positions(points))
    for name, column in (
        *zip(("red", "green", "blue"), "rgb", strict=True),
        ("confidence", "confidence"),
        ("chunk", "chunk_index"),
        ("frame", "frame_index"),
    ):
        np.testing.assert_array_equal(cloud[name], points[column].to_numpy())


def test_laspy_reads_the_laz_with_its_extra_dimensions(output, whole):
    import laspy

    drive = open_drive(output, "drive-1")
    points = drive.points()
    cloud = laspy.read(whole / "points.laz")
    # also for a drive that is not georeferenced
    assert len(laspy.read(whole / "points.copc.laz").points) == len(cloud.points)
    assert cloud.header.point_count == points.num_rows
    step = cloud.header.scales[0]
    assert 1e-6 * drive.typical[0] < step <= 1e-5 * drive.typical[0]
    np.testing.assert_allclose(cloud.xyz, positions(points), atol=0.51 * step)
    np.testing.assert_array_equal(cloud.red >> 8, points["r"].to_numpy())
    np.testing.assert_array_equal(cloud["confidence"], points["confidence"].to_numpy())
    np.testing.assert_array_equal(cloud["chunk"], points["chunk_index"].to_numpy())
    np.testing.assert_array_equal(cloud["frame"], points["frame_index"].to_numpy())
    np.testing.assert_allclose(cloud.header.mins, positions(points).min(0), atol=step)


def test_evo_reads_poses_and_trajectory(output, whole, tmp_path):
    from evo.tools import file_interface

    cameras = open_drive(output, "drive-1").cameras
    kitti = file_interface.read_kitti_poses_file(str(whole / "poses.txt"))
    np.testing.assert_allclose(np.array(kitti.poses_se3), cameras.world_from_camera, atol=1e-9)
    tum = file_interface.read_tum_trajectory_file(str(whole / "trajectory.txt"))
    np.testing.assert_allclose(np.array(tum.poses_se3), cameras.world_from_camera, atol=1e-9)
    assert tum.timestamps[3] == pytest.approx(1_700_000_000.3, abs=1e-6)
    assert "1700000000.300000000 " in (whole / "trajectory.txt").read_text()
    to = exported(output, tmp_path / "tum", "--format", "tum", "--frames", 4, 9, drive="timeless")
    counted = file_interface.read_tum_trajectory_file(str(to / "trajectory.txt"))
    assert counted.timestamps.tolist() == [4, 5, 6, 7, 8]


def test_every_selection_exports_the_points_that_the_reader_gives(output, tmp_path):
    import laspy
    import pycolmap

    asked = Selection(frames=(3, 15), box=BOX, min_confidence=2.0, voxel=0.8, far=1.5)
    drive = open_drive(output, "drive-1")
    expected = np.concatenate([positions(batch) for batch in drive.select(asked)])
    everything = drive.points(BOX, min_confidence=2.0, frames=(3, 15)).num_rows
    assert 50 < len(expected) < everything < 0.8 * drive.manifest.counts.points
    box = [value for corner in BOX for value in corner]
    to = exported(
        output,
        tmp_path / "part",
        "--format",
        "ply",
        "laz",
        "colmap",
        "kitti",
        "--frames",
        3,
        15,
        "--box",
        *box,
        "--min-confidence",
        2,
        "--voxel",
        0.8,
        "--far",
        1.5,
    )
    np.testing.assert_array_equal(places_of(to / "points.ply"), expected)
    assert laspy.read(to / "points.laz").header.point_count == len(expected)
    model = pycolmap.Reconstruction(str(to / "sparse" / "0"))
    assert model.num_points3D() == len(expected) and sorted(model.images) == list(range(4, 16))
    assert len((to / "poses.txt").read_text().splitlines()) == 12
    said = json.loads((to / "export.json").read_text())
    assert said["selection"]["frames"] == [3, 15] and said["drive_id"] == "drive-1"


def test_an_existing_target_is_kept_unless_it_is_an_export_and_overwrite_is_given(output, tmp_path, capsys):
    to = exported(output, tmp_path / "a", "--format", "kitti")
    exported(output, to, "--format", "tum", code=1)
    assert "--overwrite replaces it" in capsys.readouterr().err and (to / "poses.txt").exists()
    exported(output, to, "--format", "tum", "--overwrite")
    assert sorted(p.name for p in to.iterdir()) == ["export.json", "trajectory.txt"]
    home = tmp_path / "home"
    home.mkdir()
    (home / "letter.txt").write_text("dear")
    exported(output, home, "--format", "tum", "--overwrite", code=1)
    assert "no export" in capsys.readouterr().err and (home / "letter.txt").read_text() == "dear"
    (tmp_path / "empty").mkdir()
    exported(output, tmp_path / "empty", "--format", "tum")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "empty", "home"]  # no incomplete export is left


def test_a_failed_export_leaves_no_files_and_keeps_the_earlier_export(output, tmp_path, capsys):
    to = exported(output, tmp_path / "a", "--format", "kitti")
    exported(output, to, "--format", "tum", "depth", "--overwrite", code=1)
    assert "--keep-predictions" in capsys.readouterr().err
    # the images of this drive do not exist: the copy fails after the poses were written
    exported(output, to, "--format", "tum", "--images", "--overwrite", code=1)
    assert [p.name for p in tmp_path.iterdir()] == ["a"] and (to / "poses.txt").exists()


def test_an_export_to_a_store_is_complete_with_its_marker(output, s3):  # noqa: F811
    from pipeline import storage

    for again in ([], ["--overwrite"]):
        target = f"{s3}/exports/one"
        arguments = ["--output", output, "--drive", "drive-1", "--to", target, "--format", "colmap", "kitti"]
        assert export.main([*arguments, *again]) == 0
        names = {file.name for file in storage.list_files(target)}
        assert names == {"export.json", "poses.txt"}
        assert len(storage.list_files(f"{target}/sparse/0")) == 3
    assert export.main(arguments) == 1


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda folder: None, "no drive other in"),
        (lambda folder: folder.mkdir(), "drive other in .* is not finished"),
        (
            lambda folder: (folder.mkdir(), (folder / "manifest.json").write_text('{"schema_version": 99}')),
            "schema version 99 is newer",
        ),
    ],
)
def test_a_missing_unfinished_or_newer_drive_gives_a_one_line_error(tmp_path, capsys, change, said):
    import re

    change(tmp_path / "other")
    exported(str(tmp_path), tmp_path / "to", "--format", "ply", drive="other", code=1)
    error = capsys.readouterr().err
    assert re.search(said, error) and error.count("\n") == 1 and not (tmp_path / "to").exists()


def test_invalid_options_are_refused(output, tmp_path, capsys):
    exported(output, tmp_path / "a", "--format", "kitti", "--frames", 50, 60, code=1)
    assert "no frame with a pose among those asked for (it has 20" in capsys.readouterr().err
    exported(output, tmp_path / "a", "--format", "kitti", "--frames", 9, 3, code=1)
    exported(output, tmp_path / "a", "--format", "kitti", "--depth-scale", 0, code=1)
    assert "--depth-scale must be above zero" in capsys.readouterr().err


def test_the_error_for_missing_laspy_names_the_extra_to_install(output, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "laspy", None)
    exported(output, tmp_path / "a", "--format", "ply", "laz", code=1)
    assert "pip install 'city-reconstruction[export]'" in capsys.readouterr().err and not (tmp_path / "a").exists()


def test_images_without_usable_names_are_numbered(tmp_path):
    made = small_drive(4, height=6, width=8)
    film = str(tmp_path / "film.mp4")
    times = _film(film, 4)
    facts = made.facts.__class__(
        **{
            **made.facts.__dict__,
            "frame_uris": [f"{film}#frame={n}" for n in range(4)],
            "timestamps_ns": times,
            "source_uri": film,
            "listing": [Listed("film.mp4", 1)],
        }
    )
    publish_drive(str(tmp_path / "out"), facts, made.chunks, made.joined, PublishConfig(), made.run)
    to = exported(str(tmp_path / "out"), tmp_path / "to", "--format", "colmap", "nerfstudio", "--images")
    names = sorted(p.name for p in (to / "images").iterdir())
    assert names == [f"frame_{n:06d}.png" for n in range(4)]
    grey = [np.asarray(Image.open(to / "images" / name)).mean() for name in names]
    np.testing.assert_allclose(grey, [40, 80, 120, 160], atol=4)


def _film(path, count):
    import av

    from pipeline.ingest.video import read_timeline

    with av.open(path, "w") as film:
        stream = film.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for n in range(count):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 40 * (n + 1), np.uint8))
            film.mux(stream.encode(frame))
        film.mux(stream.encode())
    return list(read_timeline(path).timestamps_ns)


MEASURED = """
import resource, sys
sys.path.insert(0, {root!r})
from jobs import export
def made(drive):
    assert export.main(["--output", {output!r}, "--drive", drive, "--to", {output!r} + "/to-" + drive, "--format",
                        "ply", "laz", "colmap"]) == 0
made("short")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
made("long")
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024, file=sys.stderr)
"""


@pytest.mark.slow
@pytest.mark.full
def test_memory_does_not_grow_with_the_number_of_points(tmp_path):
    options = PublishConfig(shard_rows=131072, row_group_rows=16384, confidence_share=0.0)
    for drive_id, frames in (("short", 60), ("long", 300)):
        made = small_drive(frames, drive_id=drive_id, height=60, width=160, size=20)
        publish_drive(str(tmp_path), made.facts, made.chunks, made.joined, options, made.run)
    code = MEASURED.format(root=str(Path(__file__).resolve().parents[2]), output=str(tmp_path))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2", "RAYON_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200, env=environment)
    assert done.returncode == 0, done.stderr
    grown = int(done.stderr.splitlines()[-1])
    # 2,880,000 points: as arrays 78 MB, as COLMAP records 150 MB more
    assert (tmp_path / "to-long" / "points.ply").stat().st_size > 70e6
    assert grown < 90e6, f"{grown / 1e6:.0f} MB more"
