"""Results of one drive are compared in one world."""

import numpy as np
import pytest

from pipeline.errors import DriveError
from pipeline.publish import open_drive
from pipeline.report.colours import PATH
from pipeline.report.comparison import changed_settings, compare_with
from pipeline.report.drive_view import DriveView
from tests.report.drives import CONFIG, publish, truth_file


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compared")
    publish(folder / "full", folder / "source")
    publish(folder / "chunk", folder / "source", config={**CONFIG, "memory_scope": "chunk"}, noise=0.05, seed=1)
    publish(folder / "other", folder / "elsewhere", frames=24)
    for path in (folder / "elsewhere").glob("*.png"):
        path.unlink()
    truth_file(folder / "truth.txt")
    return folder


def view(outputs):
    return DriveView.of(open_drive(str(outputs / "full"), "bend"))


def test_another_result_is_aligned_measured_and_named_by_its_different_settings(outputs):
    compared = compare_with(view(outputs), [(None, str(outputs / "chunk"))], None, PATH)
    (other,) = compared.others
    assert other.name == "memory_scope chunk"
    assert 0.02 < other.rmse < 0.12 and compared.unit == "units"
    assert np.linalg.norm(other.positions - view(outputs).path, axis=1).max() < 0.3


def test_with_truth_errors_are_metres_from_it(outputs):
    own_view = view(outputs)
    compared = compare_with(own_view, [("noisy", str(outputs / "chunk" / "bend"))], str(outputs / "truth.txt"), PATH)
    assert compared.own.rmse < 1e-6 < 0.02 < compared.others[0].rmse
    assert compared.unit == "m" and compared.metres == pytest.approx(1.0)
    np.testing.assert_allclose(compared.truth_path, own_view.path, atol=1e-6)
    assert compared.others[0].name == "noisy"


def test_a_file_of_poses_is_compared_without_points(outputs):
    compared = compare_with(view(outputs), [(None, str(outputs / "truth.txt"))], None, PATH)
    assert compared.others[0].drive is None and compared.others[0].rmse < 1e-6


def test_results_with_equal_names_get_different_names(outputs):
    twice = [("run", str(outputs / "chunk")), ("run", str(outputs / "chunk"))]
    assert [one.name for one in compare_with(view(outputs), twice, None, PATH).others] == ["run", "run (2)"]


def test_a_result_of_another_drive_is_refused(tmp_path, outputs):
    source = tmp_path / "source"
    source.mkdir()
    for number in range(24):
        (source / f"{number:06d}.png").write_bytes(b"x" * (500 + number))
    publish(tmp_path / "out", source, frames=24)
    with pytest.raises(DriveError, match="is not a result of drive bend"):
        compare_with(view(outputs), [(None, str(tmp_path / "out"))], None, PATH)


def test_settings_without_an_effect_on_the_result_are_not_shown_as_differences():
    assert changed_settings(CONFIG, {**CONFIG, "workers": 4}) == {}
    assert changed_settings(CONFIG, {**CONFIG, "backend": {"scale": False}}) == {"backend.scale": (True, False)}
