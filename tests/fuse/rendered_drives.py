"""Rendered drives through one street, published by the pipeline's functions, each in its own frame and units."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from pipeline.backend import Georeference
from pipeline.backend.sim3 import Sim3
from pipeline.common.geodesy import geodetic_from_enu
from pipeline.publish import DriveFacts, PublishConfig, RunFacts, publish_drive
from pipeline.synthetic import CityDrive
from tests.publish.drives import Chunk, Edge, Joined, Listed, Similarity

HEIGHT, WIDTH, CHUNK = 168, 336, 10


class Rendered:
    """Frames of the route of the city with seed 7. numbers: of the frames; aside: metres to the right of the route."""

    def __init__(self, numbers, aside=0.0):
        drive = CityDrive(7, 60, HEIGHT, WIDTH)
        self.poses = drive.world_from_camera[list(numbers)].copy()
        self.poses[:, :3, 3] += aside * self.poses[:, :3, 0]
        self.intrinsics = drive.intrinsics
        seen = drive.render_poses(self.poses)
        self.images, self.depth = seen.images, seen.depth


def place_descriptors(poses):
    """Descriptors of cameras (n, 4, 4), similar for cameras within some metres of each other with the same heading."""
    rng = np.random.default_rng(5)
    wave, phase = rng.normal(0, 0.25, (64, 2)), rng.uniform(0, 2 * np.pi, 64)
    ahead = np.cos(np.arctan2(poses[:, 1, 2], poses[:, 0, 2])[:, None] + phase)
    return (np.cos(poses[:, :2, 3] @ wave.T + phase) + 0.2 * ahead).astype(np.float16)


@dataclass(frozen=True)
class JoinedOnEarth(Joined):
    georeference: Georeference | None = None


def on_earth(poses, origin):
    """Facts of a run for a drive whose world is metres east, north, up from `origin`."""
    fixed = poses[::5, :3, 3]
    latitude, longitude, altitude = geodetic_from_enu(fixed, origin)
    zero = np.zeros(len(fixed))
    columns = {"time_s": 0.1 * 5 * np.arange(len(fixed)), "latitude": latitude, "longitude": longitude}
    columns |= {"altitude": altitude, "accuracy": zero + 0.5, "used": np.ones(len(fixed), bool)}
    columns |= {name: fixed[:, n] for n, name in enumerate(("east", "north", "up"))}
    columns |= {f"residual_{name}": zero for name in ("east", "north", "up")}
    place = dict(zip(("latitude", "longitude", "altitude"), origin, strict=True))
    return {"positions": columns, "georeference": {"origin": place, "clock_offset_s": 0.0}}


def publish(output, folder, drive_id, rendered, gauge, *, identity="a", origin=None, rig=None, **run):
    """Write images to `folder` and publish the drive to `output`.

    gauge: drive_from_metres; origin: if given, the drive is on Earth, its world is metres east, north, up from there,
    and every fifth frame has a position; rig: if given, its cameras alternate in the frames.
    """
    count, (height, width) = len(rendered.poses), rendered.images.shape[1:3]
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{n:06d}.png" for n in range(count)]
    for name, image in zip(names, rendered.images, strict=True):
        Image.fromarray(image).save(folder / name)
    poses = gauge.transform_pose(rendered.poses)
    plan = [range(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]
    chunks = [
        Chunk(
            np.array(frames),
            np.broadcast_to(rendered.intrinsics.astype(np.float32), (len(frames), 3, 3)),
            np.where(rendered.depth[frames.start : frames.stop] > 0, rendered.depth[frames.start : frames.stop], np.nan)
            * np.float32(gauge.scale),
            np.full((len(frames), height, width), 2.0, np.float32),
            rendered.images[frames.start : frames.stop],
            np.ones(len(frames), bool),
        )
        for frames in plan
    ]
    middles = [frames[len(frames) // 2] for frames in plan]
    joined = Joined(
        np.arange(count),
        poses,
        np.arange(count) // CHUNK,
        np.ones(count),
        [Similarity(1.0, poses[m, :3, :3], poses[m, :3, 3]) for m in middles],
        [Edge(k, k + 1, 0.01, 0.9) for k in range(len(plan) - 1)],
    )
    facts = DriveFacts(
        drive_id=drive_id,
        source_uri=str(folder),
        frame_uris=[str(folder / name) for name in names],
        timestamps_ns=[n // (len(rig) if rig else 1) * 100_000_000 for n in range(count)],
        source_width=width,
        source_height=height,
        net_width=width,
        net_height=height,
        listing=[Listed(name, 1) for name in names],
        rig=rig,
    )
    described = np.arange(0, count, 2)
    known = {"places": (described, place_descriptors(rendered.poses[described]))} | run
    if origin is not None:
        known |= on_earth(poses, origin)
        spread, nothing = np.ones((count, 3)), np.zeros(0, bool)
        one = np.ones(3)
        place = Georeference(origin, poses, 0.0, 0.1, nothing, spread[:0], spread, 0 * one, False, one, one, np.nan)
        joined = JoinedOnEarth(**vars(joined), georeference=place)
    facts_of_run = RunFacts(identity * 64, "b" * 64, {}, "0.1.0", {}, {"verdict": "pass"}, **known)
    return publish_drive(str(output), facts, chunks, joined, PublishConfig(), facts_of_run, overwrite=True)


GAUGES = (
    Sim3(0.5, np.eye(3), np.array([1.0, 2.0, 3.0])),
    Sim3(2.0, np.array([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]]), np.array([-4.0, 0.0, 1.0])),
)
