import dataclasses

import numpy as np
import pytest

from pipeline.errors import DriveError, StorageError
from pipeline.forward.staging import ChunkPrediction, StagedChunks, attempt_uri, read_chunk, write_chunk


def made_up(first=0, s=3, h=4, w=5):
    rng = np.random.default_rng(first)
    return ChunkPrediction(
        frame_index=np.arange(first, first + s),
        cam_from_world=rng.normal(size=(s, 3, 4)).astype(np.float32),
        intrinsics=rng.normal(size=(s, 3, 3)).astype(np.float32),
        depth=rng.random((s, h, w), np.float32),
        confidence=1 + rng.random((s, h, w), np.float32),
        rgb=rng.integers(0, 256, (s, h, w, 3), dtype=np.uint8),
        ok=np.array([True] * (s - 1) + [False]),
        bad_frames={first + s - 1: "zero bytes"},
    )


def test_a_chunk_comes_back_as_it_was_staged(tmp_path):
    prediction = made_up()
    written = write_chunk(str(tmp_path), 7, prediction)
    assert written == (tmp_path / "chunk-00007.safetensors").stat().st_size
    back = read_chunk(str(tmp_path), 7)
    for field in dataclasses.fields(prediction):
        np.testing.assert_array_equal(getattr(back, field.name), getattr(prediction, field.name))
        if field.name != "bad_frames":
            assert getattr(back, field.name).dtype == getattr(prediction, field.name).dtype


def test_staged_chunks_are_read_when_they_are_used_and_the_last_two_are_kept(tmp_path):
    for number in range(4):
        write_chunk(str(tmp_path), number, made_up(first=2 * number))
    chunks = StagedChunks(str(tmp_path), 4, [0, 1, 2, 30, 31, 32, 33, 34, 35])
    assert len(chunks) == 4
    first = chunks[0]
    assert chunks[0] is first
    assert list(chunks[-1].frame_index) == [33, 34, 35]  # frame numbers of the drive
    chunks[2]
    assert chunks[0] is not first
    assert chunks.bad_frames == {2: "zero bytes", 35: "zero bytes", 33: "zero bytes"}
    with pytest.raises(IndexError):
        chunks[4]
    assert [len(c.frame_index) for c in chunks] == [3, 3, 3, 3]


def test_a_missing_chunk_is_a_storage_error_and_a_broken_one_a_drive_error(tmp_path):
    with pytest.raises(StorageError):
        read_chunk(str(tmp_path), 0)
    write_chunk(str(tmp_path), 0, made_up())
    path = tmp_path / "chunk-00000.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DriveError, match="no staged chunk"):
        read_chunk(str(tmp_path), 0)


@pytest.mark.parametrize("name", ["cam_from_world", "intrinsics", "confidence", "rgb", "ok"])
def test_a_prediction_refuses_arrays_that_do_not_fit(name):
    good = made_up()
    with pytest.raises(ValueError, match=name):
        dataclasses.replace(good, **{name: getattr(good, name)[:1]})


def test_a_prediction_refuses_frames_out_of_order():
    with pytest.raises(ValueError, match="time order"):
        dataclasses.replace(made_up(), frame_index=np.array([2, 1, 3]))


def test_attempts_do_not_share_a_folder():
    assert attempt_uri("/out", "d", "a") != attempt_uri("/out", "d", "b")
