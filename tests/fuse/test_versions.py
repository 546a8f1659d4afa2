"""A version has tiles as Parquet and COPC, and changes. A later version writes only tiles that differ."""

import errno
import io
import json
import os
import shutil
import sys

import laspy
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.common.progress import Reporter
from pipeline.errors import DriveError, StorageError
from pipeline.fuse import FuseConfig, open_city, run_fuse
from pipeline.fuse.change import GONE
from pipeline.fuse.new_version import usual_step
from tests.fuse.rendered_drives import publish
from tests.fuse.scenes import CAR, EAST_NORTH_UP, SceneDrive

ORIGIN = (48.1, 11.6, 520.0)
SETTINGS = {"tile": 25.0, "voxel": 0.1}


def parked(frame):
    return (CAR,)


def add(output, name, scene, identity="a"):
    publish(output, output.parent / "images" / name, name, scene, EAST_NORTH_UP, identity=identity, origin=ORIGIN)


def fused(output, **more):
    return run_fuse(FuseConfig(str(output), **(SETTINGS | more)), Reporter(io.StringIO()))


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    """Two drives on Earth through one street; only the first one sees a parked car."""
    out = tmp_path_factory.mktemp("versions") / "out"
    add(out, "a", SceneDrive(parked))
    add(out, "b", SceneDrive(aside=0.7, start=0.5))
    fused(out)
    return out


def files_of(output):
    return {str(path.relative_to(output / "_city")): path.read_bytes() for path in (output / "_city").rglob("*_*.*")}


def test_a_car_parked_in_one_drive_only_is_a_change_with_a_picture(output):
    city = open_city(str(output))
    (one,) = city.changes.to_pylist()
    assert (one["class"], one["drive_id"], one["other_id"]) == (GONE, "a", "b")
    low, high = (EAST_NORTH_UP.apply(np.array(corner)) for corner in CAR)
    middle = [(one[f"low_{axis}"] + one[f"high_{axis}"]) / 2 for axis in "xyz"]
    place = city.points(columns=["x"])  # metres from the city's origin, which is near the median of the fixes
    assert place.num_rows and city.manifest.origin is not None
    shift = city.placements()["a"].city_from_camera[0, :3, 3] - EAST_NORTH_UP.apply(np.zeros(3))
    assert (np.array(middle) > np.minimum(low, high) + shift - 0.5).all()
    assert (np.array(middle) < np.maximum(low, high) + shift + 0.5).all()
    points = city.change_points
    assert set(points["object"].to_pylist()) == {one["object"]} and points.num_rows == one["points"] >= 25
    assert set(points["class"].to_pylist()) == {GONE}
    picture = Image.open(io.BytesIO(city.change_picture(one["picture"])))
    assert picture.width > 2 * picture.height
    with pytest.raises(DriveError, match="names no"):
        city.change_picture("000001/change/none.jpg")


def test_every_tile_is_also_written_as_copc_with_drive_and_frame_of_each_point(output):
    pytest.importorskip("lazrs")
    city = open_city(str(output))
    for tile in city.manifest.tiles:
        with laspy.CopcReader.open(str(output / "_city" / tile.copc.path)) as reader:
            points = reader.query()
            names = next(one for one in reader.header.vlrs if one.user_id == "city-recon").record_data
            assert reader.header.parse_crs() is not None
        table = pq.read_table(output / "_city" / tile.file.path)
        assert len(points) == table.num_rows == tile.copc.rows and json.loads(names) == dict(tile.names)

        def keys(*columns):
            return sorted(zip(*(np.asarray(column).tolist() for column in columns), strict=True))

        as_parquet = keys(*(table[name].to_numpy() for name in ("drive_index", "frame_index", "r", "g", "b")))
        colours = [np.asarray(points[name]) // 257 for name in ("red", "green", "blue")]
        assert keys(points["drive"], points["frame"], *colours) == as_parquet
        assert 690_000 < points.x[0] < 700_000 and 5_320_000 < points.y[0] < 5_340_000  # UTM 32 of Munich


def test_a_new_drive_changes_the_tiles_it_touches_and_a_drive_reconstructed_again_replaces_its_points(output, tmp_path):
    shutil.copytree(output, tmp_path / "out")
    out, before = tmp_path / "out", files_of(output)
    add(out, "c", SceneDrive(start=60.0))
    result = fused(out)
    after = files_of(out)
    assert 0 < result.tiles_written < result.manifest.counts["tiles"]
    city = open_city(str(out))
    old = {tile.place: tile for tile in open_city(str(output)).manifest.tiles}
    for tile in city.manifest.tiles:
        touched = "c" in tile.drives
        assert (tile.place in old and tile.file == old[tile.place].file) == (not touched)
        for file in tile.files:
            assert (file.path in before) == (not touched)
            assert touched or after[file.path] == before[file.path]
    assert set(city.points()["drive_id"].to_pylist()) == {"a", "b", "c"}
    assert city.changes.num_rows == 1 and city.change_picture(city.changes["picture"][0].as_py())
    # Drive b is reconstructed again, now with the car: there is no change, and no point of its first result is left.
    add(out, "b", SceneDrive(parked, aside=0.7, start=0.5), identity="d")
    fused(out)
    city = open_city(str(out))
    assert city.manifest.keys["b"].startswith("d") and city.changes.num_rows == city.change_points.num_rows == 0
    # Drive a is reconstructed again without the car; it is the later one now.
    add(out, "a", SceneDrive(), identity="e")
    fused(out, copc=False)
    city = open_city(str(out))
    (one,) = city.changes.to_pylist()
    assert (one["class"], one["drive_id"], one["other_id"]) == (GONE, "b", "a")
    assert all(tile.copc is None for tile in city.manifest.tiles)
    assert fused(out, copc=False, change=False).manifest.counts["changes"] == 0
    # All tiles are compared again, because those of the version before were not.
    assert fused(out, copc=False).manifest.counts["changes"] == 1


def test_without_laspy_tiles_are_parquet_only_and_a_note_says_what_to_install(output, monkeypatch):
    monkeypatch.setitem(sys.modules, "laspy", None)
    (note,) = fused(output, plan=True).notes
    assert note.startswith("tiles are written as Parquet only") and "[export]" in note
    assert fused(output, plan=True, copc=False).notes == ()
    with pytest.raises(ValueError, match="LAZ needs laspy"):
        fused(output, plan=True, copc=True)


@pytest.mark.parametrize("calls", [9, *(pytest.param(n, marks=pytest.mark.full) for n in (1, 3, 5, 12, 14))])
def test_a_store_that_fails_in_the_middle_leaves_the_last_version_intact_and_the_next_run_continues(
    output, tmp_path, monkeypatch, calls
):
    shutil.copytree(output, tmp_path / "out")
    out = tmp_path / "out"
    add(out, "c", SceneDrive(start=30.0))
    rename, done = os.rename, []

    def full(source, target, **more):
        if str(target).startswith(str(out / "_city")) and not str(target).endswith("run.json"):
            done.append(target)
            if len(done) >= calls:
                raise OSError(errno.ENOSPC, "No space left on device", str(target))
        return rename(source, target, **more)

    monkeypatch.setattr(os, "rename", full)
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StorageError, match="No space left"):
        fused(out)
    monkeypatch.undo()
    assert open_city(str(out)).manifest == open_city(str(output)).manifest
    assert open_city(str(out)).points().num_rows == open_city(str(output)).manifest.counts["points"]
    assert fused(out).manifest.counts["drives"] == 3
    named = open_city(str(out)).manifest.paths | open_city(str(output)).manifest.paths
    left = {str(path.relative_to(out / "_city")) for path in (out / "_city").rglob("*.*") if path.is_file()}
    assert {path for path in left if path[0] == "0" and not path.endswith("manifest.json")} <= named


@pytest.mark.parametrize("stands", [0, 10, 300])
def test_the_usual_step_is_that_of_the_car_that_moves_however_long_it_stands(stands):
    steps = np.r_[np.full(50, 1.2), np.full(stands, 0.002), np.full(50, 1.0)]
    place = np.append(0.0, np.cumsum(steps))[:, None] * (0.6, 0.0, 0.8)
    assert 1.0 <= usual_step(place) <= 1.2


@pytest.mark.parametrize("frames", [1, 5])
def test_a_drive_that_does_not_move_has_a_step_of_one(frames):
    assert usual_step(np.ones((frames, 3))) == 1.0
