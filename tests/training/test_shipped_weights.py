"""The weights that come with the project have the accuracy of their description, on a drive not used in training."""

import pytest
import torch

from models import ModelConfig, open_checkpoint
from models.config import WEIGHTS_FOLDER
from pipeline.synthetic import CityDrive
from pipeline.training.config import ValidationSettings
from pipeline.training.data import Frames
from pipeline.training.validation import score_drive

WEIGHTS = WEIGHTS_FOLDER / "city_tiny.safetensors"


def test_the_weights_are_small_and_fit_the_preset():
    assert WEIGHTS.stat().st_size <= 25_000_000
    assert open_checkpoint(WEIGHTS).config == ModelConfig.city_tiny()


@pytest.mark.slow
def test_the_published_weights_reconstruct_a_drive_not_used_in_training():
    frames = 120
    rendered = CityDrive(900, frames, 64, 128, supersample=2).render(range(frames))
    truth = Frames(rendered.images, rendered.depth, rendered.world_from_camera, rendered.intrinsics)
    with torch.no_grad():
        score = score_drive(open_checkpoint(WEIGHTS), truth, ValidationSettings())
    assert score.ate_percent < 4
    assert score.turning_degrees < 0.25 * score.turning_baseline
    assert score.abs_rel < 0.22
