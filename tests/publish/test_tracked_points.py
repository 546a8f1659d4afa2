"""Corners that several frames see become tables of a result and COLMAP points with real tracks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pycolmap
import pytest

from jobs import export, verify
from pipeline.errors import DriveError
from pipeline.publish import PublishConfig, open_drive, publish_drive
from tests.publish.drives import small_drive

FRAMES, POINTS, SEEN = 12, 60, 4


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A drive of 12 frames; 60 corners, each followed through four of them, exactly."""
    made = small_drive(FRAMES, drive_id="tracked", height=12, width=16, size=6)
    poses = np.asarray(made.joined.world_from_camera)
    rng = np.random.default_rng(0)
    first = np.sort(rng.integers(0, FRAMES - SEEN, POINTS))
    local = rng.uniform((-1.0, -0.5, 5.0), (1.0, 0.5, 9.0), (POINTS, 3))
    xyz = np.einsum("nij,nj->ni", poses[first, :3, :3], local) + poses[first, :3, 3]
    point, frame = np.repeat(np.arange(POINTS), SEEN), (first[:, None] + np.arange(SEEN)).ravel()
    away = np.einsum("nji,nj->ni", poses[frame, :3, :3], xyz[point] - poses[frame, :3, 3])
    rays = away[:, :2] / away[:, 2:]
    tracks = {"point_index": point, **dict(zip("xyz", xyz[point].T, strict=True)), "frame_index": frame}
    pairs = np.arange(FRAMES - 2)
    unknown = np.where(pairs == 3, np.nan, 0.25)
    evidence = {"frame_index": pairs, "second_frame_index": pairs + 2, "tracks": 9 * pairs, "flow": 3.0 + pairs}
    evidence |= dict.fromkeys(("distance", "share", "depth", "spread"), unknown)
    run = replace(
        made.run,
        tracks={**tracks, "u": rays[:, 0], "v": rays[:, 1]},
        evidence={**evidence, "judged": np.isfinite(unknown)},
    )
    folder = tmp_path_factory.mktemp("published")
    publish_drive(str(folder), made.facts, made.chunks, made.joined, PublishConfig(confidence_share=0.0), run)
    return str(folder)


def test_a_result_contains_tracks_and_evidence_and_passes_the_check(output: str) -> None:
    drive = open_drive(output, "tracked", check_hashes=True)
    assert drive.tracks is not None and drive.tracks.num_rows == POINTS * SEEN
    assert drive.evidence is not None and drive.evidence["share"].null_count == 1
    assert drive.evidence["tracks"].to_pylist() == [9 * k for k in range(FRAMES - 2)]
    assert verify.main([output]) == 0


@pytest.mark.parametrize("form", ["colmap", "colmap-text"])
def test_colmap_gets_points_with_all_their_observations_and_can_adjust_them(
    output: str, tmp_path: Path, form: str
) -> None:
    assert export.main([output, "tracked", "--format", form, "--to", str(tmp_path / "to")]) == 0
    model = pycolmap.Reconstruction(str(tmp_path / "to" / "sparse" / "0"))
    dense = open_drive(output, "tracked").manifest.counts.points
    assert dense and model.num_points3D() == dense + POINTS
    assert model.compute_num_observations() == POINTS * SEEN
    model.update_point_3d_errors()
    tracked = [point for point in model.points3D.values() if point.track.length()]
    assert len(tracked) == POINTS and max(point.error for point in tracked) < 1e-3
    for number, point in model.points3D.items():
        for element in point.track.elements:
            assert model.images[element.image_id].points2D[element.point2D_idx].point3D_id == number
    before = {number: image.cam_from_world().matrix() for number, image in model.images.items()}
    pycolmap.bundle_adjustment(model)  # pycolmap refuses points that only one image observes
    for number, image in model.images.items():
        np.testing.assert_allclose(image.cam_from_world().matrix(), before[number], atol=1e-3)


def test_a_selection_takes_points_that_three_of_its_frames_see(output: str, tmp_path: Path) -> None:
    chosen = ["--frames", "4", "9"]
    assert export.main([output, "tracked", "--format", "colmap", "--to", str(tmp_path / "to"), *chosen]) == 0
    model = pycolmap.Reconstruction(str(tmp_path / "to" / "sparse" / "0"))
    length = [point.track.length() for point in model.points3D.values()]
    assert set(length) == {0, 3, 4} and model.num_images() == 5


def test_tracks_that_do_not_belong_to_the_drive_are_refused(tmp_path: Path) -> None:
    made = small_drive(4, drive_id="odd", height=12, width=16, size=6)
    one = np.ones(3)
    tracks = {"point_index": np.array([0, 0, 2]), "x": one, "y": one, "z": one, "frame_index": np.arange(3)}
    run = replace(made.run, tracks={**tracks, "u": one, "v": one})
    publish_drive(str(tmp_path), made.facts, made.chunks, made.joined, PublishConfig(confidence_share=0.0), run)
    with pytest.raises(DriveError, match="1 observations whose point does not follow the one before"):
        _ = open_drive(str(tmp_path), "odd").tracks
