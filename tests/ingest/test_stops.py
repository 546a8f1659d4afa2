"""Standing frames are found through noise, flicker and traffic; driving frames stay; borders leave turns."""

import itertools
from functools import lru_cache

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.ingest.chunks import owned_frames, plan_chunks
from pipeline.ingest.stops import StopConfig, kept_frames, shift_borders, still_frames, turning
from pipeline.synthetic import CityDrive

CONFIG = StopConfig()


def thumbnail(image):
    return np.asarray(Image.fromarray(image).convert("L").resize((64, 32), Image.Resampling.BOX))


@lru_cache(maxsize=1)
def city_drive():
    """Grey thumbnails (260, 32, 64) of a drive with a red light, and metres driven since the frame before (260,)."""
    drive = CityDrive(804, 1200, 56, 112)
    waits = np.flatnonzero(drive.route.speed == 0)
    start = int(waits[waits > 130][0]) - 130
    frames = range(start, start + 260)
    pictures = np.stack([thumbnail(image) for image in drive.render(frames).images])
    place = drive.world_from_camera[start : start + 260, :3, 3]
    return pictures, np.concatenate([[1.0], np.linalg.norm(np.diff(place, axis=0), axis=1)])


def with_stop(length):
    """The drive waiting `length` frames longer: pictures (260 + length, h, w), metres since the frame before."""
    pictures, metres = city_drive()
    light = int(np.flatnonzero(metres < 1e-9)[-1])
    order = np.concatenate([np.arange(light + 1), np.full(length, light), np.arange(light + 1, 260)])
    moved = metres[order].copy()
    moved[light + 1 : light + 1 + length] = 0.0
    return pictures[order], moved


@pytest.mark.parametrize("length", [50, 300])
def test_a_stop_of_5_to_30_seconds_is_left_out_and_driving_is_not(length):
    pictures, metres = with_stop(length)
    still = still_frames(pictures, CONFIG)
    assert still[metres < 1e-9].mean() > 0.9
    assert not still[metres > 0.1].any()
    kept = kept_frames(still)
    assert 240 <= len(kept) <= 262


def test_noise_flicker_and_a_lorry_do_not_end_a_stop():
    pictures, metres = with_stop(150)
    rng = np.random.default_rng(0)
    seen = pictures * (1 + 0.05 * rng.normal(size=(len(pictures), 1, 1))) + rng.normal(0, 1, pictures.shape)
    standing = np.flatnonzero(metres < 1e-9)
    crossing = standing[60:80]
    for step, frame in enumerate(crossing):  # 44 of 64 pixels wide
        left = -44 + 5 * step
        seen[frame, 6:, max(left, 0) : max(left + 44, 0)] = 60 + 8 * (step % 3)
    still = still_frames(np.clip(seen, 0, 255).astype(np.uint8), CONFIG)
    clear = np.setdiff1d(standing, crossing)
    assert still[clear].mean() > 0.9
    assert still[clear[clear > crossing[-1]]].mean() > 0.9  # the stop goes on behind the lorry
    assert not still[metres > 0.3].any()


def test_slow_motion_adds_up():
    texture = np.random.default_rng(1).integers(30, 220, (32, 16)).astype(np.float32)
    wide = np.stack([np.interp(np.arange(4000) / 10, np.arange(400), np.resize(row, 400)) for row in texture])

    def picture(shift):  # the shift in tenths of a pixel
        return wide[:, 1000 + shift : 1640 + shift : 10].astype(np.uint8)

    creeping = np.stack([picture(frame // 5) for frame in range(200)])  # 0.02 pixels a frame
    still = still_frames(creeping, StopConfig(motion=0.15, min_frames=2))
    kept = kept_frames(still)
    assert 20 <= len(kept) <= 60  # some frames are kept and some are left out
    assert max(np.diff(kept)) <= 15
    standing = np.stack([picture(0)] * 200)
    assert still_frames(standing, CONFIG).sum() == 199


def test_nothing_stands_still_in_the_real_clip(shared):
    paths = sorted((shared / "data/kitti/sequences/90/image_0").glob("*.png"))
    assert len(paths) == 51
    pictures = np.stack([thumbnail(np.asarray(Image.open(path))) for path in paths])
    assert not still_frames(pictures, CONFIG).any()
    twice = np.repeat(pictures, 8, axis=0)
    assert still_frames(twice, CONFIG).sum() == 51 * 7


@pytest.fixture(scope="module")
def far_view(shared):
    """Thumbnails of a clip in which little is near."""
    with av.open(str(shared / "data/telemetry/karma.mp4")) as clip:
        return np.stack([thumbnail(frame.to_ndarray(format="gray")) for frame in clip.decode(video=0)])


@pytest.mark.parametrize("every", [1, 3])
def test_a_view_that_is_mostly_far_away_hardly_seems_to_stand_while_near_things_move(far_view, every):
    pictures = far_view[::every]
    assert still_frames(pictures, CONFIG).mean() <= 0.05
    assert still_frames(np.repeat(pictures[:20], 8, axis=0), CONFIG).sum() >= 20 * 7


@pytest.mark.parametrize("moving", ["below", "above"])
def test_a_still_bonnet_and_still_far_things_do_not_mean_that_the_car_stands(moving):
    texture = np.random.default_rng(2).integers(40, 210, (32, 640)).astype(np.float32)
    texture = np.stack([np.convolve(row, np.ones(3) / 3, "same") for row in texture])
    pictures = np.repeat(texture[None, :, :64], 60, axis=0)
    # the moving part: the road ahead, or all except the bonnet
    rows = slice(20, 32) if moving == "below" else slice(0, 24)
    for number in range(60):
        pictures[number, rows] = texture[rows, number : number + 64]
    assert not still_frames(pictures.astype(np.uint8), CONFIG).any()


def test_pictures_that_show_nothing_are_kept():
    grey = np.full((40, 32, 64), 128, np.uint8)
    assert not still_frames(grey, CONFIG).any()
    pictures, metres = with_stop(60)
    bad = pictures.copy()
    middle = np.flatnonzero(metres < 1e-9)[30]
    bad[middle] = 128  # a corrupt frame within the stop
    still = still_frames(bad, CONFIG)
    assert not still[middle]
    assert still[middle + 1 : middle + 20].all()


def test_short_runs_and_short_drives_are_kept():
    pictures, _ = with_stop(60)
    assert not still_frames(pictures, StopConfig(min_frames=200)).any()
    assert still_frames(pictures[:0], CONFIG).shape == (0,)
    assert not still_frames(pictures[:1], CONFIG).any()


@given(st.lists(st.booleans(), min_size=1, max_size=80), st.integers(1, 20))
def test_kept_frames_hold_both_ends_all_motion_and_no_long_gap(still, keep_every):
    kept = kept_frames(np.array(still), keep_every)
    assert kept[0] == 0
    assert kept[-1] == len(still) - 1
    assert list(kept) == sorted(set(kept))
    assert {frame for frame, standing in enumerate(still) if not standing} <= set(kept)
    assert max(np.diff(kept), default=0) <= keep_every
    if all(still):
        assert len(kept) <= 2 + (len(still) - 1) // keep_every


def test_turning_has_the_sign_and_size_of_the_turn():
    pictures, _ = city_drive()
    wide = np.concatenate([pictures[40], pictures[60]], 1)  # (32, 128): a panorama in which the view turns
    right = np.stack([wide[:, shift : shift + 64] for shift in (0, 3, 3, 1)])
    assert turning(right) == pytest.approx(np.array([0, 3, 0, -2]) / 64, abs=0.01)
    brighter = right.copy()
    brighter[1] = np.clip(brighter[1] * 1.1, 0, 255)
    assert turning(brighter) == pytest.approx(turning(right), abs=0.01)


@st.composite
def plans(draw):
    size = draw(st.integers(2, 40))
    overlap, frames = draw(st.integers(0, size - 1)), draw(st.integers(1, 200))
    turned = draw(st.integers(0, 2**32 - 1).map(lambda seed: np.random.default_rng(seed).exponential(0.05, frames)))
    return frames, size, overlap, np.float32(turned), draw(st.integers(0, 50))


@given(plans())
@settings(max_examples=200)
def test_shifted_chunks_keep_all_properties_of_planned_chunks(plan):
    frames, size, overlap, turned, reach = plan
    chunks = plan_chunks(frames, size, overlap)
    shifted = shift_borders(chunks, turned, overlap, reach)
    assert shifted[0].start == 0
    assert shifted[-1].stop == frames
    assert max(map(len, shifted)) <= max(map(len, chunks))
    assert all(len(chunk) >= max(size - reach, overlap + 1) for chunk in shifted[:-1])
    assert all(before.stop - after.start == overlap for before, after in itertools.pairwise(shifted))
    assert [f for own in owned_frames(shifted) for f in own] == list(range(frames))
    if reach == 0:
        assert shifted == chunks


@given(plans())
def test_a_straight_drive_has_no_more_chunks_than_planned(plan):
    frames, size, overlap, _, reach = plan
    chunks = plan_chunks(frames, size, overlap)
    assert len(shift_borders(chunks, np.zeros(frames, np.float32), overlap, reach)) == len(chunks)


def test_borders_leave_a_turn():
    turned = np.zeros(200, np.float32)
    turned[52:62] = 0.1
    chunks = plan_chunks(200, 60, 20)
    assert any(52 <= chunk.stop < 62 for chunk in chunks)
    shifted = shift_borders(chunks, turned, 20, 15)
    borders = [border for a, b in itertools.pairwise(shifted) for border in (a.stop, b.start)]
    assert not any(50 < border < 64 for border in borders)
    assert len(shifted) <= len(chunks) + 1


@pytest.mark.parametrize(
    "call",
    [
        lambda: StopConfig(motion=0),
        lambda: StopConfig(quiet_share=1.5),
        lambda: StopConfig(min_frames=0),
        lambda: StopConfig(keep_every=0),
        lambda: kept_frames(np.zeros(3, bool), 0),
        lambda: still_frames(np.zeros((4, 32, 64), np.float32), CONFIG),
        lambda: turning(np.zeros((4, 4, 64), np.uint8)),
        lambda: shift_borders((), np.zeros(4, np.float32), 1, 1),
        lambda: shift_borders((range(4), range(2, 6)), np.zeros(5, np.float32), 2, 1),
        lambda: shift_borders((range(4), range(2, 6)), np.zeros(6, np.float32), 1, 1),
        lambda: shift_borders((range(4), range(2, 6)), np.zeros(6, np.float32), 2, -1),
    ],
)
def test_invalid_settings_are_refused(call):
    with pytest.raises(ValueError):
        call()
