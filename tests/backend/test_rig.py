"""Chunks of several cameras are joined like chunks of one camera."""

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from pipeline.backend import join_chunks
from pipeline.backend.rig import RigChunks, frames_of_rig, measure_rig
from pipeline.backend.stereo_scale import StereoMotions
from pipeline.cameras.rig import Rig

CAMERAS, INSTANTS, SIZE, OVERLAP = 3, 60, 20, 10
BASE = 0.54


@dataclass
class Seen:
    frame_index: NDArray
    cam_from_world: NDArray
    intrinsics: NDArray
    depth: NDArray
    confidence: NDArray
    ok: NDArray
    rgb: NDArray


def _pose(degrees, place):
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_euler("y", degrees, degrees=True).as_matrix()
    pose[:3, 3] = place
    return pose


TRUE = np.stack([np.eye(4), _pose(-55, (-BASE, 0, -0.3)), _pose(55, (BASE, 0, -0.3))])


def rig_drive(seed, bad=lambda instant, camera: False, late=None):
    """Chunks, each with its own gauge and unit and with noise in every pose; and the true poses of the rig. late (C,):
    steps by which cameras are later than the instants."""
    random = np.random.default_rng(seed)
    world = np.stack([_pose(1.5 * n, (0, 0, 0)) for n in range(INSTANTS)])
    for n in range(1, INSTANTS):
        world[n, :3, 3] = world[n - 1, :3, 3] + world[n - 1, :3, 2]
    chunks = []
    for start in range(0, INSTANTS - OVERLAP, SIZE - OVERLAP):
        instants = np.arange(start, start + SIZE)
        scale = random.uniform(0.05, 0.2)
        cars = world[instants, None] if late is None else at_times(world, instants[:, None] + np.asarray(late))
        poses = np.linalg.inv(world[start]) @ cars @ TRUE[None]
        poses = poses.reshape(-1, 4, 4)
        noise = Rotation.from_rotvec(random.normal(0, 0.004, (len(poses), 3))).as_matrix()
        poses[:, :3, :3] = poses[:, :3, :3] @ noise
        poses[:, :3, 3] = (poses[:, :3, 3] + random.normal(0, 0.03, (len(poses), 3))) * scale
        ok = np.array([not bad(instant, camera) for instant in instants for camera in range(CAMERAS)])
        poses[~ok] = _pose(90, (5, 5, 5))
        depth = np.full((len(poses), 4, 6), 10 * scale) * random.lognormal(0, 0.02, (len(poses), 4, 6))
        k = np.array([[6.0, 0, 3], [0, 6, 2], [0, 0, 1]])
        index = (instants[:, None] * CAMERAS + np.arange(CAMERAS)).ravel()
        rgb = np.zeros((*depth.shape, 3), np.uint8)
        chunks.append(Seen(index, np.linalg.inv(poses)[:, :3], k, depth, np.full(depth.shape, 2.0), ok, rgb))
    return chunks, world


def at_times(world, time):
    """Poses of the car (n, C, 4, 4) at times (n, C), counted in instants: it drives straight on between them."""
    poses = np.stack([[_pose(1.5 * one, (0, 0, 0)) for one in row] for row in time])
    whole = np.clip(np.floor(time).astype(int), 0, len(world) - 2)
    step = world[whole + 1, :3, 3] - world[whole, :3, 3]
    poses[..., :3, 3] = world[whole, :3, 3] + (time - whole)[..., None] * step
    return poses


def _joined(chunks, rig):
    geometry = measure_rig(chunks, rig)
    return frames_of_rig(join_chunks(RigChunks(chunks, geometry), overlap=OVERLAP), geometry)


def ate(estimate, truth):
    """Position error (RMS) in metres after one similarity transform."""
    a, b = estimate - estimate.mean(0), truth - truth.mean(0)
    u, s, vt = np.linalg.svd(b.T @ a)
    sign = np.diag([1, 1, np.sign(np.linalg.det(u @ vt))])
    scale = (s * np.diag(sign)).sum() / (a**2).sum()
    return float(np.sqrt(((scale * a @ (u @ sign @ vt).T - b) ** 2).sum(1).mean()))


def unknown_rig():
    return Rig(("front", "left", "right"), (tuple(np.eye(4)[:3].ravel()), None, None))


def _known():
    return Rig.of({"front": TRUE[0], "left": TRUE[1], "right": TRUE[2]}, "front")


def test_camera_places_are_estimated_and_three_cameras_give_a_smaller_error_than_the_front_camera_alone() -> None:
    rigs, fronts = [], []
    for seed in range(4):
        chunks, world = rig_drive(seed)
        joined, rig = _joined(chunks, unknown_rig())
        turn = Rotation.from_matrix(rig[:, :3, :3].transpose(0, 2, 1) @ TRUE[:, :3, :3]).magnitude()
        assert np.degrees(turn).max() < 0.5
        alone = [
            Seen(
                c.frame_index[::3] // 3,
                c.cam_from_world[::3],
                c.intrinsics,
                c.depth[::3],
                c.confidence[::3],
                c.ok[::3],
                c.rgb[::3],
            )
            for c in chunks
        ]
        front = join_chunks(alone, overlap=OVERLAP)
        rigs.append(ate(joined.world_from_camera[::3, :3, 3], world[:, :3, 3]))
        fronts.append(ate(front.world_from_camera[:, :3, 3], world[:, :3, 3]))
        step = np.linalg.norm(np.diff(joined.world_from_camera[::3, :3, 3], axis=0), axis=1).mean()
        assert np.linalg.norm(rig[1:, :3, 3] / step - TRUE[1:, :3, 3], axis=1).max() < 0.02 * 10  # of the depth
        assert joined.metric is None
    assert np.mean(rigs) < 0.9 * np.mean(fronts)


def test_a_known_baseline_makes_the_result_metric() -> None:
    chunks, world = rig_drive(1)
    joined, rig = _joined(chunks, _known())
    assert joined.metric.source == "baseline"
    true = np.linalg.norm(np.diff(world[:, :3, 3], axis=0), axis=1).sum()
    found = np.linalg.norm(np.diff(joined.world_from_camera[::3, :3, 3], axis=0), axis=1).sum()
    assert found == pytest.approx(true, rel=0.02)
    assert np.allclose(rig, TRUE)
    assert np.allclose(joined.world_from_camera[1::3], joined.world_from_camera[::3] @ TRUE[1])
    assert len(joined.owner) == INSTANTS * CAMERAS
    assert joined.chunk_frames[0] == (0, SIZE * CAMERAS - 1)


def test_cameras_that_are_out_of_step_keep_their_rotations_and_tell_no_metres() -> None:
    chunks, _ = rig_drive(1)
    known = Rig.of({"front": TRUE[0], "left": TRUE[1], "right": TRUE[2]}, "front", ("left", "right"))
    joined, rig = _joined(chunks, known)
    assert joined.metric is None
    np.testing.assert_allclose(rig[:, :3, :3], TRUE[:, :3, :3])
    estimated = _joined(chunks, unknown_rig())[1]
    np.testing.assert_allclose(rig[:, :3, 3], estimated[:, :3, 3], rtol=0.1, atol=0.02)


def test_late_cameras_give_the_same_metre_and_places_and_each_frame_has_the_pose_of_its_own_time() -> None:
    late = (0, 0.5, -0.3)
    known = {"front": TRUE[0], "left": TRUE[1], "right": TRUE[2]}
    chunks, world = rig_drive(1, late=late)
    joined, _ = _joined(chunks, Rig.of(known, "front", late={"left": 0.5, "right": -0.3}))
    true = np.linalg.norm(np.diff(world[:, :3, 3], axis=0), axis=1).sum()
    found = np.linalg.norm(np.diff(joined.world_from_camera[::3, :3, 3], axis=0), axis=1).sum()
    assert joined.metric.source == "baseline" and found == pytest.approx(true, rel=0.02)
    cameras = (at_times(world, np.arange(INSTANTS)[:, None] + np.array(late)) @ TRUE[None]).reshape(-1, 4, 4)
    whole = ate(joined.world_from_camera[:, :3, 3], cameras[:, :3, 3])
    assert whole < 1.3 * ate(joined.world_from_camera[::3, :3, 3], world[:, :3, 3])
    wrong = _joined(chunks, _known())[0]  # the same cameras, taken as synchronous
    assert wrong.metric is None or wrong.metric.deviation > 3 * joined.metric.deviation
    places = _joined(chunks, Rig.of({**known, "left": None, "right": None}, "front", late={"left": 0.5, "right": -0.3}))
    scale = true / np.linalg.norm(np.diff(places[0].world_from_camera[::3, :3, 3], axis=0), axis=1).sum()
    assert np.linalg.norm(scale * places[1][1:, :3, 3] - TRUE[1:, :3, 3], axis=1).max() < 0.05


def test_while_one_camera_is_black_the_other_cameras_give_the_trajectory() -> None:
    whole, world = rig_drive(2)
    for camera in (0, 2):  # also the reference camera
        chunks, _ = rig_drive(2, lambda instant, one, camera=camera: one == camera and 18 <= instant < 34)
        joined, _ = _joined(chunks, unknown_rig())
        assert not joined.filled.any()
        straight = ate(_joined(whole, unknown_rig())[0].world_from_camera[::3, :3, 3], world[:, :3, 3])
        assert ate(joined.world_from_camera[::3, :3, 3], world[:, :3, 3]) < 2 * straight + 0.1


def test_a_baseline_that_the_predicted_cameras_contradict_does_not_set_the_scale() -> None:
    chunks, _ = rig_drive(1)
    turned = np.stack([TRUE[0], TRUE[1], TRUE[2]])
    turned[1:, :3, 3] = ((0, 0.5, 0.3), (0, 0.5, -0.3))
    rig = Rig.of({"front": turned[0], "left": turned[1], "right": turned[2]}, "front")
    assert _joined(chunks, rig)[0].metric is None


def measured_motions(world, missing=()):
    instants = np.array([n for n in range(len(world) - 1) if n not in missing])
    steps = np.linalg.inv(world[instants]) @ world[instants + 1]
    steps[:, :3, 3] *= np.random.default_rng(3).normal(1, 0.01, (len(steps), 1))
    return StereoMotions(instants, instants + 1, steps)


def test_motions_that_two_cameras_measured_set_the_scale_whatever_the_network_says_of_their_places() -> None:
    chunks, world = rig_drive(1)
    rig = Rig.of({"front": TRUE[0], "left": _pose(0, (0, 0.5, 0.3)), "right": _pose(0, (0, 0.5, -0.3))}, "front")
    geometry = measure_rig(chunks, rig)
    motions = measured_motions(world, missing=(7, 8, 30))
    joined = join_chunks(RigChunks(chunks, geometry), overlap=OVERLAP, motions=motions)
    assert joined.metric.source == "baseline" and joined.metric.deviation < 0.02
    found, rig_from_camera = frames_of_rig(joined, geometry)
    steps = np.linalg.norm(np.diff(found.world_from_camera[::3, :3, 3], axis=0), axis=1)
    assert steps.sum() == pytest.approx(INSTANTS - 1, rel=0.01)
    np.testing.assert_allclose(rig_from_camera[1:, :3, 3], rig.poses[1:, :3, 3])


def test_motions_keep_the_scale_of_chunks_together() -> None:
    """Depth of each chunk's first half is off by some 3 %, differently each time: by overlaps alone the scale walks."""
    uneven = {True: [], False: []}
    for seed in range(4):
        chunks, world = rig_drive(seed)
        random = np.random.default_rng(seed)
        for chunk in chunks:
            chunk.depth = chunk.depth.copy()
            chunk.depth[: len(chunk.depth) // 2] *= random.lognormal(0, 0.03)
        geometry = measure_rig(chunks, unknown_rig())
        for measured in (True, False):
            motions = measured_motions(world) if measured else None
            joined = join_chunks(RigChunks(chunks, geometry), overlap=OVERLAP, motions=motions)
            steps = np.linalg.norm(np.diff(joined.world_from_camera[:, :3, 3], axis=0), axis=1)
            uneven[measured].append(np.log(steps[: len(steps) // 10 * 10].reshape(-1, 10).mean(1)).std())
    assert np.mean(uneven[True]) < 0.6 * np.mean(uneven[False])


def test_motions_that_contradict_the_chunks_leave_the_result_relative() -> None:
    chunks, world = rig_drive(1)
    motions = measured_motions(world)
    wrong = np.array([1.0, 5.0, 0.2, 2.0, 0.5, 9.0])
    motions.this_from_next[:, :3, 3] *= wrong[np.arange(len(motions.instant)) // 10, None]
    joined = join_chunks(RigChunks(chunks, measure_rig(chunks, unknown_rig())), overlap=OVERLAP, motions=motions)
    assert joined.metric is None and "rig file" in joined.relative_because


def test_a_standing_car_gives_no_scale() -> None:
    chunks, world = rig_drive(1)
    motions = measured_motions(world)
    motions.this_from_next[:, :3, 3] = 0
    joined = join_chunks(RigChunks(chunks, measure_rig(chunks, unknown_rig())), overlap=OVERLAP, motions=motions)
    assert joined.metric is None
