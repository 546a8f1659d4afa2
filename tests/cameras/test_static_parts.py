import numpy as np

from pipeline.cameras.static_parts import find_static_parts
from pipeline.synthetic.bonnet import bonnet_mask, with_bonnet


def drive(count=40, seed=0):
    """Frames (count, 64, 128, 3) in which everything moves, and the sky stays without a border that does."""
    random = np.random.default_rng(seed)
    frames = random.integers(0, 255, (count, 64, 128, 3), np.uint8)
    frames[:, :12] = 200  # always sky
    for frame in frames:
        heights = random.integers(12, 40, 16)
        for column, height in enumerate(heights):
            frame[12:height, column * 8 : column * 8 + 8] = 200
    return frames


def test_a_bonnet_is_found_and_nothing_where_there_is_none():
    frames = drive()
    assert find_static_parts(frames).all()
    for seed in (0, 1):
        truth = bonnet_mask(seed, 64, 128)
        found = ~find_static_parts(with_bonnet(frames, seed))
        assert (found & truth).sum() / (found | truth).sum() > 0.9


def test_a_bonnet_of_the_usual_road_s_colour_is_told_by_its_calm():
    frames = drive()
    truth = bonnet_mask(0, 64, 128)
    road = np.median(frames[:, 40:], axis=(0, 1, 2))
    frames[:, truth] = np.clip(road + np.random.default_rng(4).normal(0, 2, (len(frames), truth.sum(), 3)), 0, 255)
    step = np.abs(np.diff(np.median(frames.mean(-1), 0), axis=0))
    assert np.median(step[:-1][truth[1:-1] & ~truth[:-2]]) < 8  # no edge there
    found = ~find_static_parts(frames)
    assert (found & truth).sum() / (found | truth).sum() > 0.9


def test_a_time_stamp_and_black_borders_are_found():
    frames = drive()
    frames[:, :, :6] = 0
    frames[:, 50:58, 90:120] = np.random.default_rng(3).choice([0, 255], (8, 30, 1))
    found = ~find_static_parts(frames)
    assert found[:, :6].mean() > 0.9 and found[50:58, 90:120].mean() > 0.8
    assert found[:, 8:88].mean() < 0.01


def test_a_car_that_stands_or_drives_by_night_hides_nothing():
    frames = drive()
    assert find_static_parts(np.repeat(frames[:1], 40, 0)).all()
    assert find_static_parts(frames // 64).all()
    assert find_static_parts(with_bonnet(frames[:10], 5)).all()  # too few to say


def test_clouds_that_stand_still_are_not_part_of_the_car():
    frames = drive(40)
    clouds = np.kron(np.random.default_rng(2).integers(0, 2, (6, 32)), np.ones((2, 4), bool)).astype(bool)
    frames[:, :12][:, clouds] = 225
    assert find_static_parts(frames).all()


def test_large_pictures_are_searched_in_small_ones():
    frames = drive()
    truth = bonnet_mask(1, 64, 128)
    large = with_bonnet(frames, 1).repeat(3, 1).repeat(3, 2)[:, :-2, :-1]
    found = ~find_static_parts(large)
    assert found.shape == (190, 383)
    whole = truth.repeat(3, 0).repeat(3, 1)[:-2, :-1]
    assert (found & whole).sum() / (found | whole).sum() > 0.9
