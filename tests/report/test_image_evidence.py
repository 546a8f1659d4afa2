"""What a report says of the images: shares of tracks by frame, and the worst pair as a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.publish import open_drive
from pipeline.report.colours import LEVELS
from pipeline.report.drive_view import DriveView
from pipeline.report.image_evidence import ImageEvidence, worst_pair
from tests.report.drives import FRAMES, draw_corners, evidence, images, publish


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Frames 12 to 14 show squares that move to the right, which no car does that drives forward."""
    folder = tmp_path_factory.mktemp("evidence")
    images(folder / "source")
    draw_corners(folder / "source", range(12, 15))
    publish(folder / "out", folder / "source", evidence=evidence({12: 0.1, 20: 0.4}))
    publish(folder / "out", folder / "source", "flat", evidence=evidence({3: 0.5}))
    publish(folder / "out", folder / "source", "unseen")
    return folder / "out"


def coloured(picture: np.ndarray, level: str) -> float:
    return float((np.abs(picture.astype(int) - LEVELS[level]).max(-1) < 40).mean())


def test_the_worst_pair_shows_corners_and_the_lines_that_they_miss(output: Path) -> None:
    view = DriveView.of(open_drive(str(output), "bend"))
    found = ImageEvidence.of(view)
    assert found is not None
    share, distance = found.by_frame(FRAMES)
    assert share[12] == 0.1 and share[11] == 0.98 and np.isnan(share[FRAMES - 1]) and distance[12] > distance[11]
    worst = worst_pair(view, found)
    assert worst is not None and worst.picture is not None
    assert worst.title.endswith("frames 12 and 14") and "10% of 40 tracks" in worst.note
    assert worst.picture.size == (960, 2 * 800 + 6)
    halves = np.split(np.asarray(worst.picture)[[*range(800), *range(806, 1606)]], 2)
    assert coloured(halves[0], "fail") > 0.0005, "corners"
    assert coloured(halves[1], "fail") > 3 * coloured(halves[0], "fail"), "lines as well"


def test_without_images_or_corners_the_worst_pair_is_named_without_a_picture(output: Path, tmp_path: Path) -> None:
    flat = DriveView.of(open_drive(str(output), "flat"))
    worst = worst_pair(flat, ImageEvidence.of(flat))  # type: ignore[arg-type]
    assert worst is not None and worst.picture is None and "no corner can be followed" in worst.note
    away = DriveView.of(open_drive(str(output), "bend", images_from=str(tmp_path)))
    worst = worst_pair(away, ImageEvidence.of(away))  # type: ignore[arg-type]
    assert worst is not None and worst.picture is None and "no picture: frame 12" in worst.note
    assert ImageEvidence.of(DriveView.of(open_drive(str(output), "unseen"))) is None


def test_of_pairs_that_nothing_judges_none_is_the_worst() -> None:
    number, unknown = np.arange(3), np.full(3, np.nan)
    assert ImageEvidence(number, number + 2, number, unknown, unknown).worst() is None
    few = ImageEvidence(number, number + 2, np.array([4, 40, 40]), np.array([0.0, 0.5, 0.5]), np.array([9.0, 1, 2]))
    assert few.worst() == 2, "of pairs with many tracks, the one that is farther off"
