"""Depth from published points: exact errors, and correct figures of what is missing."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import DecodeError, DriveError
from pipeline.evaluation import compare, evaluate, open_estimate, open_truth
from pipeline.evaluation.depth import Ratios, grid_spacing
from pipeline.publish import PublishConfig
from tests.evaluation.paths import HEIGHT, WIDTH, moved, publish, true_depth, walk, write_truth

FRAMES = 6
UNIT = 0.25  # world units a metre


def depths(count=FRAMES):
    """True depth in world units; the sky gets some depth too, as a network gives it."""
    depth = np.stack([true_depth(i) for i in range(count)])
    return np.where(depth > 0, depth, 90.0) * UNIT


def evaluated(tmp_path, depth, truth=None, **options):
    poses = walk(len(depth))
    sequence = write_truth(tmp_path / "truth", poses) if truth is None else truth
    scaled = moved(poses, UNIT)
    folder = publish(tmp_path / "out", scaled, depth, **options)
    return evaluate(compare(open_estimate(folder), open_truth(str(sequence))))


def test_true_depth_has_no_error_and_the_right_scale(tmp_path):
    depth = evaluated(tmp_path, depths()).depth
    assert depth.abs_rel == pytest.approx(0, abs=2e-4)
    assert depth.within_125 == 1
    assert depth.scale == pytest.approx(1 / UNIT, rel=2e-4)
    assert depth.pixels == FRAMES * (HEIGHT - HEIGHT // 4) * WIDTH
    assert (depth.frames, depth.frames_with_truth) == (FRAMES, FRAMES)
    assert depth.coverage == pytest.approx(1, abs=0.01)
    assert "published points" in depth.source


def test_a_known_error_is_measured(tmp_path):
    depth = depths()
    depth[:, :, ::4] *= 1.2
    depth[:, -1, 1::4] *= 0.5
    result = evaluated(tmp_path, depth).depth
    lower = 1 / (HEIGHT - HEIGHT // 4) / 4
    assert result.abs_rel == pytest.approx(0.25 * 0.2 + lower * 0.5, abs=3e-4)
    assert result.within_125 == pytest.approx(1 - lower)
    assert result.scale == pytest.approx(1 / UNIT, rel=2e-4)


def test_pixels_that_the_confidence_filter_removed_are_not_covered(tmp_path):
    confidence = np.full((FRAMES, HEIGHT, WIDTH), 5.0)
    confidence[:, :, ::3] = 1.0
    depth = depths()
    depth[:, :, ::3] *= 3  # a large error, if it were compared
    result = evaluated(tmp_path, depth, confidence=confidence).depth
    assert result.abs_rel == pytest.approx(0, abs=2e-4)
    assert result.pixels == FRAMES * (HEIGHT - HEIGHT // 4) * WIDTH * 2 // 3
    # A third of the columns is missing in all frames: the grid's spacing is still that of the others.
    assert result.coverage == pytest.approx(2 / 3, abs=0.01)


def test_a_network_image_of_half_the_size_covers_the_source_image_too(tmp_path):
    result = evaluated(tmp_path, depths()[:, 1::2, 1::2]).depth
    assert result.pixels == FRAMES * (HEIGHT - HEIGHT // 4) * WIDTH // 4
    assert result.coverage == pytest.approx(1, abs=0.02)
    # A network pixel's centre is the corner of four source pixels: the right and lower one is its truth.
    assert result.abs_rel == pytest.approx(0, abs=2e-4)


def test_points_thinned_by_voxels_are_compared_and_cover_little(tmp_path):
    result = evaluated(tmp_path, depths(), options=PublishConfig(voxel_size=1.0)).depth
    assert 0 < result.pixels < FRAMES * WIDTH * HEIGHT // 4
    total = FRAMES * (HEIGHT - HEIGHT // 4) * WIDTH
    assert result.coverage == pytest.approx(result.pixels / total, rel=0.1)
    assert result.abs_rel < 1e-3


def test_a_drive_of_every_second_frame_is_compared_with_those_frames(tmp_path):
    poses = walk(12)
    sequence = write_truth(tmp_path / "truth", poses)
    numbers = np.arange(0, 12, 2)
    folder = publish(tmp_path / "out", moved(poses, UNIT)[numbers], depths(12)[numbers], numbers=numbers)
    result = evaluate(compare(open_estimate(folder), open_truth(str(sequence))))
    assert result.frames.by == "time"
    assert result.depth.abs_rel == pytest.approx(0, abs=2e-4)
    assert result.trajectory.sim3.ate.rmse == pytest.approx(0, abs=1e-6)


def test_a_bad_frame_has_truth_but_no_depth(tmp_path):
    result = evaluated(tmp_path, depths(), bad=(2,)).depth
    assert (result.frames, result.frames_with_truth) == (FRAMES - 1, FRAMES)
    assert result.coverage == pytest.approx((FRAMES - 1) / FRAMES, abs=0.01)


def test_truth_beyond_the_limit_is_left_out(tmp_path):
    poses = walk(FRAMES)
    sequence = write_truth(tmp_path / "truth", poses)
    depth = depths()
    depth[depth > 9 * UNIT] *= 2
    folder = publish(tmp_path / "out", moved(poses, UNIT), depth)
    comparison = compare(open_estimate(folder), open_truth(str(sequence)))
    near = evaluate(comparison, max_depth=9.0).depth
    assert near.abs_rel == pytest.approx(0, abs=2e-4)
    assert near.max_depth == 9.0
    assert near.pixels == sum(((d := true_depth(i)) > 0).sum() - (d > 9).sum() for i in range(FRAMES))
    assert evaluate(comparison).depth.abs_rel > 0.05


@pytest.mark.parametrize(
    ("depth", "options", "note"),
    [
        (False, {}, "the truth has no depth images"),
        (True, {"options": PublishConfig(with_points=False)}, "published without points"),
    ],
)
def test_the_reason_for_missing_depth_is_given(tmp_path, depth, options, note):
    sequence = write_truth(tmp_path / "truth", walk(FRAMES), depth=depth)
    result = evaluated(tmp_path, depths(), sequence, **options)
    assert result.depth is None
    assert note in result.depth_note
    assert result.trajectory.sim3.ate.rmse < 1e-6


def test_points_without_true_depth_give_no_errors(tmp_path):
    confidence = np.full((FRAMES, HEIGHT, WIDTH), 1.0)
    confidence[:, : HEIGHT // 4] = 9.0  # the sky alone
    result = evaluated(tmp_path, depths(), confidence=confidence, options=PublishConfig(confidence_share=5.0))
    assert result.depth is None
    assert result.depth_note == "no published point falls on true depth"


def test_a_depth_image_that_cannot_be_read_is_named(tmp_path):
    sequence = write_truth(tmp_path / "truth", walk(FRAMES))
    (sequence / "depth_0/000003.png").write_bytes(b"no image")
    with pytest.raises(DecodeError, match="frame 3"):
        evaluated(tmp_path, depths(), sequence)


def test_fewer_depth_images_than_frames_are_refused(tmp_path):
    sequence = write_truth(tmp_path / "truth", walk(FRAMES))
    (sequence / "depth_0/000003.png").unlink()
    with pytest.raises(DriveError, match="expected 6 depth images"):
        evaluated(tmp_path, depths(), sequence)


@settings(deadline=None)
@given(
    st.lists(st.floats(1e-4, 1e4), min_size=1, max_size=60),
    st.lists(st.floats(1e-4, 1e4), max_size=60),
)
def test_errors_from_the_histogram_are_those_of_all_values(first, second):
    ratios = Ratios()
    for part in (first, second):
        ratios.add(np.array(part))
    values = np.sort(np.array(first + second))
    assert len(ratios) == len(values)
    median = values[(len(values) - 1) // 2]
    assert ratios.median() == pytest.approx(median, rel=1.1e-4)
    abs_rel, within = ratios.errors(1.0)
    exact = np.abs(1 / values - 1)
    assert abs_rel == pytest.approx(exact.mean(), rel=1.1e-4, abs=1.1e-4)
    edge = np.abs(np.abs(np.log(values)) - np.log(1.25)) < 1e-4
    assert abs(within - (np.abs(np.log(values)) < np.log(1.25)).mean()) <= edge.mean() + 1e-12


def test_no_depth_has_no_median():
    with pytest.raises(ValueError, match="no depth"):
        Ratios().median()


@given(spacing=st.floats(0.5, 4.0), columns=st.integers(10, 60), seed=st.integers(0, 1000))
def test_the_grid_is_found_in_the_points_of_a_frame(spacing, columns, seed):
    rng = np.random.default_rng(seed)
    places = (np.tile(np.arange(columns), 20) + 0.5) * spacing + rng.normal(0, 1e-3, columns * 20)
    kept = places[rng.random(len(places)) < 0.7]
    assert grid_spacing(kept) == pytest.approx(spacing, rel=0.02)


def test_scattered_points_show_no_grid():
    assert np.isnan(grid_spacing(np.random.default_rng(0).uniform(0, 300, 200)))
    assert np.isnan(grid_spacing(np.arange(5.0)))


def test_a_handful_of_points_cover_an_unknown_share(tmp_path):
    confidence = np.full((FRAMES, HEIGHT, WIDTH), 1.0)
    confidence[:, 8, ::5] = 20.0
    result = evaluated(tmp_path, depths(), confidence=confidence, options=PublishConfig(confidence_share=5.0))
    assert result.depth.pixels == FRAMES * 5
    assert result.depth.coverage is None
