"""Training steps: the loss falls, rates follow the schedule, and a loss that is not finite stops the run in time."""

import math
from dataclasses import replace

import pytest
import torch

from pipeline.training.checkpoints import settings_json
from pipeline.training.config import OptimizerSettings, TrainConfig, ValidationSettings
from pipeline.training.data import Frames
from pipeline.training.metrics import MetricsFile, plot_metrics, read_metrics
from pipeline.training.run import TrainingError, refuse_foreign_folder, train
from pipeline.training.trainer import NotFiniteError, rate_share
from pipeline.training.validation import compare, score_drive
from tests.training.makers import wall_drive
from tests.training.test_checkpoints import small_trainer


@pytest.mark.full  # in bfloat16, below, CI sees it fall too
def test_the_loss_falls_on_a_handful_of_drives():
    trainer = small_trainer()
    values = [trainer.advance(0.0)["loss"] for _ in range(60)]
    assert sum(values[-10:]) < 0.7 * sum(values[:10])


def test_in_bfloat16_the_loss_falls_too_and_weights_stay_float32():
    trainer = small_trainer(precision="bfloat16")
    plain = small_trainer()
    values = [trainer.advance(0.0)["loss"] for _ in range(40)]
    assert sum(values[-10:]) < 0.8 * sum(values[:10])
    first = plain.advance(0.0)["loss"]
    assert values[0] == pytest.approx(first, rel=0.05) and values[0] != first  # low precision was really used
    assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}


def test_the_field_of_view_has_its_own_weight():
    trainer, heavy = small_trainer(), small_trainer()
    heavy.objective.weights = replace(heavy.objective.weights, fov=50.0)
    assert heavy.advance(0.0)["camera"] > 3 * trainer.advance(0.0)["camera"]


def test_memories_and_backbone_have_separate_rates():
    trainer = small_trainer()
    by_peak = {}
    for group in trainer.optimizer.param_groups:
        group["peak"] = 0.5 if any(p is trainer.model.aggregator.memories["1"].w0 for p in group["params"]) else 0.25
        by_peak.setdefault(group["peak"], []).append(group)
    trainer.advance(0.0)
    share = rate_share(trainer.config.optimizer, 0, 0.0)
    assert [g["lr"] for g in by_peak[0.5]] == [0.5 * share]
    assert all(g["lr"] == 0.25 * share for g in by_peak[0.25])


def test_rates_rise_in_a_line_and_fall_in_a_cosine():
    settings = OptimizerSettings(warmup=100, final_share=0.0)
    assert rate_share(settings, 49, 0.0) == pytest.approx(0.5)
    assert rate_share(settings, 500, 0.5) == pytest.approx(0.5)
    assert rate_share(settings, 500, 0.25) == pytest.approx((1 + math.cos(math.pi / 4)) / 2)
    assert rate_share(settings, 500, 1.0) == pytest.approx(0.0, abs=1e-12)


def test_a_loss_that_is_not_finite_stops_before_the_weights_change():
    trainer = small_trainer()
    with torch.no_grad():
        trainer.model.depth_head.output2[0].bias[0] = float("nan")
    before = {k: v.clone() for k, v in trainer.model.state_dict().items() if v.isfinite().all()}
    with pytest.raises(NotFiniteError, match="not finite at step 0"):
        trainer.advance(0.0)
    assert trainer.step == 0
    assert all(torch.equal(v, trainer.model.state_dict()[k]) for k, v in before.items())


def test_an_empty_pool_without_renderers_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.training.run._POOL_WAIT_S", 0.5)
    config = TrainConfig(output=str(tmp_path), renderers=0, validation=ValidationSettings(drives=0))
    with pytest.raises(TrainingError, match="no drive to train on"):
        train(config)


def test_true_cameras_and_depth_have_no_error_after_any_similarity():
    truth = wall_drive(3, 12)
    moved = truth.world_from_camera.copy()
    moved[:, :3, 3] = 0.3 * moved[:, :3, 3] + 5
    score = compare(moved, truth.depth * 0.3, truth)
    assert score.ate_percent < 1e-6 and score.abs_rel < 1e-5
    assert score.rotation_degrees < 1e-5 < score.rotation_baseline
    still = compare(moved, truth.depth * (1 + 0.5 * (truth.depth > truth.depth.mean())), truth)
    assert still.abs_rel > 0.1


def test_an_untrained_network_can_be_scored():
    truth = wall_drive(4, 16)
    settings = ValidationSettings(chunk=6, overlap=3, frames=16)
    score = score_drive(small_trainer().model.eval(), truth, settings)
    assert math.isfinite(score.ate_percent) and math.isfinite(score.abs_rel)


def test_a_drive_that_does_not_move_cannot_be_scored():
    truth = wall_drive(4, 4)
    poses = truth.world_from_camera[:1].repeat(4, 0)
    with pytest.raises(ValueError, match="does not move"):
        compare(poses, truth.depth, Frames(truth.images, truth.depth, poses, truth.intrinsics))


def test_a_cut_line_of_metrics_is_skipped_and_a_plot_is_made(tmp_path):
    metrics = MetricsFile(tmp_path)
    metrics.write({"kind": "train", "step": 1, "loss": 2.0})
    metrics.write({"kind": "train", "step": 2, "loss": 1.0})
    metrics.write({"kind": "validation", "scope": "full", "step": 2, "ate_percent": 3.0, "abs_rel": float("nan")})
    with metrics.path.open("a") as file:
        file.write('{"kind": "tra')
    rows = read_metrics(metrics.path)
    assert len(rows) == 3 and rows[2]["abs_rel"] is None
    metrics.forget_after(1)
    metrics.write({"kind": "train", "step": 2, "loss": 0.5})
    assert [row.get("loss") for row in read_metrics(metrics.path)] == [2.0, 0.5]
    plot_metrics(metrics.path, tmp_path / "metrics.png")
    assert (tmp_path / "metrics.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "name", ["config.json", "metrics.jsonl", "final.safetensors", "checkpoints/step-1.safetensors"]
)
def test_a_folder_with_foreign_files_is_refused(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text('{"mine": 1}')
    with pytest.raises(TrainingError, match="not of a training run"):
        refuse_foreign_folder(tmp_path)
    assert (tmp_path / name).read_text() == '{"mine": 1}'


def test_a_run_resumes_in_its_own_folder(tmp_path):
    refuse_foreign_folder(tmp_path)
    (tmp_path / "config.json").write_text(settings_json(TrainConfig(output=str(tmp_path))))
    (tmp_path / "metrics.jsonl").write_text("")
    refuse_foreign_folder(tmp_path)
