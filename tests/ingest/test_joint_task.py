"""Frames of two drives become chunks of one task: their windows alternate, and each is decoded as its drive was."""

import pickle

import numpy as np
import pytest
from PIL import Image

from pipeline.ingest.joint_task import FrameWindow, joint_task
from pipeline.ingest.segments import rank_segments
from tests.ingest.makers import number_of, write_video


def window(folder, name, values, size=(56, 28)):
    """A window of plain pictures with a dark edge, whose grey values say which frame is which."""
    uris = []
    for number, value in enumerate(values):
        image = np.full((size[1], size[0], 3), value, np.uint8)
        image[:, :4] = 0
        uris.append(str(folder / f"{name}-{number}.png"))
        Image.fromarray(image).save(uris[-1])
    return FrameWindow(name, tuple(range(len(values))), tuple(uris), None, size)


def test_frames_of_both_windows_alternate_in_a_chunk(tmp_path):
    pairs = [
        (window(tmp_path, "a", (10, 20, 30)), window(tmp_path, "b", (110, 120, 130), (112, 84))),
        (window(tmp_path, "c", (40, 50, 60)), window(tmp_path, "d", (140, 150, 160))),
    ]
    task = joint_task("joint", pairs, 28, 56)
    assert task.frame_count == 12 and task.chunks == (range(6), range(6, 12))
    found = [pickle.loads(pickle.dumps(one)).decode() for one in rank_segments([task], 0, 1)]
    assert [batch.start for batch in found] == [0, 6] and all(batch.ok.all() for batch in found)
    assert found[0].images.shape == (6, 28, 56, 3)
    assert found[0].images[:, 14, 28, 0].tolist() == [10, 110, 20, 120, 30, 130]
    assert found[1].images[:, 14, 28, 0].tolist() == [40, 140, 50, 150, 60, 160]
    assert [one.start for one in rank_segments([task], 1, 2)] == [6]  # the second rank's chunk


def test_a_frame_that_cannot_be_read_is_grey_at_its_place_and_has_a_reason(tmp_path):
    first, second = window(tmp_path, "a", (10, 20)), window(tmp_path, "b", (110, 120))
    (tmp_path / "b-0.png").write_bytes(b"no picture")
    (batch,) = (one.decode() for one in rank_segments([joint_task("joint", [(first, second)], 28, 56)], 0, 1))
    assert batch.ok.tolist() == [True, False, True, True] and "b-0.png" in batch.reasons[1]
    assert batch.images[1].min() == batch.images[1].max() == 128


def test_frames_of_a_video_are_found_by_their_numbers_and_without_a_film_they_are_bad(tmp_path):
    film = write_video(tmp_path / "film.mp4", 12)
    (tmp_path / "none.mp4").write_bytes(b"nothing")
    seen = FrameWindow("a", (2, 7), (str(film),) * 2, (2, 7), (64, 48))
    none = FrameWindow("b", (0, 1), (str(tmp_path / "none.mp4"),) * 2, (0, 1), (64, 48))
    (batch,) = (one.decode() for one in rank_segments([joint_task("joint", [(seen, none)], 48, 64)], 0, 1))
    assert batch.storage_failure is None and batch.ok.tolist() == [True, False, True, False]
    assert [number_of(image) for image in batch.images[::2]] == [2, 7]
    assert all("none.mp4" in reason for reason in batch.reasons[1::2])


def test_windows_of_different_lengths_are_refused(tmp_path):
    pair = window(tmp_path, "a", (10, 20)), window(tmp_path, "b", (110,))
    with pytest.raises(ValueError, match=r"one length above 0, got \[1, 2\]"):
        joint_task("joint", [pair], 28, 56)
    with pytest.raises(ValueError, match="one length"):
        joint_task("joint", [], 28, 56)
