"""Places seen twice are found; places that only look alike, and a standing car, are not taken for revisits."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.backend.loop_detection import (
    LoopCandidate,
    LoopConfig,
    TokenDetector,
    _path_similarity,
    find_revisits,
    loop_windows,
    pool_tokens,
    suppress,
    whiten,
)
from pipeline.synthetic import CityDrive

SMALL = LoopConfig(min_gap=20, suppression=10, sequence=4)


def places(rng, count, width=64, smooth=4):
    """A drive's unit descriptors (count, width) that change smoothly from frame to frame."""
    rows = rng.normal(size=(count + 4 * smooth, width))
    kernel = np.hanning(2 * smooth + 1)
    rows = np.stack([np.convolve(column, kernel, "same") for column in rows.T], 1)[2 * smooth :][:count]
    return unit(rows)


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def noisy(rng, rows, amount):
    return unit(rows + amount * rng.normal(size=rows.shape) / np.sqrt(rows.shape[1]))


def plain_path_similarity(rows, config):
    """The plain twin: the best path to and from each pair over the whole matrix at once."""
    similar = (rows @ rows.T).astype(np.float64)
    decay = np.exp(-1 / config.sequence)

    def one_way(matrix):
        reached = matrix.copy()
        for i in range(1, len(matrix)):
            for j in range(len(matrix)):
                best = max(reached[i - 1, max(j - step, 0)] for step in (0, 1, 2) if j - step >= 0)
                reached[i, j] = (1 - decay) * matrix[i, j] + decay * best
        return reached

    return (one_way(similar) + one_way(similar[::-1, ::-1])[::-1, ::-1]) / 2


@pytest.mark.parametrize("block", [7, 32, 500])
def test_blocks_give_the_same_similarities_as_the_whole_matrix(block):
    rng = np.random.default_rng(3)
    rows = places(rng, 90)
    rows[60:] = noisy(rng, rows[5:35], 0.3)
    config = LoopConfig(sequence=3)
    expected = plain_path_similarity(rows, config)
    for start, along, _ in _path_similarity(rows, config, block):
        for k, row in enumerate(along):
            seen = max(start + k - 16, 0)  # paths of neighbouring frames leave the block; such pairs are never used
            assert np.abs(row[:seen] - expected[start + k, :seen]).max(initial=0) < 0.005


@pytest.mark.parametrize("speed", [0.5, 1.0, 1.9])
def test_a_stretch_driven_again_at_another_speed_is_found(speed):
    rng = np.random.default_rng(4)
    first = places(rng, 300, smooth=8)
    again = 100 + np.arange(round(80 / speed)) * speed
    back = noisy(rng, first[np.round(again).astype(int)], 0.5)
    rows = np.concatenate([first, back, places(rng, 50, smooth=8)])
    found = find_revisits(rows, SMALL)
    assert found
    assert all(abs(c.first - (100 + (c.second - 300) * speed)) < 8 for c in found)
    covered = {c.second for c in found}
    assert all(min(abs(frame - c) for c in covered) <= 20 for frame in range(305, 300 + len(back) - 5))


def test_a_single_frame_that_looks_like_another_one_is_no_revisit():
    rng = np.random.default_rng(5)
    rows = places(rng, 300, smooth=2)
    rows[200] = rows[40]  # one frame is the same, those before and after it are not
    assert np.allclose(rows[200], rows[40])
    assert find_revisits(rows, LoopConfig(min_gap=20)) == ()


def test_a_car_that_stands_is_no_revisit():
    rng = np.random.default_rng(6)
    moving = places(rng, 200)
    rows = np.concatenate([moving[:100], noisy(rng, np.repeat(moving[100:101], 150, 0), 0.2), moving[101:]])
    assert find_revisits(rows, SMALL) == ()


def test_the_gap_counts_frames_that_look_different():
    rng = np.random.default_rng(7)
    rows = places(rng, 200)
    rows[100:140] = rows[30:70]  # 70 frames later
    near, far = (find_revisits(rows, LoopConfig(min_gap=gap, sequence=4)) for gap in (40, 90))
    assert near
    assert far == ()


def test_bad_frames_match_nothing_and_do_not_change_the_other_matches():
    rng = np.random.default_rng(8)
    rows = np.abs(places(rng, 240)) * 3
    rows[140:200] = rows[20:80]
    usable = np.ones(240, bool)
    usable[[30, 31, 150, 220]] = False
    rows[~usable] = np.nan
    white = whiten(rows, 48, usable)
    assert np.isfinite(white).all()
    assert not white[~usable].any()
    found = TokenDetector(SMALL).candidates(rows, usable)
    assert found
    assert all(abs(c.second - c.first - 120) <= 6 for c in found)
    with pytest.raises(ValueError, match="finite"):
        TokenDetector(SMALL).candidates(rows)


def test_whitened_descriptors_have_equal_variance_and_unit_length():
    rng = np.random.default_rng(9)
    rows = (rng.normal(size=(400, 30)) * np.linspace(0.1, 9, 30) + 5).astype(np.float32)
    white = whiten(rows, 12)
    assert white.shape == (400, 12)
    assert np.linalg.norm(white, axis=1) == pytest.approx(1, abs=1e-5)
    assert white.var(0) == pytest.approx(1 / 12, rel=0.15)


@pytest.mark.parametrize("count", [0, 1, 3, 40])
def test_short_and_motionless_drives_have_no_loops(count):
    rows = np.ones((count, 16), np.float32)
    assert TokenDetector().candidates(rows) == ()


@given(st.lists(st.tuples(st.integers(0, 200), st.integers(1, 100), st.floats(0, 1)), max_size=60), st.integers(1, 40))
@settings(max_examples=60)
def test_suppression_keeps_the_best_of_each_neighbourhood(drawn, distance):
    given_ones = [LoopCandidate(first, first + gap, score) for first, gap, score in drawn]
    kept = suppress(given_ones, distance)

    def near(a, b):
        return max(abs(a.first - b.first), abs(a.second - b.second)) < distance

    assert [c.similarity for c in kept] == sorted((c.similarity for c in kept), reverse=True)
    assert not any(near(a, b) for a in kept for b in kept if a is not b)
    assert all(any(near(c, k) and k.similarity >= c.similarity for k in kept) for c in given_ones)


@given(st.integers(2, 300), st.integers(1, 50), st.data())
def test_windows_lie_inside_the_drive_apart_and_hold_their_frame(count, window, data):
    first = data.draw(st.integers(0, count - 2))
    second = data.draw(st.integers(first + 1, count - 1))
    earlier, later = loop_windows(LoopCandidate(first, second, 0.5), count, window)
    assert first in earlier
    assert second in later
    assert 0 <= earlier.start < earlier.stop <= later.start < later.stop <= count
    assert max(len(earlier), len(later)) <= window
    if second - first >= window and count >= 2 * window and first >= window and second + window <= count:
        assert len(earlier) == len(later) == window


def test_pooling_ignores_brightness_and_keeps_where_things_are():
    rng = np.random.default_rng(10)
    tokens = rng.normal(size=(3, 4 * 8, 200)).astype(np.float32)
    pooled = pool_tokens(tokens, (4, 8))
    assert pooled.shape == (3, 2 * 128 * 8)
    assert pooled.dtype == np.float32
    assert np.allclose(pooled, pool_tokens(tokens * 1.7 + 0.4, (4, 8)), atol=1e-3)
    mirrored = tokens.reshape(3, 4, 8, 200)[:, :, ::-1].reshape(3, 32, 200)
    cells = pooled.reshape(3, 2, 4, 256)
    assert np.allclose(pool_tokens(mirrored, (4, 8)).reshape(3, 2, 4, 256), cells[:, :, ::-1], atol=1e-5)
    assert not np.allclose(cells, cells[:, :, ::-1], atol=0.1)


@pytest.mark.parametrize("grid", [(1, 1), (1, 37), (11, 37), (5, 9)])
def test_every_patch_changes_the_descriptor_for_any_grid(grid):
    patches = grid[0] * grid[1]
    tokens = np.random.default_rng(11).normal(size=(1, patches, 8)).astype(np.float32)
    base = pool_tokens(tokens, grid)
    for patch in range(patches):
        other = tokens.copy()
        other[0, patch] = -other[0, patch]
        assert not np.array_equal(pool_tokens(other, grid), base)


@pytest.mark.parametrize(
    "call",
    [
        lambda: LoopConfig(threshold=1.2),
        lambda: LoopConfig(top=0),
        lambda: LoopConfig(min_gap=0),
        lambda: LoopCandidate(5, 5, 0.9),
        lambda: LoopCandidate(-1, 5, 0.9),
        lambda: loop_windows(LoopCandidate(1, 9, 0.5), 9),
        lambda: loop_windows(LoopCandidate(1, 9, 0.5), 10, 0),
        lambda: pool_tokens(np.zeros((2, 30, 8), np.float32), (4, 8)),
        lambda: whiten(np.zeros(5, np.float32), 4),
    ],
)
def test_invalid_settings_and_descriptors_are_refused(call):
    with pytest.raises(ValueError):
        call()


def test_memory_does_not_grow_with_the_square_of_the_drive():
    rng = np.random.default_rng(12)
    rows = unit(rng.normal(size=(3000, 32)))
    tracemalloc.start()
    try:
        find_revisits(rows, LoopConfig(), block=64)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 10e6  # all pairs would be 36 MB


def test_loops_are_found_in_a_city_drive_around_a_block():
    """Untrained: random projections of raw patches, at half the frame rate."""
    frames = np.arange(0, 460, 2)
    drive = CityDrive(814, 1200, 56, 112)  # from frame 359 on it drives along a street it has seen
    images = drive.render(frames).images.astype(np.float32) / 255
    patches = images.reshape(len(frames), 4, 14, 8, 14, 3).transpose(0, 1, 3, 2, 4, 5).reshape(len(frames), 32, -1)
    found = TokenDetector(LoopConfig(min_gap=30, sequence=5, suppression=12)).candidates(pool_tokens(patches, (4, 8)))
    pose = drive.world_from_camera[frames]
    place, ahead = pose[:, :2, 3], pose[:, :2, 2]

    def same_place(c):
        near = np.linalg.norm(place[c.first] - place[c.second]) < 12
        return near and ahead[c.first] @ ahead[c.second] > 0.75

    right = [c for c in found if same_place(c)]
    assert len(right) >= 4
    assert len(found) - len(right) <= 1
    again = range(185, len(frames))
    covered = [any(abs(frame - c.second) <= 12 for c in right) for frame in again]
    assert np.mean(covered) >= 0.9
