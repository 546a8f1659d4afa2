from dataclasses import replace

import numpy as np
import pytest
import torch

from models.pose_encoding import decode_pose
from pipeline.forward.budgets import Budgets
from pipeline.forward.memory_sync import LocalSync
from pipeline.forward.phases import DrivePhases, DroppedDrive
from pipeline.forward.rank_job import ForwardSettings
from pipeline.forward.state_store import TieredStore
from tests.forward.drives import (
    CHUNKS,
    FRAMES,
    LOOPS,
    FixedFinder,
    frames,
    host_store,
    network,
    read_again,
    share_of,
    windows_of,
)

CPU = torch.device("cpu")


def run(settings=None, windows=None, model=None, finder=None, read=read_again, store=None, share=None):
    """Run the drive through all phases on one rank; return predictions by chunk and the reported progress."""
    staged, told = {}, []
    phases = DrivePhases(
        model or network(),
        LocalSync(),
        store or host_store(),
        settings or ForwardSettings(),
        CPU,
        lambda phase, count: told.append((phase, count)),
        finder,
        read,
        lambda count: told.append(("found", count)),
    )
    share = share or share_of(0, 1)
    phases.run(share, windows or windows_of(share), staged.__setitem__)
    return staged, told, phases


@pytest.mark.parametrize("scope", ["drive", "chunk", "off"])
def test_the_phases_give_the_numbers_of_the_plain_twin(scope):
    images = torch.from_numpy(frames()).permute(0, 3, 1, 2).float() / 255
    plain = network().forward_drive(images, CHUNKS, with_points=False, memory_scope=scope)
    staged, _, _ = run(ForwardSettings(memory_scope=scope))
    assert sorted(staged) == list(range(len(CHUNKS)))
    for number, expected in enumerate(plain):
        order = np.argsort(expected.frame_index.numpy())
        cam_from_world, intrinsics = decode_pose(expected.pose_encoding, 28, 56)
        np.testing.assert_array_equal(staged[number].frame_index, list(CHUNKS[number]))
        np.testing.assert_allclose(staged[number].depth, expected.depth.numpy()[order], rtol=1e-4)
        np.testing.assert_allclose(staged[number].confidence, expected.depth_confidence.numpy()[order], rtol=1e-4)
        np.testing.assert_allclose(staged[number].cam_from_world, cam_from_world.numpy()[order], rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(staged[number].intrinsics, intrinsics.numpy()[order], rtol=1e-4)
        np.testing.assert_array_equal(staged[number].rgb, frames()[list(CHUNKS[number])])


def test_each_scope_of_the_memory_gives_other_predictions():
    depths = [run(ForwardSettings(memory_scope=scope))[0][1].depth for scope in ("drive", "chunk", "off")]
    assert np.abs(depths[0] - depths[1]).max() > 1e-4
    assert np.abs(depths[1] - depths[2]).max() > 1e-4


def test_progress_counts_every_frame_once_and_every_chunk_once_a_phase():
    _, told, _ = run()
    counted = {}
    for phase, count in told:
        counted[phase] = counted.get(phase, 0) + count
    k = len(CHUNKS)
    assert counted == {"frames": FRAMES, "layers 2/3": k, "layers 3/3": k, "cameras and depth": k}


def test_a_frame_in_two_chunks_is_encoded_once():
    model = network()
    encoded = []
    inner = model.encode
    model.encode = lambda images: encoded.append(len(images)) or inner(images)
    run(model=model)
    assert sum(encoded) == FRAMES


def test_bad_frames_are_staged_with_their_reasons_and_keep_their_place():
    staged, _, _ = run(windows=windows_of(share_of(0, 1), bad=frozenset({4})))
    assert staged[0].bad_frames == {4: "corrupt"}
    assert staged[1].bad_frames == {4: "corrupt"}  # frame 4 lies in the overlap
    assert list(staged[0].ok) == [True, True, True, True, False, True]


def test_too_many_bad_frames_drop_the_drive_and_say_how_many():
    bad = frozenset(range(4))  # 4 of 17 frames are bad
    with pytest.raises(DroppedDrive, match=r"4 of 17 frames are bad.*20%.*--max-bad-share"):
        run(windows=windows_of(share_of(0, 1), bad=bad))
    staged, _, _ = run(ForwardSettings(max_bad_share=0.25), windows_of(share_of(0, 1), bad=bad))
    assert len(staged) == len(CHUNKS)


def test_a_failure_while_frames_arrive_drops_the_drive_and_frees_the_store():
    def broken():
        yield from list(windows_of(share_of(0, 1)))[:2]
        raise OSError("the store went away")

    phases = DrivePhases(network(), LocalSync(), host_store(), ForwardSettings(), CPU, lambda phase, count: None)
    with pytest.raises(DroppedDrive, match="made-up: the store went away") as caught:
        phases.run(share_of(0, 1), broken(), lambda number, prediction: None)
    assert isinstance(caught.value.__cause__, OSError)
    assert phases.store.nbytes == 0


def test_a_failure_while_staging_drops_the_drive():
    def full(number, prediction):
        raise OSError("no space left on device")

    phases = DrivePhases(network(), LocalSync(), host_store(), ForwardSettings(), CPU, lambda phase, count: None)
    with pytest.raises(DroppedDrive, match="made-up: no space left"):
        phases.run(share_of(0, 1), windows_of(share_of(0, 1)), full)


def test_the_error_of_a_lost_device_is_passed_on_because_only_a_new_process_helps():
    def broken():
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
        yield

    phases = DrivePhases(network(), LocalSync(), host_store(), ForwardSettings(), CPU, lambda phase, count: None)
    with pytest.raises(RuntimeError, match="illegal memory access") as caught:
        phases.run(share_of(0, 1), broken(), lambda number, prediction: None)
    assert not isinstance(caught.value, DroppedDrive)


def test_numbers_that_are_not_finite_are_refused_with_the_frame():
    model = network()
    model.depth_head.output2[2].bias[0] = float("nan")
    with pytest.raises(DroppedDrive, match="depth is not finite at frame 0"):
        run(model=model)
    # the drive's own frame numbers, where frames without motion are left out
    share = replace(share_of(0, 1), numbers=tuple(range(40, 40 + FRAMES)))
    with pytest.raises(DroppedDrive, match="depth is not finite at frame 40"):
        run(model=model, share=share)


def test_loop_chunks_take_part_like_any_other_chunk():
    images = torch.from_numpy(frames()).permute(0, 3, 1, 2).float() / 255
    chunks = [*CHUNKS, *(loop.frames for loop in LOOPS)]
    plain = network().forward_drive(images, chunks, with_points=False)
    staged, told, _ = run(finder=FixedFinder())
    assert sorted(staged) == list(range(len(chunks)))
    for number, expected in enumerate(plain):
        order = np.argsort(expected.frame_index.numpy())
        assert tuple(staged[number].frame_index) == tuple(chunks[number])
        np.testing.assert_allclose(staged[number].depth, expected.depth.numpy()[order], rtol=1e-4)
    without = run()[0]
    assert np.abs(without[0].depth - staged[0].depth).max() > 1e-5  # loop chunks changed the memory
    assert ("found", len(LOOPS)) in told
    assert told.count(("loops", 1)) == len(LOOPS)


def test_the_finder_is_given_every_frame_once_in_time_order_with_the_bad_ones_marked():
    finder = FixedFinder()
    run(finder=finder, windows=windows_of(share_of(0, 1), bad=frozenset({4})))
    descriptors, usable = finder.asked
    tokens = network().encode(torch.from_numpy(frames()).permute(0, 3, 1, 2).float() / 255).numpy()
    np.testing.assert_allclose(descriptors, tokens.mean(1), rtol=1e-4, atol=1e-5)
    assert list(np.flatnonzero(~usable)) == [4]


def test_frames_of_a_loop_that_cannot_be_read_again_drop_the_drive():
    def gone(frames):
        raise OSError("bucket gone")

    with pytest.raises(DroppedDrive, match="bucket gone"):
        run(finder=FixedFinder(), read=gone)


def test_a_failure_before_the_search_for_loops_is_the_one_that_is_reported():
    def broken():
        yield next(iter(windows_of(share_of(0, 1))))
        raise OSError("the store went away")

    with pytest.raises(DroppedDrive, match="went away"):
        run(finder=FixedFinder(), windows=broken())


def test_the_result_is_the_same_for_every_budget_and_no_chunk_is_left_in_the_store(tmp_path):
    plain = run()[0]
    whole = host_store()
    run(store=whole)
    most = whole.peak["host"]
    folder = str(tmp_path)
    for host in (most, most // 2, most // 3):
        store = TieredStore(CPU, Budgets(0, host, most, folder))
        staged = run(store=store)[0]
        assert store.peak["host"] <= host
        assert (store.moved["scratch"] > 0) == (store.peak["scratch"] > 0)
        for number, expected in plain.items():
            for name in ("depth", "confidence", "cam_from_world", "intrinsics", "rgb"):
                np.testing.assert_array_equal(getattr(staged[number], name), getattr(expected, name))
        assert store.nbytes == 0
        store.close()
    assert store.moved["scratch"] > most  # several times, once at each barrier
    assert list(tmp_path.iterdir()) == []


def test_a_drive_that_fits_into_no_budget_is_dropped_and_the_error_names_the_budget_to_raise():
    with pytest.raises(DroppedDrive, match=r"raise --scratch or --host-memory"):
        run(store=host_store(host=200_000, scratch=100_000))
    with pytest.raises(DroppedDrive, match=r"raise --host-memory to .* or more"):
        run(store=host_store(host=1000, scratch=10**9))


def test_a_drive_is_dropped_when_memory_runs_out_and_the_error_names_the_budget_to_lower():
    def exhausted():
        yield next(iter(windows_of(share_of(0, 1))))
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    with pytest.raises(DroppedDrive, match="--gpu-memory"):
        run(windows=exhausted())
    with pytest.raises(DroppedDrive, match=r"lower --host-memory \(now 1GB a worker\)"):
        torch_says = "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"

        def full():
            raise RuntimeError(torch_says)
            yield

        run(windows=full())
