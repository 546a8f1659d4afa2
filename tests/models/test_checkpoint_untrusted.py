"""Weights files that are cut off, malicious or of another kind are refused in one line; no code in them is run."""

import os
import pickle
from pathlib import Path

import pytest
import torch

from models import CheckpointError, open_checkpoint
from models.checkpoint import read_tensors
from tests.models.checkpoints import write
from tests.models.golden import TINY


class _Malice:
    """Pickles as a command that creates a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return (os.mkdir, (str(self.mark),))


@pytest.mark.parametrize("how", ["torch", "torch_legacy", "pickle"])
def test_pickled_objects_other_than_tensors_are_refused_and_not_executed(state, tmp_path, how):
    path, mark = tmp_path / "weights.pt", tmp_path / "executed"
    held = {"agg_regator.camera_token": state["agg_regator.camera_token"], "extra": _Malice(mark)}
    if how == "pickle":
        path.write_bytes(pickle.dumps(held))
    else:
        torch.save(held, path, _use_new_zipfile_serialization=how == "torch")
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path, TINY)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    if how == "torch":
        assert "contains more than tensors, so it is refused" in str(caught.value)
    assert not mark.exists()
    pickle.loads(pickle.dumps(_Malice(mark)))  # unpickled, it does create the file
    assert mark.exists()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("left", [0, 4, 100, 0.5, -1])
def test_truncated_files_are_refused_by_name_in_one_line(state, tmp_path, suffix, left):
    path = write(state, tmp_path / f"weights{suffix}")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(left * len(whole)) if isinstance(left, float) else left])
    with pytest.raises(CheckpointError, match="weights") as caught:
        open_checkpoint(path, TINY)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("held", [{}, {"a": 1}, {"model": {"a": "text"}}, [torch.ones(1)], torch.ones(2)])
def test_a_file_that_is_not_a_state_dict_is_refused(tmp_path, held):
    path = tmp_path / "weights.pt"
    torch.save(held, path)
    with pytest.raises(CheckpointError, match="is not a state dict of tensors"):
        read_tensors(path)


def test_a_file_that_is_not_there_and_a_folder_are_refused(tmp_path):
    for path in (tmp_path / "absent.pt", tmp_path):
        with pytest.raises(CheckpointError, match=f"no weights file at {path}"):
            open_checkpoint(path, TINY)


def test_a_text_file_with_the_suffix_of_weights_is_refused(tmp_path):
    for name in ("weights.pt", "weights.safetensors"):
        (tmp_path / name).write_text("<html>not found</html>" * 100)
        with pytest.raises(CheckpointError, match=name):
            open_checkpoint(tmp_path / name, TINY)
