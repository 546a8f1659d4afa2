import numpy as np
import pytest
from PIL import Image

from pipeline.errors import StorageError
from pipeline.evaluation import compare, drive_picture, open_estimate, open_truth, trajectory_figure
from pipeline.evaluation.depth import published_depth
from tests.evaluation.paths import publish, streets, true_depth, walk, write_kitti_poses, write_truth


def test_the_figure_shows_both_paths(tmp_path):
    truth = streets(90, -90)
    off = truth.copy()
    off[:, 0, 3] += np.linspace(0, 5, len(off))
    trajectory_figure(off, truth, str(tmp_path / "a.png"), "drive 07")
    trajectory_figure(truth, truth, str(tmp_path / "b.png"), "drive 07")
    first, second = (np.asarray(Image.open(tmp_path / name).convert("RGB")) for name in ("a.png", "b.png"))
    assert first.shape == second.shape
    assert first.shape[1] > 1000
    assert (first != second).any(-1).mean() > 0.01  # the paths differ, and so do the pictures


def test_a_figure_that_cannot_be_written_is_an_error_of_the_store(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError):
        trajectory_figure(streets(), streets(), str(tmp_path / "file" / "a.png"), "x")


def test_the_plot_of_a_drive_shows_its_frames_its_depth_and_its_path(tmp_path):
    poses = walk(7)
    truth = open_truth(str(write_truth(tmp_path / "truth", poses)))
    depth = np.stack([np.where(true_depth(i) > 0, true_depth(i), 90.0) for i in range(7)])
    pictures = []
    for name, published in (("a", depth), ("b", depth[:, :, ::-1])):
        estimate = open_estimate(publish(tmp_path / name, poses, published, bad=(2,)))
        drive_picture(compare(estimate, truth), str(tmp_path / f"{name}.png"), "drive 07")
        pictures.append(np.asarray(Image.open(tmp_path / f"{name}.png").convert("RGB")))
    assert pictures[0].shape == pictures[1].shape
    assert (pictures[0] != pictures[1]).any(-1).mean() > 0.001  # other depth, another picture


def test_published_depth_lies_on_the_networks_grid(tmp_path):
    poses = walk(4)
    depth = np.stack([np.where(true_depth(i) > 0, true_depth(i), 90.0) for i in range(4)])
    drive = open_estimate(publish(tmp_path, poses, depth, bad=(2,))).drive
    images = published_depth(drive, [1, 2])
    assert list(images) == [1]  # frame 2 has no points
    np.testing.assert_allclose(images[1], depth[1], rtol=1e-4)


def test_files_of_poses_have_no_plot(tmp_path):
    write_kitti_poses(tmp_path / "poses.txt", walk(5))
    path = str(tmp_path / "poses.txt")
    with pytest.raises(ValueError, match="images"):
        drive_picture(compare(open_estimate(path), open_truth(path)), str(tmp_path / "x.png"), "x")
