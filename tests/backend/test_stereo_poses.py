"""Motions that two cameras measured replace a chunk's own steps."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from pipeline.backend import assess_quality, join_chunks
from pipeline.backend.chunk import Chunk
from pipeline.backend.rig import RigChunks, measure_rig
from pipeline.backend.stereo_poses import with_motions
from pipeline.backend.stereo_scale import StereoMotions
from tests.backend.test_rig import INSTANTS, OVERLAP, SIZE, ate, measured_motions, rig_drive, unknown_rig


def first_chunk(seed=1):
    chunks, world = rig_drive(seed)
    return Chunk.read(RigChunks(chunks, measure_rig(chunks, unknown_rig()))[0]), world


def steps_of(poses):
    return np.linalg.inv(poses[:-1]) @ poses[1:]


def test_the_path_becomes_the_measured_one_in_the_chunks_own_unit() -> None:
    chunk, world = first_chunk()
    motions = measured_motions(world)
    moved = with_motions(chunk, motions)
    np.testing.assert_array_equal(moved.chunk_from_camera[chunk.reference], chunk.chunk_from_camera[chunk.reference])
    found, asked = steps_of(moved.chunk_from_camera), motions.this_from_next[: SIZE - 1]
    np.testing.assert_allclose(found[:, :3, :3], asked[:, :3, :3], atol=1e-9)
    unit = np.linalg.norm(found[:, :3, 3], axis=1) / np.linalg.norm(asked[:, :3, 3], axis=1)
    np.testing.assert_allclose(unit, unit[0], rtol=1e-9)
    own = np.linalg.norm(steps_of(chunk.chunk_from_camera)[:, :3, 3], axis=1)
    assert np.median(own) == pytest.approx(np.median(np.linalg.norm(found[:, :3, 3], axis=1)), rel=0.05)
    np.testing.assert_array_equal(moved.depth, chunk.depth)


def test_a_motion_that_contradicts_the_chunk_is_left_out() -> None:
    """A moving bus fills the picture, and its motion is measured instead of the car's."""
    chunk, world = first_chunk()
    motions = measured_motions(world)
    good = with_motions(chunk, motions)
    motions.this_from_next[4, :3, 3] *= 3
    motions.this_from_next[9, :3, :3] = Rotation.from_euler("y", 8, degrees=True).as_matrix()
    moved = with_motions(chunk, motions)
    own, kept, before = (steps_of(one.chunk_from_camera) for one in (chunk, moved, good))
    np.testing.assert_allclose(kept[[4, 9]], own[[4, 9]], atol=1e-9)
    rest = np.setdiff1d(np.arange(SIZE - 1), [4, 9])
    np.testing.assert_allclose(kept[rest][:, :3, :3], before[rest][:, :3, :3], atol=1e-9)


@pytest.mark.parametrize("kind", ["too few", "standing", "other lengths"])
def test_motions_that_cannot_be_compared_with_a_chunk_do_not_change_it(kind) -> None:
    chunk, world = first_chunk()
    motions = measured_motions(world)
    if kind == "too few":
        motions = StereoMotions(motions.instant[:2], motions.following[:2], motions.this_from_next[:2])
    elif kind == "standing":
        motions.this_from_next[:, :3, 3] = 0
    else:
        motions.this_from_next[:, :3, 3] *= np.array([0.2, 1, 5])[np.arange(len(motions.instant)) % 3, None]
    assert with_motions(chunk, motions) is chunk


def test_measured_motions_halve_the_error_of_a_rigs_path() -> None:
    measured, plain = [], []
    for seed in range(3):
        chunks, world = rig_drive(seed)
        rig = RigChunks(chunks, measure_rig(chunks, unknown_rig()))
        for motions, found in ((None, plain), (measured_motions(world), measured)):
            joined = join_chunks(rig, overlap=OVERLAP, motions=motions)
            found.append(ate(joined.world_from_camera[:, :3, 3], world[:, :3, 3]))
    assert np.mean(measured) < 0.5 * np.mean(plain)


def test_chunks_without_motions_between_exact_ones_give_no_warning() -> None:
    """One camera is black for 25 instants, so two chunks keep the network's path."""
    chunks, world = rig_drive(2)
    rig = RigChunks(chunks, measure_rig(chunks, unknown_rig()))
    joined = join_chunks(rig, overlap=OVERLAP, motions=measured_motions(world, missing=range(20, 45)))
    assert ate(joined.world_from_camera[:, :3, 3], world[:, :3, 3]) < 0.3
    verdict = assess_quality(joined, None, (), 0.03, 0.5)
    assert verdict.level != "fail", verdict.findings
    assert joined.metric is not None and len(joined.world_from_camera) == INSTANTS
