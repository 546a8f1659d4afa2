"""Rendered drives through the same streets become one city: links, accuracy, and the car that one of them saw."""

import io
import itertools

import numpy as np
import pytest

from pipeline.backend.sim3 import Sim3, fit_similarity, rotation_exp
from pipeline.common.progress import Reporter
from pipeline.fuse import FuseConfig, open_city, run_fuse
from pipeline.fuse.change import GONE
from pipeline.synthetic import CityDrive
from pipeline.synthetic.one_city import CityDriveSpec, parking_place
from tests.fuse.rendered_drives import publish

SEED, FRAMES, STEP = 5, 110, 2
NAMES = "abcd"  # c sees one more parked car, d goes in the opposite direction


class Drive:
    """Every second frame of a drive through the city."""

    def __init__(self, number, parked):
        car = parked if NAMES[number] == "c" else None
        drive = CityDrive(
            30 + number, FRAMES, 168, 336, city_seed=SEED, streets=0, opposite=NAMES[number] == "d", parked=car
        )
        seen = drive.render(range(0, FRAMES, STEP))
        self.poses, self.images, self.depth = seen.world_from_camera, seen.images, seen.depth
        self.intrinsics = drive.intrinsics


@pytest.mark.full
@pytest.mark.timeout(1500)
def test_rendered_drives_through_one_city_are_joined_and_the_car_that_one_saw_is_the_only_change(tmp_path):
    parked = parking_place(CityDriveSpec(SEED), FRAMES)
    drives = [Drive(n, parked) for n in range(4)]
    out, rng = tmp_path / "out", np.random.default_rng(0)
    first = Sim3.from_matrix(np.linalg.inv(drives[0].poses[0]))
    for number, (name, drive) in enumerate(zip(NAMES, drives, strict=True)):
        other = Sim3(float(np.exp(rng.normal(0, 0.3))), rotation_exp(rng.normal(0, 1, 3)), rng.normal(0, 5, 3))
        publish(out, tmp_path / name, name, drive, other @ first if number else first)
    fused = run_fuse(FuseConfig(str(out), similarity=0.4, tile=30.0, voxel=0.08), Reporter(io.StringIO()))
    city = open_city(str(out))
    links = city.links.to_pylist()
    accepted = [one for one in links if one["accepted"]]
    met = {(one["first_drive"], one["second_drive"]) for one in accepted}
    print(f"\n{len(links)} candidates, {fused.links} links, {len(accepted)} accepted; pairs {sorted(met)}")
    assert met >= {*itertools.combinations("abc", 2), ("a", "d")}  # d is found by its road, from the other direction
    poses = dict(zip(NAMES, (drive.poses for drive in drives), strict=True))
    placed = city.placements()
    for one in accepted:  # both frames show the same place
        ends = [poses[one[f"{end}_drive"]][one[f"{end}_frame"]] for end in ("first", "second")]
        away, cosine = np.linalg.norm(ends[0][:3, 3] - ends[1][:3, 3]), ends[0][:3, 2] @ ends[1][:3, 2]
        assert away < 15 and (cosine < -0.7 if one["second_drive"] == "d" else cosine > 0.7)
    assert {one.frame for one in placed.values()} == {"of-a"}
    found = np.concatenate([placed[name].city_from_camera[:, :3, 3] for name in NAMES])
    true = np.concatenate([poses[name][:, :3, 3] for name in NAMES])
    move = fit_similarity(found, true)
    error = float(np.sqrt(((move.apply(found) - true) ** 2).sum(1).mean()))
    print(f"joint ATE {error:.3f} m over {len(true)} frames")
    assert error < 0.5
    changes = [one for one in city.changes.to_pylist() if one["frame"] == "of-a"]
    for one in changes:
        low, high = (np.array([one[f"{end}_{axis}"] for axis in "xyz"]) for end in ("low", "high"))
        where = move.apply((low + high)[None] / 2)[0]
        away = float(np.hypot(where[0] - parked[0], where[1] - parked[1]))
        kind = "gone" if one["class"] == GONE else "new"
        print(f"{kind} in {one['drive_id']}, not in {one['other_id']}: {one['points']} points, {away:.1f} m off")
        assert one["drive_id"] == "c" and away < 3.0
    assert changes
