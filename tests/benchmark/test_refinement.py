"""The benchmark of refinement: a small drive with and without refinement, and with faults that the test puts in."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs.benchmark import main
from pipeline.benchmark.refinement import RefinementBenchmark, drift_of_scale, kept, spoil_chunk
from pipeline.forward.staging import ChunkPrediction


@pytest.mark.full
@pytest.mark.cluster
@pytest.mark.usefixtures("one_ray")
def test_a_rendered_drive_is_measured_with_and_without_refinement_and_with_faults(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--refine.drives", "1", "--refine.frames", "30", "--refine.faulty", "1", "--refine.supersample", "1"]
    words += ["--refine.folder", str(tmp_path / "kept")]
    main(["--what", "refine", *words, "--json", str(tmp_path / "refine.json")])
    found = json.loads((tmp_path / "refine.json").read_text())
    (drive,) = found["drives"]
    assert 0 < drive["refined"]["rotation"] < drive["plain"]["rotation"]
    assert 0 < drive["refined"]["depth"] < 50 and drive["refine_seconds"] > 0 and drive["track_seconds"] > 0
    assert {(one["fault"], one["refine"]) for one in found["faults"]} == {
        (fault, refine) for fault in ("random", "turned", "scaled", "focal") for refine in (False, True)
    }
    wrong = [one for one in found["faults"] if one["fault"] == "random" and not one["refine"]]
    assert wrong[0]["verdict"] != "pass" and wrong[0]["reasons"]
    assert "fault random: passes" in capsys.readouterr().out
    assert len(list((tmp_path / "kept" / "figures").iterdir())) == 5


def test_what_was_measured_before_is_taken_from_the_folder(tmp_path: Path) -> None:
    asked = []

    def measure() -> list[float]:
        asked.append(1)
        return [0.5]

    assert [kept(tmp_path, "00-turned", measure) for _ in range(2)] == [[0.5], [0.5]]
    assert kept(tmp_path, "01-turned", measure) == [0.5] and len(asked) == 2


def chunk() -> ChunkPrediction:
    poses = np.tile(np.eye(3, 4, dtype=np.float32), (4, 1, 1))
    poses[:, 2, 3] = -np.arange(4)
    return ChunkPrediction(
        np.arange(4),
        poses,
        np.tile(np.eye(3, dtype=np.float32), (4, 1, 1)),
        np.ones((4, 2, 2), np.float32),
        np.ones((4, 2, 2), np.float32),
        np.zeros((4, 2, 2, 3), np.uint8),
        np.ones(4, np.bool_),
    )


def test_each_injected_fault_changes_the_chunk_as_its_name_says() -> None:
    rng = np.random.default_rng(0)
    scaled, turned, random = (spoil_chunk(chunk(), fault, rng) for fault in ("scaled", "turned", "random"))
    np.testing.assert_allclose(scaled.cam_from_world[:, :, 3], 1.2 * chunk().cam_from_world[:, :, 3])
    cosine = np.cos(np.radians(3))
    np.testing.assert_allclose(turned.cam_from_world[:, 0, 0], cosine, rtol=1e-6)
    here, there = (
        -np.einsum("nji,nj->ni", one.cam_from_world[:, :, :3], one.cam_from_world[:, :, 3]) for one in (turned, chunk())
    )
    np.testing.assert_allclose(here, there, atol=1e-6, err_msg="cameras look aside and stay where they are")
    turns = random.cam_from_world[:, :, :3]
    np.testing.assert_allclose(turns @ turns.transpose(0, 2, 1), np.tile(np.eye(3), (4, 1, 1)), atol=1e-6)
    assert (random.depth > 0).all() and random.depth.std() > 0


def test_drift_is_the_largest_ratio_of_steps_over_the_smallest_and_one_for_a_drive_without_motion() -> None:
    true = np.zeros((41, 3))
    true[:, 2] = np.arange(41)
    estimate = true.copy()
    estimate[20:, 2] += 0.2 * np.arange(21)
    assert drift_of_scale(estimate, true) == pytest.approx(1.2)
    assert drift_of_scale(estimate, 0.1 * true) == 1.0


@pytest.mark.parametrize("wrong", [{"drives": 0}, {"frames": 29}, {"faulty": -1}])
def test_settings_that_cannot_be_measured_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"refine\.{next(iter(wrong))}"):
        RefinementBenchmark(**wrong)
