"""Laws of similarity transforms."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.backend.sim3 import Sim3, fit_similarity, rotation_exp, rotation_log

vectors = arrays(np.float64, 3, elements=st.floats(-3, 3))
clouds = arrays(np.float64, (7, 3), elements=st.floats(-10, 10))


@st.composite
def transforms(draw: st.DrawFn) -> Sim3:
    scale = float(np.exp(draw(st.floats(-2, 2))))
    return Sim3(scale, rotation_exp(draw(vectors)), 5 * draw(vectors))


@given(transforms(), clouds)
def test_a_transform_followed_by_its_inverse_changes_nothing(b_from_a: Sim3, points: np.ndarray) -> None:
    np.testing.assert_allclose(b_from_a.inverse().apply(b_from_a.apply(points)), points, atol=1e-9)
    np.testing.assert_allclose((b_from_a @ b_from_a.inverse()).matrix(), np.eye(4), atol=1e-9)


@given(transforms(), transforms(), transforms(), clouds)
def test_a_product_applies_the_right_one_first_and_brackets_do_not_matter(
    a: Sim3, b: Sim3, c: Sim3, points: np.ndarray
) -> None:
    np.testing.assert_allclose((a @ b).apply(points), a.apply(b.apply(points)), atol=1e-7)
    np.testing.assert_allclose(((a @ b) @ c).matrix(), (a @ (b @ c)).matrix(), atol=1e-6)
    np.testing.assert_allclose((a @ b).matrix(), a.matrix() @ b.matrix(), atol=1e-8)


@given(transforms())
def test_a_matrix_gives_the_transform_back(a: Sim3) -> None:
    np.testing.assert_allclose(Sim3.from_matrix(a.matrix()).matrix(), a.matrix(), atol=1e-9)


@given(transforms(), vectors, vectors, clouds)
def test_a_moved_camera_sees_the_moved_points_scaled(
    world_from_chunk: Sim3, turn: np.ndarray, at: np.ndarray, points: np.ndarray
) -> None:
    chunk_from_camera = np.eye(4)
    chunk_from_camera[:3, :3], chunk_from_camera[:3, 3] = rotation_exp(turn), at
    world_from_camera = world_from_chunk.transform_pose(chunk_from_camera)
    rotation = world_from_camera[:3, :3]
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-9)
    in_camera = (points - at) @ rotation_exp(turn)
    again = (world_from_chunk.apply(points) - world_from_camera[:3, 3]) @ rotation
    np.testing.assert_allclose(again, world_from_chunk.scale * in_camera, atol=1e-7)


@given(vectors)
def test_the_logarithm_of_a_rotation_gives_the_same_rotation(turn: np.ndarray) -> None:
    rotation = rotation_exp(turn)
    again = rotation_log(rotation)
    assert np.linalg.norm(again) <= np.pi + 1e-9
    np.testing.assert_allclose(rotation_exp(again), rotation, atol=1e-7)


@settings(max_examples=50)
@given(transforms(), st.integers(0, 10**6))
def test_points_of_a_transform_give_the_transform(b_from_a: Sim3, seed: int) -> None:
    rng = np.random.default_rng(seed)
    points, weight = rng.normal(size=(12, 3)), rng.uniform(0.1, 2, 12)
    found = fit_similarity(points, b_from_a.apply(points), weight)
    np.testing.assert_allclose(found.matrix(), b_from_a.matrix(), atol=1e-8)


@pytest.mark.parametrize(
    "scale, rotation, translation",
    [
        (0.0, np.eye(3), np.zeros(3)),
        (-1.0, np.eye(3), np.zeros(3)),
        (np.nan, np.eye(3), np.zeros(3)),
        (1.0, np.diag([1.0, 1.0, -1.0]), np.zeros(3)),
        (1.0, 2 * np.eye(3), np.zeros(3)),
        (1.0, np.eye(3), np.array([0.0, np.inf, 0.0])),
        (1.0, np.eye(4), np.zeros(3)),
    ],
)
def test_values_that_are_no_similarity_are_refused(scale: float, rotation: np.ndarray, translation: np.ndarray) -> None:
    with pytest.raises(ValueError, match="Sim3 needs"):
        Sim3(scale, rotation, translation)


@pytest.mark.parametrize("points", [np.zeros((2, 3)), np.ones((9, 3))])
def test_points_that_do_not_determine_a_transform_are_refused(points: np.ndarray) -> None:
    with pytest.raises(ValueError, match="a similarity needs"):
        fit_similarity(points, points)
