"""Streams of frames on a real (local) Ray equal the plain loop, for every size of the group."""

import gc
import itertools
import pickle
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import ray
import ray.train
from ray.train.torch import TorchTrainer

from pipeline.errors import StorageError
from pipeline.ingest.chunks import plan_chunks
from pipeline.ingest.drives import find_drive
from pipeline.ingest.frames import FrameDataConfig, RankFrames, iter_chunk_windows, local_frames
from pipeline.ingest.preprocess import target_size
from pipeline.ingest.segments import DriveTask, FrameBatch, decode_segment, rank_segments
from tests.ingest.makers import number_of, write_images, write_video

pytestmark = pytest.mark.cluster


def task_of(uri, chunk_size=6, overlap=3, segment_length=None):
    drive = find_drive(str(uri))
    chunks = plan_chunks(drive.frame_count, chunk_size, overlap)
    return DriveTask(drive, 42, 56, chunks, segment_length or chunk_size - overlap)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drives")
    paths = write_images(folder / "many", 23)
    write_images(folder / "single", 1)
    write_video(folder / "ride.mp4", 17)
    task_list = [task_of(folder / "many"), task_of(folder / "single"), task_of(folder / "ride.mp4", 7, 2, 4)]
    paths[9].write_bytes(b"garbage")
    return task_list


def plain_windows(tasks):
    """The plain twin: decode a whole drive, then cut it. {(drive, chunk): (images, ok, reasons)}"""
    windows = {}
    for drive_index, task in enumerate(tasks):
        batches = [decode_segment(s) for s in rank_segments(tasks, 0, 1) if s.drive_index == drive_index]
        images = np.concatenate([batch.images for batch in batches])
        ok = np.concatenate([batch.ok for batch in batches])
        reasons = sum((batch.reasons for batch in batches), ())
        for number, chunk in enumerate(task.chunks):
            part = slice(chunk.start, chunk.stop)
            windows[drive_index, number] = images[part], ok[part], reasons[part]
    return windows


def assert_same(windows, expected):
    assert windows.keys() == expected.keys()
    for key, (images, ok, reasons) in expected.items():
        np.testing.assert_array_equal(windows[key][0], images)
        np.testing.assert_array_equal(windows[key][1], ok)
        assert windows[key][2] == reasons


@pytest.mark.parametrize("world_size", [1, 2, 3, 9])
def test_windows_are_those_of_the_plain_loop_for_any_group(one_ray, tasks, world_size):
    windows = {}
    for rank_frames in local_frames(tasks, world_size):
        for drive_index in range(len(tasks)):
            for number, images, ok, reasons in iter_chunk_windows(rank_frames, drive_index):
                assert number in rank_frames.chunks_of(drive_index) and (drive_index, number) not in windows
                windows[drive_index, number] = images, ok, reasons
        rank_frames.close()
    assert_same(windows, plain_windows(tasks))
    assert "not an image" in windows[0, 2][2][3] and not windows[0, 2][1][3]  # frame 9 is bad in chunk 6-11


def test_a_stream_gives_its_segments_in_order_and_ends(one_ray, tasks):
    rank_frames = local_frames(tasks)[0]
    batches = list(rank_frames.segments())
    planned = list(rank_segments(tasks, 0, 1))
    assert [(b.drive_index, b.start, len(b.ok)) for b in batches] == [
        (s.drive_index, s.start, s.stop - s.start) for s in planned
    ]
    assert list(rank_frames.segments()) == []


def test_the_real_kitti_drive_streams_through(one_ray, shared):
    drive = find_drive(str(shared / "data/kitti/sequences/90"))
    height, width = target_size(drive.source_width, drive.source_height, 518)
    task = DriveTask(drive, height, width, plan_chunks(51, 20, 10), 10)
    windows = list(iter_chunk_windows(local_frames([task])[0], 0))
    assert [images.shape for _, images, _, _ in windows] == [(20, 154, 518, 3)] * 4 + [(11, 154, 518, 3)]
    assert all(ok.all() for _, _, ok, _ in windows)
    for (_, before, _, _), (_, after, _, _) in itertools.pairwise(windows):
        np.testing.assert_array_equal(before[10:20], after[:10])


def test_a_drive_can_be_left_early_but_not_entered_again(one_ray, tasks):
    rank_frames = local_frames(tasks)[0]
    next(iter_chunk_windows(rank_frames, 0))  # only the first chunk of the drive
    expected = plain_windows(tasks)
    windows = {(2, number): rest for number, *rest in iter_chunk_windows(rank_frames, 2)}
    assert_same(windows, {key: value for key, value in expected.items() if key[0] == 2})
    with pytest.raises(ValueError, match="drives come in order"):
        next(iter_chunk_windows(rank_frames, 1))


def test_a_store_that_fails_fails_its_drive_and_not_the_next(one_ray, tasks, tmp_path):
    write_images(tmp_path / "locked", 8)
    broken = task_of(tmp_path / "locked")
    # A store that cannot be reached; where only a file cannot be read, only its frame is bad.
    uris = [*broken.drive.uris]
    uris[4] = "nosuch://locked/frame4.png"
    broken = replace(broken, drive=replace(broken.drive, uris=uris))
    rank_frames = local_frames([broken, tasks[1]])[0]
    with pytest.raises(StorageError, match=r"drive locked, frames 3 to 5: .*frame4.png"):
        list(iter_chunk_windows(rank_frames, 0))
    assert len(list(iter_chunk_windows(rank_frames, 1))) == 1


def test_rank_frames_can_be_pickled_before_the_stream_begins_and_not_after(one_ray, tasks):
    rank_frames = ray.get(ray.put(local_frames(tasks[:2])[0]))
    assert len(list(iter_chunk_windows(rank_frames, 1))) == 1
    with pytest.raises(RuntimeError, match="has begun"):
        pickle.dumps(rank_frames)


def test_configure_makes_new_streams_of_the_pending_drives_for_every_group(one_ray, tasks):
    done = {"many"}
    config = FrameDataConfig(
        tasks, pending=lambda all_tasks: [task for task in all_tasks if task.drive.drive_id not in done]
    )
    for world_size in (2, 1):
        shares = config.configure({"frames": None}, world_size=world_size)
        assert [list(share) for share in shares] == [["frames"]] * world_size
        ranks = [share["frames"] for share in shares]
        assert [task.drive.drive_id for task in ranks[0].tasks] == ["single", "ride"]
        assert sum(len(rank.chunks_of(1)) for rank in ranks) == len(tasks[2].chunks)
        done.add("single") if world_size == 1 else None
    assert len(list(iter_chunk_windows(ranks[0], 1))) == len(tasks[2].chunks)
    done |= {"single", "ride"}
    nothing = config.configure({"frames": None}, world_size=1)[0]["frames"]
    assert nothing.tasks == () and list(nothing.segments()) == []


def test_streams_run_with_the_options_that_were_measured(one_ray, tasks):
    stream = local_frames(tasks, cpus_per_rank=1, object_store_bytes_per_rank=10**8)[0]._stream
    context = stream.get_context()
    assert context.execution_no_progress_timeout_s == -1
    assert context.execution_options.preserve_order
    assert context.execution_options.resource_limits.cpu == 1
    assert context.execution_options.resource_limits.object_store_memory == 10**8


@pytest.mark.full  # in CI, whole jobs run with two and with three workers
def test_two_train_workers_get_their_own_chunks(one_ray, tasks, tmp_path):
    def loop(config):
        rank_frames = ray.train.get_dataset_shard("frames")
        seen = {}
        for drive_index in range(len(rank_frames.tasks)):
            for number, images, ok, _ in iter_chunk_windows(rank_frames, drive_index):
                seen[drive_index, number] = [number_of(image) for image in images[ok]]
        with open(f"{config['out']}/{rank_frames.rank}.pickle", "wb") as file:
            pickle.dump((ray.train.get_context().get_world_rank(), seen), file)

    trainer = TorchTrainer(
        loop,
        train_loop_config={"out": str(tmp_path)},
        scaling_config=ray.train.ScalingConfig(num_workers=2, resources_per_worker={"CPU": 0.5}),
        datasets={"frames": lambda: ray.data.range(1)},
        dataset_config=FrameDataConfig(tasks),
        run_config=ray.train.RunConfig(storage_path=str(tmp_path / "train")),
    )
    trainer.fit()
    seen = {}
    for rank in (0, 1):
        world_rank, part = pickle.loads((tmp_path / f"{rank}.pickle").read_bytes())
        assert world_rank == rank and not part.keys() & seen.keys()
        seen |= part
    expected = plain_windows(tasks)
    assert seen == {key: [number_of(im) for im in images[ok]] for key, (images, ok, _) in expected.items()}


class _Listed(RankFrames):
    """A rank whose segments this test makes one by one, to observe how many images the windows hold."""

    def __init__(self, task, make):
        super().__init__([task], 0, 1, 0, None)
        self._started = (make(segment) for segment in rank_segments([task], 0, 1))


def test_joining_segments_keeps_at_most_a_chunk_the_overlap_and_two_segments(tmp_path):
    write_images(tmp_path / "d", 1)
    drive = find_drive(str(tmp_path / "d"))
    frames, size, overlap, height, width = 300, 20, 8, 42, 56
    long = drive.__class__(**{**vars(drive), "frame_count": frames, "uris": tuple(drive.uris) * frames})
    task = DriveTask(long, height, width, plan_chunks(frames, size, overlap), 12)

    def make(segment):
        count = segment.stop - segment.start
        images = np.empty((count, height, width, 3), np.uint8)
        for i in range(count):
            images[i] = (segment.start + i) % 251
        return FrameBatch(0, segment.start, images, np.ones(count, bool), (None,) * count)

    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for number, images, _, _ in iter_chunk_windows(_Listed(task, make), 0):
        assert list(images[:, 0, 0, 0]) == [frame % 251 for frame in task.chunks[number]]
        del images
    peak = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    one = height * width * 3
    # The window that is being filled, the overlap kept from the last window, a segment in use, and the next segment.
    assert peak < (size + overlap + 12 + 12) * one * 1.05
