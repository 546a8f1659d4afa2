import numpy as np

from pipeline.cameras.camera import Camera
from pipeline.forward.camera_chunks import CameraChunks, ChunkMasks, covered, static_parts
from pipeline.forward.staging import ChunkPrediction, StagedChunks, write_chunk
from pipeline.synthetic.bonnet import bonnet_mask, with_bonnet
from tests.cameras.test_static_parts import drive

H, W = 64, 128


def staged(folder, count=4, size=10, focal=76.0):
    """Chunks of a car that drives ahead, with all frames kept; the predicted focal lengths vary from frame to frame."""
    random = np.random.default_rng(1)
    pictures = with_bonnet(drive(count * size), 0)
    for number in range(count):
        frames = np.arange(number * size, (number + 1) * size)
        poses = np.tile(np.eye(3, 4, dtype=np.float32), (size, 1, 1))
        poses[:, 2, 3] = -np.arange(size)
        k = np.tile(np.array([[focal, 0, W / 2], [0, focal / 2, H / 2], [0, 0, 1]], np.float32), (size, 1, 1))
        k[:, :2, :2] *= random.uniform(0.98, 1.02, (size, 1, 1)).astype(np.float32)
        k[0, :2, :2] *= 9  # the prediction for one frame is far off
        depth = random.uniform(3, 9, (size, H, W)).astype(np.float32)
        write_chunk(
            str(folder),
            number,
            ChunkPrediction(frames, poses, k, depth, np.ones_like(depth), pictures[frames], np.ones(size, bool)),
        )
    return StagedChunks(str(folder), count, range(count * size))


def test_an_unknown_camera_is_estimated_with_square_pixels(tmp_path):
    chunks = CameraChunks(staged(tmp_path), None)
    said = [chunks[number] for number in range(len(chunks))]
    one = chunks.with_one_camera(square_pixels=True)
    for number in range(len(one)):
        k = one[number].intrinsics
        assert (k == k[0]).all() and k[0, 0, 0] == k[0, 1, 1] and abs(k[0, 0, 0] - 76) < 1
        np.testing.assert_array_equal(one[number].cam_from_world, said[number].cam_from_world)
    assert abs(chunks.with_one_camera(square_pixels=False)[0].intrinsics[0, 1, 1] - 38) < 0.5


def test_all_chunks_use_a_known_camera(tmp_path):
    camera = Camera("pinhole", W, H, 70.0, 71.0, 60.0, 30.0)
    chunks = CameraChunks(staged(tmp_path), camera)
    np.testing.assert_allclose(chunks[2].intrinsics, np.tile(camera.matrix, (10, 1, 1)))
    assert chunks.with_one_camera(True) is chunks
    sideways = chunks[2].cam_from_world[:, 0, 3]
    # the principal point differs: the car did not drive in the direction that the network predicted
    assert np.ptp(sideways) > 0.1


def test_masked_pixels_have_neither_depth_nor_confidence(tmp_path):
    raw = staged(tmp_path)
    lens, bonnet = np.ones((H, W), bool), np.ones((H, W), bool)
    lens[:, :3], bonnet[60:] = False, False
    own = np.ones((H, W), bool)
    own[5, 5] = False
    masks = ChunkMasks((lens,), (bonnet,), lambda frame: own if frame == 12 else None)
    chunk = CameraChunks(raw, None, masks)[1]
    hidden = ~(lens & bonnet)
    for values in (chunk.depth, chunk.confidence):
        assert np.isnan(values[:, hidden]).all() and np.isnan(values[2, 5, 5])
        assert np.isfinite(values[[0, 1, 3]][:, ~hidden]).all()
    assert np.isfinite(raw[1].depth).all()


def test_each_camera_of_a_rig_has_its_own_mask(tmp_path):
    raw = staged(tmp_path)
    left, right = np.ones((H, W), bool), np.ones((H, W), bool)
    left[:, :9], right[:, -9:] = False, False
    for masks in (ChunkMasks((), (left, right)), ChunkMasks((left, right))):  # given, or by the lenses
        chunk = CameraChunks(raw, None, masks)[1]
        for place, frame in enumerate(chunk.frame_index.tolist()):
            np.testing.assert_array_equal(np.isfinite(chunk.depth[place]), (left, right)[frame % 2])


def test_the_bonnet_is_found_in_staged_pictures(tmp_path):
    raw, truth = staged(tmp_path, 5), bonnet_mask(0, H, W)
    for cameras in (1, 2):
        for found in CameraChunks(raw, None).car_parts(cameras):
            assert (found & truth).sum() / (found | truth).sum() > 0.9
    assert [(covered(parts, found.shape) == found).all() for parts in static_parts(raw, 2)] == [True, True]
    assert CameraChunks(raw, None, ChunkMasks((), (truth,))).car_parts(1) == []
