"""Faults that are put into a drive are reported, and nothing else is."""

from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from pipeline.backend import QualityConfig, Verdict, assess_quality, join_chunks

WRONG = 6  # the chunk with the fault: frames 180 to 240


def verdict(scenario: Any) -> Verdict:
    return assess_quality(join_chunks(scenario.chunks))


def only_about_the_fault(found: Verdict) -> None:
    assert found.findings
    for finding in found.findings:
        assert finding.frames.start >= 150 and finding.frames.stop <= 271, finding
    for chunk in found.chunks:
        assert chunk.level == "pass" or abs(chunk.chunk - WRONG) <= 1


@pytest.mark.parametrize("noise", [0.5, 1, 2, 3])
def test_a_healthy_drive_passes(make: Callable[..., Any], noise: float) -> None:
    found = verdict(make(seed=3, limit=500, noise=noise, loops=0))
    assert found.level == "pass" and not found.findings
    assert all(chunk.level == "pass" for chunk in found.chunks)


@pytest.mark.parametrize("part", ["depth", "cameras"])
def test_a_chunk_whose_depth_and_motion_differ_in_scale_is_found(make: Callable[..., Any], part: str) -> None:
    scenario = make(seed=1, limit=500, loops=0)
    chunk = scenario.chunks[WRONG]
    if part == "depth":
        chunk.depth = chunk.depth * 1.2
    else:
        chunk.cam_from_world = chunk.cam_from_world * np.array([1, 1, 1, 1.2])
    found = verdict(scenario)
    assert found.level == "fail"
    assert [f.chunk for f in found.findings if f.kind == "noisy chunk"] == [WRONG]
    only_about_the_fault(found)


def test_a_chunk_of_another_scale_is_found_in_a_metric_drive(make: Callable[..., Any]) -> None:
    scenario = make(seed=1, limit=500, loops=0)
    for number, chunk in enumerate(scenario.chunks):
        truth = scenario.world_from_cam[chunk.frame_index, :3, 3]
        scale = np.linalg.norm(truth - truth[0]) / np.linalg.norm(chunk.cam_from_world[:, :, 3])
        scale *= 1.6 if number == WRONG else 1
        chunk.depth = chunk.depth * scale
        chunk.cam_from_world = chunk.cam_from_world * np.array([1, 1, 1, scale])
    found = verdict(scenario)
    assert [(f.kind, f.chunk) for f in found.findings] == [("scale jump", WRONG)]


@pytest.mark.parametrize("seed", [1, 2])
def test_a_chunk_with_five_times_the_noise_is_found(make: Callable[..., Any], drives: ModuleType, seed: int) -> None:
    scenario = make(seed=seed, limit=500, loops=0)
    rng = np.random.default_rng(seed)
    frames = scenario.chunks[WRONG].frame_index
    scenario.chunks[WRONG] = drives._predict(scenario.world_from_cam, frames, rng, 8, 20, 5.0)
    found = verdict(scenario)
    assert [f.chunk for f in found.findings if f.kind == "noisy chunk"] == [WRONG]
    only_about_the_fault(found)


def test_a_missing_overlap_is_found(make: Callable[..., Any]) -> None:
    scenario = make(seed=1, limit=500, loops=0)
    chunk = scenario.chunks[WRONG]
    keep = chunk.frame_index > scenario.chunks[WRONG - 1].frame_index.max()
    for name in ("frame_index", "cam_from_world", "depth", "confidence"):
        setattr(chunk, name, getattr(chunk, name)[keep])
    found = verdict(scenario)
    assert found.level == "fail" and "missing overlap" in [f.kind for f in found.findings]
    only_about_the_fault(found)


def test_an_overlap_without_depth_is_found(make: Callable[..., Any]) -> None:
    scenario = make(seed=1, limit=500, loops=0)
    chunk = scenario.chunks[WRONG]
    chunk.confidence = np.where((chunk.frame_index < 210)[:, None, None], 0, chunk.confidence)
    found = verdict(scenario)
    assert [(f.level, f.kind, f.frames) for f in found.findings] == [("fail", "no depth", range(180, 210))]


def test_a_jump_of_the_car_is_found(make: Callable[..., Any]) -> None:
    joined = join_chunks(make(seed=1, limit=500, loops=0).chunks)
    joined.world_from_camera[200:, 0, 3] += 10 * np.linalg.norm(joined.world_from_camera[100, :3, 3]) / 100
    found = assess_quality(joined)
    assert [(f.kind, f.frames.start) for f in found.findings] == [("speed", 199)]


def test_a_verdict_consists_of_plain_values(make: Callable[..., Any]) -> None:
    import json

    scenario = make(seed=1, limit=500, loops=0)
    scenario.chunks[WRONG].depth = scenario.chunks[WRONG].depth * 1.2
    stored = json.loads(json.dumps(verdict(scenario).to_dict(), allow_nan=False))
    assert stored["verdict"] == "fail" and stored["findings"][0]["reason"]
    assert len(stored["chunks"]) == len(scenario.chunks)
    assert stored["chunks"][WRONG]["level"] == "fail" and stored["chunks"][0]["level"] == "pass"
    assert stored["chunks"][WRONG]["log_scale"] > stored["chunks"][0]["log_scale"]


def test_thresholds_must_be_in_order() -> None:
    with pytest.raises(ValueError, match="noise"):
        QualityConfig(noise_warn=9)
    with pytest.raises(ValueError, match="inliers"):
        QualityConfig(inliers_fail=0.9)


def test_overlaps_that_agree_to_a_share_of_the_way_are_no_fault_where_that_is_said(make: Callable[..., Any]) -> None:
    scenario = make(seed=1, limit=200, loops=0)
    joined = join_chunks(scenario.chunks)
    assert all(0 < edge.residual_share < 0.05 for edge in joined.edges)
    loud = replace(joined.edges[0], noise=(1.0, 20.0, 1.0))
    noisy = replace(joined, edges=(loud, *joined.edges[1:]))
    assert "positions" in str(assess_quality(noisy).findings)
    assert "positions" not in str(assess_quality(noisy, least_residual=0.05).findings)
    turned = replace(joined, edges=(replace(loud, noise=(20.0, 20.0, 1.0)), *joined.edges[1:]))
    assert "rotations" in str(assess_quality(turned, least_residual=0.05).findings), "rotations count all the same"
