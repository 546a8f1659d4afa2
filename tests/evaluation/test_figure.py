import numpy as np
import pytest
from PIL import Image

from pipeline.errors import StorageError
from pipeline.evaluation import trajectory_figure
from tests.evaluation.paths import streets


def test_the_figure_shows_both_paths(tmp_path):
    truth = streets(90, -90)
    off = truth.copy()
    off[:, 0, 3] += np.linspace(0, 5, len(off))
    trajectory_figure(off, truth, str(tmp_path / "a.png"), "drive 07")
    trajectory_figure(truth, truth, str(tmp_path / "b.png"), "drive 07")
    first, second = (np.asarray(Image.open(tmp_path / name).convert("RGB")) for name in ("a.png", "b.png"))
    assert first.shape == second.shape
    assert first.shape[1] > 1000
    assert (first != second).any(-1).mean() > 0.01  # the paths differ, and so do the pictures


def test_a_figure_that_cannot_be_written_is_an_error_of_the_store(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError):
        trajectory_figure(streets(), streets(), str(tmp_path / "file" / "a.png"), "x")
