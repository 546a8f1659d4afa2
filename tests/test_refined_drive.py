"""A staged drive is refined, joined and judged by its images; without Ray, as in jobs.realign."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from pipeline import image_tables
from pipeline.backend import Verdict, assess_quality, join_chunks
from pipeline.cameras.camera import Camera
from pipeline.cameras.known_camera import KnownCamera
from pipeline.forward.staging import ChunkPrediction, write_chunk
from pipeline.image_tables import consistent_points, evidence_columns, track_columns
from pipeline.image_verdict import WitnessedChunks, judge_images
from pipeline.refine.grid import Grid
from pipeline.refine.problem import inverse
from pipeline.refine.rotation import exp
from pipeline.refine.track_files import write_linked
from pipeline.refine.window import Window, merge_chunks, plan_windows
from pipeline.refined_chunks import RefinedChunks
from pipeline.refined_drive import (
    Refined,
    StagedFrames,
    kept_refinement,
    link_tracks,
    refine_staged,
)
from pipeline.staged_drive import with_estimated_camera
from pipeline.tracked_drive import Pictures
from tests.publish.drives import small_drive
from tests.refine.scene import CAMERA, NET, SOURCE, Scene, drive, turned_apart

CHUNKS = (range(12), range(6, 18), range(12, 24))


def prediction(window: Window, frames: range, scale: float) -> ChunkPrediction:
    """A chunk of these frames with its own gauge and scale."""
    part = slice(frames.start, frames.stop)
    poses = window.cam_from_window[part] @ inverse(window.cam_from_window[part][:1])
    poses[:, :3, 3] *= scale
    return ChunkPrediction(
        window.frame_index[part],
        poses[:, :3].astype(np.float32),
        window.intrinsics[part].astype(np.float32),
        window.depth[part] * np.float32(scale),
        window.confidence[part],
        window.rgb[part],
        window.ok[part],
    )


def staged(folder: Path, scene: Scene, turn: float) -> StagedFrames:
    window = scene.window(turn=turn, shift=0.05)
    for number, (frames, scale) in enumerate(zip(CHUNKS, (1.0, 1.7, 0.6), strict=True)):
        write_chunk(str(folder / "try"), number, prediction(window, frames, scale))
    write_linked(str(folder / "tracks"), 0, scene.tracks)
    kept = tuple(range(len(window.frame_index)))
    matrix = Grid.of(SOURCE, NET).camera_from_source(CAMERA)
    camera = Camera("pinhole", *NET, *(float(matrix[at]) for at in ((0, 0), (1, 1), (0, 2), (1, 2))))
    return StagedFrames(str(folder / "try"), str(folder / "tracks"), len(CHUNKS), kept, Pictures(SOURCE, NET), camera)


@pytest.fixture(scope="module")
def scene() -> Scene:
    return drive(frames=24, points=1500)


@pytest.fixture(scope="module")
def refined_drive(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> tuple[StagedFrames, Refined]:
    frames = staged(tmp_path_factory.mktemp("refined"), scene, turn=0.01)
    return frames, refine_staged(frames)


def test_windows_hold_whole_chunks_and_reach_the_end() -> None:
    short = [range(k * 6, k * 6 + 12) for k in range(20)]
    windows = plan_windows(short)
    assert windows[0] == range(9) and windows[-1].stop == 20
    assert all(after.start < before.stop for before, after in pairwise(windows))
    assert plan_windows([range(k * 30, k * 30 + 60) for k in range(3)]) == (range(1), range(1, 2), range(2, 3))
    assert plan_windows([range(5)]) == (range(1),)


def test_chunks_of_other_scales_are_chained_into_one_window(scene: Scene) -> None:
    window = scene.window()
    scales = (1.0, 1.7, 0.6)
    merged = merge_chunks([prediction(window, f, s) for f, s in zip(CHUNKS, scales, strict=True)])
    np.testing.assert_allclose(merged.cam_from_window, window.cam_from_window, atol=1e-4)
    np.testing.assert_allclose(merged.depth, window.depth, rtol=1e-5)


def test_a_refined_drive_passes_the_check_of_its_images(
    scene: Scene, refined_drive: tuple[StagedFrames, Refined]
) -> None:
    frames, refined = refined_drive
    assert refined.taken == len(refined.windows) == 1 and not refined.notes
    kept = kept_refinement(frames)
    assert kept is not None and (kept.windows, kept.taken) == (refined.windows, 1)
    chunks = WitnessedChunks(RefinedChunks(frames, refined), frames)
    joined = join_chunks(chunks, kept=frames.kept)
    assert turned_apart(joined.world_from_camera, scene.world_from_camera) < 0.001
    verdict, pairs = judge_images(assess_quality(joined), joined, chunks, frames, refined, refined.camera)
    assert verdict.figures["image_share"] > 0.95 and verdict.figures["windows_refined"] == 1
    assert not any("contradict the cameras" in f.reason for f in verdict.findings)
    assert len(pairs) == 22 and all(pair.judged for pair in pairs)


def test_corners_that_three_frames_see_become_points_of_the_result(
    refined_drive: tuple[StagedFrames, Refined], monkeypatch: pytest.MonkeyPatch
) -> None:
    frames, refined = refined_drive
    chunks = WitnessedChunks(RefinedChunks(frames, refined), frames)
    joined = join_chunks(chunks, kept=frames.kept)
    columns = track_columns(frames, refined, joined)
    assert columns is not None
    point, frame = (np.asarray(columns[name], np.int64) for name in ("point_index", "frame_index"))
    assert np.bincount(point).min() >= 3 and len(np.unique(point)) > 300
    xyz, rays = (np.stack([np.asarray(columns[axis], np.float64) for axis in axes], -1) for axes in ("xyz", "uv"))
    pose = inverse(joined.world_from_camera)[frame]
    local = np.einsum("nij,nj->ni", pose[:, :3, :3], xyz) + pose[:, :3, 3]
    off = CAMERA[0] * np.linalg.norm(local[:, :2] / local[:, 2:] - rays, axis=1)
    assert off.mean() < 0.6 and off.max() < 2.5
    assert np.isin(np.unique(frame), joined.frame_index).all()
    asked = replace(frames, outlines=())  # staged by a version that did not store this value
    np.testing.assert_array_equal(frames.window_places(range(3)), asked.window_places(range(3)))
    assert track_columns(frames, replace(refined, accepted=(False,)), joined) is None
    assert len(np.unique(np.stack([point, frame]), axis=1).T) == len(point)  # each once, though windows share frames
    monkeypatch.setattr(image_tables, "_BLOCK", 700)
    in_blocks = track_columns(frames, refined, joined)
    assert in_blocks is not None and len(point) > 3 * 700
    for name, column in columns.items():
        np.testing.assert_array_equal(in_blocks[name], column)
    _, pairs = judge_images(assess_quality(joined), joined, chunks, frames, refined, refined.camera)
    evidence = evidence_columns(pairs, joined)
    first, second = (np.asarray(evidence[name], np.int64) for name in ("frame_index", "second_frame_index"))
    assert (second - first == 2).all() and evidence["judged"].all()


def test_observations_that_miss_their_point_are_left_out(scene: Scene) -> None:
    xy = scene.tracks.xy.copy()
    spoilt = np.arange(len(xy)) % 40 == 0
    xy[spoilt] += 30
    rays = replace(scene.tracks, xy=(xy - CAMERA[2:]) / CAMERA[:2])
    kept, points = consistent_points(rays, inverse(scene.world_from_camera), 2.0 / CAMERA[0])
    assert len(points) == len(np.unique(kept.track)) > 300
    key = scene.tracks.track * 100 + scene.tracks.frame
    assert not np.isin(kept.track * 100 + kept.frame, key[spoilt]).any()
    nothing = consistent_points(rays.select(rays.frame < 2), inverse(scene.world_from_camera), 0.01)
    assert not len(nothing[0]) and nothing[1].shape == (0, 3)


@pytest.mark.parametrize("fault", ["none", "turned", "scaled", "random"])
def test_a_fault_added_after_refinement_does_not_pass(refined_drive: tuple[StagedFrames, Refined], fault: str) -> None:
    frames, refined = refined_drive
    chunks = WitnessedChunks(RefinedChunks(frames, refined), frames)
    joined = join_chunks(chunks, kept=frames.kept)
    poses = joined.world_from_camera.copy()
    stretch = slice(8, 16)
    if fault == "turned":
        poses[stretch, :3, :3] = exp(np.array([[0, np.radians(3), 0]]))[0] @ poses[stretch, :3, :3]
    elif fault == "scaled":
        steps = np.diff(poses[:, :3, 3], axis=0)
        steps[stretch] *= 1.2
        poses[1:, :3, 3] = poses[0, :3, 3] + np.cumsum(steps, axis=0)
    elif fault == "random":
        turn = np.random.default_rng(0).normal(0, 0.05, (len(poses), 3))
        poses[:, :3, :3] = exp(turn) @ poses[:, :3, :3]
    spoilt = replace(joined, world_from_camera=poses)
    verdict, _ = judge_images(Verdict("pass", (), (), {}), spoilt, chunks, frames, refined, refined.camera)
    cameras = [f for f in verdict.findings if "dense depth" not in f.reason]  # the depth of the scene is flat
    assert bool(cameras) == (fault != "none"), [f.reason for f in cameras]


@pytest.mark.parametrize("refine", [True, False])
def test_a_calibration_that_the_images_contradict_does_not_pass(scene: Scene, tmp_path: Path, refine: bool) -> None:
    frames = staged(tmp_path, scene, turn=0.0 if refine else 0.002)
    assert frames.camera is not None
    wrong = replace(frames.camera, fx=1.3 * frames.camera.fx, fy=1.3 * frames.camera.fy)
    frames = replace(frames, camera=wrong)
    refined = refine_staged(frames, refine=refine)
    chunks = WitnessedChunks(RefinedChunks(frames, refined) if refined.taken else frames.chunks(), frames)
    joined = join_chunks(chunks, kept=frames.kept)
    verdict, _ = judge_images(Verdict("pass", (), (), {}), joined, chunks, frames, refined, frames.camera)
    assert any("focal length" in f.reason or "the cameras" in f.reason for f in verdict.findings)


def test_a_guessed_camera_is_corrected_by_the_images_and_published_as_estimated(scene: Scene, tmp_path: Path) -> None:
    """EXIF says a focal length that is 20 % too long."""
    frames = staged(tmp_path, scene, turn=0.0)
    assert frames.camera is not None
    guess = replace(frames.camera, fx=1.2 * frames.camera.fx, fy=1.2 * frames.camera.fy)
    frames = replace(frames, camera=guess, guessed=True)
    refined = refine_staged(frames)
    assert refined.taken and refined.camera is not None
    assert abs(np.log(refined.camera.fx * 1.2 / guess.fx)) < 0.03
    kept = kept_refinement(frames)
    assert kept is not None and kept.camera == refined.camera
    source = Camera("pinhole", *SOURCE, 1.2 * CAMERA[0], 1.2 * CAMERA[1], *CAMERA[2:])
    known = KnownCamera(source, "exif")
    facts = replace(small_drive().facts, camera=known, network_camera=guess)
    published = with_estimated_camera(facts, frames, refined)
    assert published.camera is not None and published.camera.origin == "estimated"
    assert abs(np.log(published.camera.camera.fx / CAMERA[0])) < 0.03 and published.network_camera == refined.camera
    assert with_estimated_camera(facts, frames, replace(refined, accepted=(False,) * len(refined.windows))) is facts
    assert with_estimated_camera(facts, replace(frames, guessed=False), refined) is facts


def test_the_same_drive_without_refinement_does_not_pass(scene: Scene, tmp_path: Path) -> None:
    frames = staged(tmp_path, scene, turn=0.01)
    unrefined = refine_staged(frames, refine=False)
    assert kept_refinement(frames) is None
    chunks = WitnessedChunks(frames.chunks(), frames)
    joined = join_chunks(chunks, kept=frames.kept)
    verdict, _ = judge_images(assess_quality(joined), joined, chunks, frames, unrefined, frames.camera)
    assert verdict.level != "pass"
    assert any("images contradict the cameras" in f.reason for f in verdict.findings)


def test_without_tracks_nothing_is_refined(tmp_path: Path, scene: Scene) -> None:
    frames = staged(tmp_path, scene, turn=0.0)
    (tmp_path / "tracks" / "linked-0000000.arrow").unlink()
    assert not link_tracks(frames)
    refined = refine_staged(frames)
    assert refined.taken == 0 and len(refined.notes) == 1
