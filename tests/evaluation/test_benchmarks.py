"""Every benchmark is read from its own layout, and errors name its source; point clouds and means are correct."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from pipeline.errors import DriveError
from pipeline.evaluation.benchmarks import BENCHMARKS
from pipeline.evaluation.benchmarks.scores import Score, means, remarks, render
from pipeline.evaluation.cloud_files import read_cloud
from pipeline.evaluation.clouds import compare_clouds, thinned
from pipeline.ingest.drives import find_drive
from tests.evaluation import layouts

KEBLE = "2024-03-12-keble-college-02"


def read(name, root, sequence):
    benchmark = BENCHMARKS[name]
    assert benchmark.sequences(str(root)) == (sequence,)
    found = benchmark.read(str(root), sequence)
    drive = find_drive(found.frames)
    stems = tuple(Path(uri).stem for uri in drive.uris)
    if found.truth.names is not None:
        assert found.truth.names == stems  # in the order that a reconstruction has them
    return found


def cloud_of(sequence):
    return np.concatenate(list(sequence.cloud()))


def test_kitti_odometry_is_read_with_its_poses_and_times(tmp_path):
    way = layouts.kitti(tmp_path)
    found = read("kitti", tmp_path, "04")
    np.testing.assert_allclose(found.truth.world_from_camera, way, atol=1e-9)
    assert found.cloud is None and found.truth.timestamps_s[3] == pytest.approx(0.3)


def test_the_real_clip_is_read_as_a_kitti_sequence(shared):
    benchmark = BENCHMARKS["kitti"]
    root = str(shared / "data" / "kitti")
    with pytest.raises(DriveError, match=r"found: 90.*cvlibs\.net"):
        benchmark.sequences(root)  # 90 is not one of the eleven sequences with truth
    assert benchmark.sequences(root, ("90",)) == ("90",)
    assert len(benchmark.read(root, "90").truth) == 51


@pytest.mark.parametrize("apart", [False, True])
def test_virtual_kitti_is_read_with_its_depth_as_a_cloud(tmp_path, apart):
    way = layouts.virtual_kitti(tmp_path, apart=apart)
    found = read("virtual-kitti", tmp_path, "Scene01/clone")
    assert found.drive_id == "Scene01-clone"
    np.testing.assert_allclose(found.truth.world_from_camera, way, atol=1e-6)
    first = next(iter(found.cloud()))
    width, height = layouts.SIZE
    assert len(first) == width * (height - 4)  # without the sky
    np.testing.assert_allclose(first[:, 2], layouts.WALL, atol=1e-5)
    reach = (width - 1) / 2 / layouts.FOCAL * layouts.WALL
    assert (first[:, 0].min(), first[:, 0].max()) == pytest.approx((-reach, reach))
    fifth = np.linalg.inv(way[5]) @ np.c_[list(found.cloud())[5], np.ones(len(first))].T
    np.testing.assert_allclose(fifth[2], layouts.WALL, atol=1e-4)


def test_eth3d_is_read_with_its_scan_moved_into_the_cameras_world(tmp_path):
    way, scan = layouts.eth3d(tmp_path)
    found = read("eth3d", tmp_path, "courtyard")
    np.testing.assert_allclose(found.truth.world_from_camera, way, atol=1e-6)
    np.testing.assert_allclose(cloud_of(found), scan, atol=1e-5)


def test_images_of_tum_rgbd_are_matched_to_its_more_frequent_true_poses(tmp_path):
    way = layouts.tum(tmp_path)
    name = "rgbd_dataset_freiburg1_desk"
    found = read("tum", tmp_path, name)
    assert found.truth.known.tolist() == [False] + [True] * 11  # the truth begins after the first image
    np.testing.assert_allclose(found.truth.world_from_camera[1:], way[1:], atol=1e-6)


def test_oxford_spires_is_read_with_the_poses_of_the_camera_and_rectified_frames(tmp_path):
    way, scan = layouts.oxford_spires(tmp_path / "data")
    found = read("oxford-spires", tmp_path / "data", KEBLE)
    np.testing.assert_allclose(found.truth.world_from_camera, way, atol=1e-5)
    np.testing.assert_allclose(cloud_of(found), scan.astype(np.float32))
    (tmp_path / "frames").mkdir()
    found.rectify(tmp_path / "frames")
    assert tuple(sorted(p.stem for p in (tmp_path / "frames").iterdir())) == found.truth.names


def test_a_rectified_frame_equals_that_of_a_pinhole_of_the_same_focal_length(tmp_path):
    layouts.oxford_spires(tmp_path / "data")
    k, (width, height) = layouts.FISHEYE, layouts.SIZE
    mono = np.array([[k["fx"], 0, k["cx"]], [0, k["fy"], k["cy"]], [0, 0, 1.0]])

    def scene(x, y):  # brightness by direction, smooth
        return 128 + 60 * np.sin(3 * x) + 60 * np.cos(2 * y)

    column, row = np.meshgrid(np.arange(width, dtype=float), np.arange(height, dtype=float))
    pixels = np.stack([column, row], -1).reshape(-1, 1, 2)
    direction = cv2.fisheye.undistortPoints(pixels, mono, np.array(k["k"], float)).reshape(height, width, 2)
    seen = np.repeat(scene(*np.moveaxis(direction, -1, 0))[..., None], 3, -1).round().astype(np.uint8)
    for path in (tmp_path / "data").rglob("*.jpg"):
        Image.fromarray(seen).save(path, quality=100, subsampling=0)
    target = tmp_path / "frames"
    target.mkdir()
    read("oxford-spires", tmp_path / "data", KEBLE).rectify(target)
    got = np.asarray(Image.open(next(iter(sorted(target.iterdir())))), float)[..., 0]
    ideal = scene((column + 0.5 - width / 2) / k["fx"], (row + 0.5 - height / 2) / k["fx"])
    inner = slice(6, -6)
    assert np.abs(got - ideal)[inner, inner].max() < 8 < np.abs(seen[..., 0] - ideal)[inner, inner].max()


@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_error_for_a_missing_data_set_names_its_source_and_layout(tmp_path, name):
    for data in (tmp_path / "nothing", tmp_path):
        with pytest.raises(DriveError) as caught:
            BENCHMARKS[name].sequences(str(data))
        said = str(caught.value)
        assert "https://" in said and "expected" in said and "\n" not in said


@pytest.mark.parametrize(
    "name, sequence, file, text, said",
    [
        ("virtual-kitti", "Scene01/clone", "Scene01/clone/extrinsic.txt", "0 0 1 2\n", "expected 18 values in line 1"),
        ("virtual-kitti", "Scene01/clone", "Scene01/clone/intrinsic.txt", "", "have different frames"),
        ("eth3d", "courtyard", "courtyard/dslr_calibration_undistorted/images.txt", "1 2 3\n\n", "an image's pose"),
        ("tum", "rgbd_dataset_freiburg1_desk", "rgbd_dataset_freiburg1_desk/groundtruth.txt", "1 2\n", "line 1"),
        ("oxford-spires", KEBLE, "calibration/cam0.yaml", "a: [1\n", "cam0.yaml"),
        ("oxford-spires", KEBLE, "calibration/cam0.yaml", "a: 1\n", "is incomplete or wrong"),
        ("oxford-spires", KEBLE, "calibration/cam0.yaml", "distortion_model: radtan\n", "radtan"),
    ],
)
def test_a_damaged_file_of_a_data_set_is_named(tmp_path, name, sequence, file, text, said):
    getattr(layouts, name.replace("-", "_"))(tmp_path)
    (tmp_path / file).write_text(text)
    with pytest.raises(DriveError, match=said):
        BENCHMARKS[name].read(str(tmp_path), sequence)


@pytest.mark.parametrize("text", ["<MeshLabProject/>", "no xml", '<!DOCTYPE a [<!ENTITY x "y">]><a>&x;</a>'])
def test_an_alignment_that_names_no_scan_or_is_unsafe_is_refused(tmp_path, text):
    layouts.eth3d(tmp_path)
    (tmp_path / "courtyard" / "dslr_scan_eval" / "scan_alignment.mlp").write_text(text)
    with pytest.raises(DriveError, match="scan_alignment"):
        cloud_of(BENCHMARKS["eth3d"].read(str(tmp_path), "courtyard"))


@pytest.mark.parametrize("ending", ["ply", "pcd"])
@pytest.mark.parametrize("text", [False, True])
def test_clouds_are_read_as_another_program_writes_them(tmp_path, ending, text):
    points = layouts.wall(500)
    path = str(tmp_path / f"cloud.{ending}")
    if ending == "ply":
        import trimesh

        cloud = trimesh.PointCloud(points, colors=np.full((500, 4), 128, np.uint8))
        Path(path).write_bytes(trimesh.exchange.ply.export_ply(cloud, encoding="ascii" if text else "binary"))
    else:
        from pypcd4 import Encoding, PointCloud

        cloud = PointCloud.from_xyzi_points(np.concatenate([points, np.ones((500, 1))], 1).astype(np.float32))
        cloud.save(path, Encoding.ASCII if text else Encoding.BINARY)
    np.testing.assert_allclose(np.concatenate(list(read_cloud(path))), points, atol=1e-5)
    if ending == "pcd":
        cloud.save(path, Encoding.BINARY_COMPRESSED)
        with pytest.raises(DriveError, match="pcl_convert"):
            list(read_cloud(path))


@pytest.mark.parametrize(
    "data", [b"", b"ply\nformat ascii 1.0\nelement vertex 2\nproperty float x\nend_header\n1\n", b"ply\n" + b"x" * 5000]
)
def test_a_file_that_is_not_a_cloud_is_named(tmp_path, data):
    (tmp_path / "a.ply").write_bytes(data)
    with pytest.raises(DriveError, match=r"a\.ply cannot be read"):
        list(read_cloud(str(tmp_path / "a.ply")))
    layouts.write_ply(tmp_path / "b.ply", layouts.wall(100))
    (tmp_path / "b.ply").write_bytes((tmp_path / "b.ply").read_bytes()[:-300])
    with pytest.raises(DriveError, match="ends after 80 of 100"):
        list(read_cloud(str(tmp_path / "b.ply")))


def test_cloud_errors_are_those_of_a_shifted_grid():
    grid = np.stack(np.meshgrid(*[np.arange(10.0)] * 2, [0.0]), -1).reshape(-1, 3)
    errors = compare_clouds(grid + (0, 0, 0.3), grid, 0.25)
    assert errors.chamfer == pytest.approx(0.3) and errors.f1 == 0
    errors = compare_clouds(grid[:50] + (0, 0, 0.2), grid, 0.25)
    assert (errors.precision, errors.recall) == (1, 0.5) and errors.f1 == pytest.approx(2 / 3)
    assert errors.accuracy == pytest.approx(0.2) and errors.chamfer == pytest.approx((0.2 + errors.completeness) / 2)
    with pytest.raises(ValueError, match="truth has no points"):
        compare_clouds(grid, grid[:0], 1.0)


def test_thinning_leaves_one_point_per_cube_over_all_pieces():
    points = np.random.default_rng(0).uniform(-2, 2, (5000, 3)).astype(np.float32)
    got = thinned(np.array_split(points, 7), 0.5, 0)
    cubes = np.unique(np.floor(points / 0.5), axis=0)
    assert len(got) == len(cubes) == len(np.unique(np.floor(got / 0.5), axis=0)) == 512
    assert len(thinned([], 1.0, 0)) == 0


def test_too_many_points_are_drawn_with_the_seed(monkeypatch):
    monkeypatch.setattr("pipeline.evaluation.clouds.LARGEST", 100)
    points = np.random.default_rng(0).uniform(0, 100, (3000, 3)).astype(np.float32)
    first, again, other = (thinned([points], 0.1, seed) for seed in (1, 1, 2))
    assert len(first) == 100 and (first == again).all() and (first != other).any()


def test_means_leave_out_failures_with_a_note_and_kitti_has_a_mean_without_01():
    scores = [
        Score("00", "full", frames=10, ate=1.0, f1=None),
        Score("01", "full", frames=10, ate=30.0),
        Score("02", "full", failed="drive 02: it broke"),
        Score("03", "full", frames=10, ate=2.0, peak_memory=3 * 10**9),
    ]
    kitti = BENCHMARKS["kitti"]
    values = means(kitti, scores)["full"]
    assert values["mean"]["ate"] == 11.0 and values["mean without 01"]["ate"] == 1.5 and values["mean"]["f1"] is None
    import io

    from rich.console import Console

    console = Console(file=io.StringIO(), width=200)
    console.print(render(kitti, scores))
    said = console.file.getvalue() + remarks(kitti, scores, {"command": "c", "seed": "0", "commit": "abc"})
    for words in (
        "mean of 3/4",
        "14.55",
        "25.94",
        "mean without 01",
        "failed: 02, full: drive 02: it broke",
        "3.00",
        "commit: abc",
        "failed ones are not included",
    ):
        assert words in said, words
