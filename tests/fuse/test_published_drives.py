"""A published drive gives the solution the same joints as the result of joining that was published."""

import sys
from dataclasses import replace

import numpy as np
import pytest

from pipeline.backend import BackendConfig, join_chunks
from pipeline.errors import DriveError
from pipeline.fuse.drive_nodes import joints_of
from pipeline.fuse.published_drives import read_drive
from pipeline.publish import DriveFacts, PublishConfig, RunFacts, open_drive, publish_drive
from pipeline.publish.tables import chunks_table
from pipeline.publish.trajectory import SeenChunk
from tests.publish.drives import Chunk, Listed
from tests.publish.test_verify import put, rewrite_table


@pytest.fixture(scope="module")
def joined(shared):
    """The first 240 frames of KITTI 00, joined; the chain's variance was too small by a factor of four."""
    sys.path.insert(0, str(shared / "scenarios"))
    import chunked_drive

    path = str(shared / "data/trajectories/KITTI_00_gt.txt")
    made = chunked_drive.make_scenario(path, seed=3, limit=240, loops=0)
    return replace(join_chunks(made.chunks), variance_inflation=4.0)


@pytest.fixture
def output(joined, tmp_path):
    """That drive as a published result, with small pictures of noise."""
    rng, count = np.random.default_rng(0), len(joined.frame_index)
    chunks = [
        Chunk(
            np.arange(first, last + 1),
            np.tile(np.array([[6.0, 0, 4], [0, 6, 3], [0, 0, 1]], np.float32), (last + 1 - first, 1, 1)),
            rng.uniform(5, 50, (last + 1 - first, 6, 8)).astype(np.float32),
            np.full((last + 1 - first, 6, 8), 2.0, np.float32),
            rng.integers(0, 255, (last + 1 - first, 6, 8, 3), np.uint8),
            np.ones(last + 1 - first, bool),
        )
        for first, last in joined.chunk_frames
    ]
    facts = DriveFacts(
        drive_id="a",
        source_uri="/data",
        frame_uris=[f"/data/{n:06d}.png" for n in range(count)],
        timestamps_ns=None,
        source_width=8,
        source_height=6,
        net_width=8,
        net_height=6,
        listing=[Listed("a", 1)],
    )
    run = RunFacts("a" * 64, "b" * 64, {}, "0.1.0", {}, {"verdict": "pass"})
    publish_drive(str(tmp_path), facts, chunks, joined, PublishConfig(), run)
    return tmp_path


def test_covariances_after_joining_are_published_and_used(joined, output):
    read = read_drive(open_drive(str(output), "a")).joined
    np.testing.assert_allclose(read.joint_errors.covariance, 4 * joined.joint_errors.covariance)
    np.testing.assert_allclose(read.joint_errors.with_next, 4 * joined.joint_errors.with_next)
    for looseness in (0.0, 1.0):
        ours, theirs = (joints_of(one, BackendConfig(), looseness) for one in (read, joined))
        assert ours.follows[1:].all()
        for name in ("information", "gain", "given"):
            expected = getattr(theirs, name)
            np.testing.assert_allclose(getattr(ours, name), expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())


def test_an_older_result_has_joints_with_usual_covariances(joined, output):
    names = ["step_covariance", "step_with_next"]
    rewrite_table(output / "a", "chunks.parquet", lambda table: table.drop_columns(names))
    read = read_drive(open_drive(str(output), "a")).joined
    assert read.joint_errors is None
    joints = joints_of(read, BackendConfig(), 0.0)
    assert not joints.follows.any() and np.isfinite(joints.information).all()


def test_a_step_whose_overlap_determines_nothing_has_no_published_covariance(joined):
    edges = list(joined.edges)
    edges[1] = replace(edges[1], bridged=True)
    seen = [SeenChunk(range(first, last + 1), last + 1 - first, 1) for first, last in joined.chunk_frames]
    points = np.zeros(len(seen), np.int64)
    table = chunks_table("a", seen, joined.world_from_chunk, edges, points, {}, joined.joint_errors)
    lacking = [n for n, one in enumerate(table["step_covariance"].to_pylist()) if one is None]
    assert lacking == [0, 2]
    assert chunks_table("a", seen, joined.world_from_chunk, edges, points, {})["step_with_next"].null_count == len(seen)


def _negative(matrix):
    matrix[3, 3] = -matrix[3, 3]


def _as_if_one_variable(matrix):
    matrix[:] = np.outer(np.sqrt(np.diag(matrix)), np.sqrt(np.diag(matrix)))


def _not_symmetric(matrix):
    matrix[0, 4] += 0.1 * np.sqrt(matrix[0, 0] * matrix[4, 4])


def _larger_than_the_covariances(matrix):
    matrix *= 100


@pytest.mark.parametrize(
    ("column", "damage", "words"),
    [
        ("step_covariance", _negative, "not positive definite"),
        ("step_covariance", _as_if_one_variable, "not positive definite"),
        ("step_covariance", _not_symmetric, "not symmetric"),
        ("step_with_next", _larger_than_the_covariances, "not positive definite"),
    ],
)
def test_a_covariance_that_is_none_is_refused_with_drive_column_and_chunk(output, column, damage, words):
    def change(table):
        matrix = np.array(table[column][2].as_py()).reshape(7, 7)
        damage(matrix)
        return put(column, 2, matrix.ravel().tolist())(table)

    rewrite_table(output / "a", "chunks.parquet", change)
    with pytest.raises(DriveError, match=rf"drive a: chunks.parquet: {column} of chunk 2 .*{words}.*--overwrite"):
        read_drive(open_drive(str(output), "a"))
