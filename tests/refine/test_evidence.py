"""Tracks judge cameras and depth: correct ones pass, changed ones give findings."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.refine.evidence import PairEvidence, collect_evidence
from pipeline.refine.problem import inverse
from pipeline.refine.rotation import exp
from pipeline.refine.triangulate import triangulate
from pipeline.refine.verdict import FocalEvidence, ImageFinding, image_findings
from tests.refine.scene import CAMERA, SOURCE, Scene, drive

Array = NDArray[np.float64]


@pytest.fixture(scope="module")
def scene() -> Scene:
    return drive(frames=40, points=2500)


def evidence(scene: Scene, poses: Array, camera: Array = CAMERA, depth_factor: float = 1.0) -> list[PairEvidence]:
    count = len(poses)
    true = inverse(scene.world_from_camera)[scene.tracks.frame]
    cloud = _points(scene)
    z = np.einsum("mij,mj->mi", true[:, :3, :3], cloud)[:, 2] + true[:, 2, 3]
    log_depth = np.log(np.where(z > 0, z, np.nan) * depth_factor)
    return collect_evidence(poses, np.tile(camera, (count, 1)), np.ones(count, bool), scene.tracks, log_depth, 1.0)


def _points(scene: Scene) -> Array:
    _, of = np.unique(scene.tracks.track, return_inverse=True)
    points, _ = triangulate(inverse(scene.world_from_camera), CAMERA, scene.tracks.frame, of, scene.tracks.xy)
    return points[of]


def findings(
    scene: Scene, pairs: list[PairEvidence], camera: Array = CAMERA, focal: FocalEvidence | None = None
) -> list[ImageFinding]:
    count = len(scene.world_from_camera)
    chunk_of = np.arange(count) // 20
    return image_findings(pairs, chunk_of, np.tile(camera, (count, 1)), SOURCE[0], 1.0, focal)


def test_the_truth_passes(scene: Scene) -> None:
    assert findings(scene, evidence(scene, scene.world_from_camera)) == []


def test_a_chunk_that_is_turned_by_three_degrees_is_found_at_its_border(scene: Scene) -> None:
    poses = scene.world_from_camera.copy()
    poses[20:, :3, :3] = poses[20:, :3, :3] @ exp(np.array([[0, np.radians(3), 0]]))[0]
    found = findings(scene, evidence(scene, poses))
    assert any(one.kind == "images" and 20 in one.frames for one in found)


def test_a_chunk_that_is_scaled_is_found_where_step_lengths_contradict_the_images(scene: Scene) -> None:
    poses = scene.world_from_camera.copy()
    poses[20:, :3, 3] = poses[20, :3, 3] + 1.2 * (poses[20:, :3, 3] - poses[20, :3, 3])
    found = findings(scene, evidence(scene, poses))
    assert any("scale jumps" in one.reason and 20 in one.frames for one in found)


def test_poses_that_are_none_of_the_images_fail(scene: Scene) -> None:
    poses = scene.world_from_camera.copy()
    poses[:, :3, :3] = poses[:, :3, :3] @ exp(np.random.default_rng(0).normal(0, 0.03, (len(poses), 3)))
    assert any(one.level == "fail" for one in findings(scene, evidence(scene, poses)))


def test_depth_that_contradicts_the_cameras_warns(scene: Scene) -> None:
    found = findings(scene, evidence(scene, scene.world_from_camera, depth_factor=1.3))
    assert any("dense depth of chunk" in one.reason for one in found)


def test_a_focal_length_that_contradicts_the_tracks_warns_and_so_do_pixels_that_are_not_square(scene: Scene) -> None:
    pairs = evidence(scene, scene.world_from_camera)
    assert findings(scene, pairs, focal=FocalEvidence(520, 400, 0.03))
    assert findings(scene, pairs, focal=FocalEvidence(428, 400, 0.015))
    assert not findings(scene, pairs, focal=FocalEvidence(428, 400, 0.03))
    assert not findings(scene, pairs, focal=FocalEvidence(520, 400, 0.2)), "the tracks hardly determine it"
    assert any(one.kind == "camera" for one in findings(scene, pairs, camera=CAMERA * np.array([1, 0.5, 1, 1])))


def test_a_drive_with_too_few_tracks_warns(scene: Scene) -> None:
    few = Scene(scene.world_from_camera, scene.tracks.select(scene.tracks.track % 200 == 0), scene.grid)
    found = findings(few, evidence(few, few.world_from_camera))
    assert any("too few corners could be tracked" in one.reason for one in found)
