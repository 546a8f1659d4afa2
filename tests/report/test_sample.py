"""A sample represents a large cloud evenly by few points."""

import numpy as np
import pytest

from pipeline.publish import open_drive
from pipeline.report.sample import sample_points
from tests.report.drives import publish


@pytest.fixture(scope="module")
def drive(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sampled")
    publish(folder / "out", folder / "source")
    return open_drive(str(folder / "out"), "bend")


def test_a_sample_keeps_its_budget_and_contains_every_chunk(drive):
    total = drive.manifest.counts.points
    sample = sample_points(drive, total // 10)
    assert 0.9 * total / 10 < len(sample) <= total / 10 + 1
    assert set(sample.chunk.tolist()) == set(range(drive.manifest.counts.chunks))
    assert f"of {total:,} points" in sample.note


def test_a_large_budget_gives_all_points_and_says_so(drive):
    sample = sample_points(drive, 10**9)
    assert sample.note == f"all {drive.manifest.counts.points:,} points"


def test_a_sample_is_even_in_space(drive):
    every, few = sample_points(drive, 10**9), sample_points(drive, drive.manifest.counts.points // 5)
    for axis in range(3):
        np.testing.assert_allclose(
            np.quantile(few.xyz[:, axis], (0.1, 0.5, 0.9)), np.quantile(every.xyz[:, axis], (0.1, 0.5, 0.9)), atol=0.5
        )


def test_the_box_of_a_sample_contains_its_points(drive):
    low, high = (-2.0, -2.0, 2.0), (2.0, 2.0, 6.0)
    sample = sample_points(drive, 500, (low, high))
    assert 0 < len(sample) <= 501
    assert ((sample.xyz >= low) & (sample.xyz <= high)).all()


def test_a_budget_below_one_is_refused(drive):
    with pytest.raises(ValueError, match="--points must be at least 1"):
        sample_points(drive, 0)
