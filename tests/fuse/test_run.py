"""Published drives become a city in tiles, in which two drives through one street agree. A version is visible only when
it is complete."""

import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import fuse as job
from jobs import status
from pipeline import storage
from pipeline.backend.sim3 import Sim3
from pipeline.common.geodesy import enu_from_geodetic, geodetic_from_enu
from pipeline.common.progress import Reporter
from pipeline.errors import DriveError
from pipeline.fuse import FuseConfig, open_city, run_fuse, solve, tiles
from pipeline.fuse.evidence import Evidence
from pipeline.fuse.placement import PointMover
from pipeline.fuse.progress import read_fuse_run
from pipeline.fuse.published_drives import read_drive
from pipeline.fuse.run import proposed_before, standing_in
from pipeline.fuse.search import candidates_of
from pipeline.publish import open_drive
from pipeline.report.city_map import city_data
from tests.fuse.rendered_drives import GAUGES, Rendered, publish

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = {"similarity": 0.4, "tile": 20.0, "voxel": 0.2, "copc": False, "change": False}  # these: test_versions


@pytest.fixture(scope="module")
def street():
    """Two drives through one street: frames 0 to 21, and frames 8 to 29 half a metre to the right."""
    return Rendered(range(22)), Rendered(range(8, 30), aside=0.5)


@pytest.fixture(scope="module")
def made(street, tmp_path_factory):
    """An output with both drives, fused once."""
    out = tmp_path_factory.mktemp("city") / "out"
    for name, rendered, gauge in zip("ab", street, GAUGES, strict=True):
        publish(out, out.parent / "images" / name, name, rendered, gauge)
    return out, fused(out)


@pytest.fixture
def output(made, tmp_path):
    """A copy of that output, which a test may change."""
    shutil.copytree(made[0], tmp_path / "out")
    return tmp_path / "out"


def fused(output, **more):
    return run_fuse(FuseConfig(str(output), **(SETTINGS | more)), Reporter())


def tile_files(output):
    return {path.relative_to(output): path.stat().st_mtime_ns for path in output.rglob("*_*.parquet")}


def test_the_poses_of_two_drives_in_the_city_are_the_true_ones(made, street):
    output, result = made
    assert result.accepted >= 2 and result.manifest.counts["drives"] == 2
    city = open_city(str(output))
    assert city.frames == ("of-a",)
    links = city.links.to_pylist()
    assert all(one["verified"] for one in links if one["accepted"]) and all(one["reason"] for one in links)
    placed = city.placements()
    metres = GAUGES[0].inverse()
    for name, rendered in zip("ab", street, strict=True):
        place = metres.apply(placed[name].city_from_camera[:, :3, 3])
        assert np.linalg.norm(place - rendered.poses[:, :3, 3], axis=1).max() < 0.5
    row = city.drives.to_pylist()[1]
    assert row["scale"] == pytest.approx(0.25, rel=0.03) and row["links"] == result.accepted
    assert 0 < row["deviation"] < 1 and "link" in row["evidence"]


def test_the_drives_and_links_of_a_version_are_the_start_of_the_next_solution(made):
    output = str(made[0])
    drives = [read_drive(open_drive(output, name)) for name in "ab"]
    city = open_city(output)
    candidates = candidates_of(drives, FuseConfig(output, **SETTINGS))[0]
    candidates += proposed_before(city, drives, candidates)
    known = Evidence(output, drives)
    verified = [one for c in candidates if (one := known.known(c)) is not None]
    twin = replace(drives[0].opened, manifest=replace(drives[0].opened.manifest, drive_id="c"))  # same key, other units
    twin.__dict__["cameras"] = drives[0].opened.cameras
    assert Evidence(output, [replace(drives[0], opened=twin), drives[1]]).known(verified[0].candidate) is None
    standing = standing_in(city, drives, verified)
    links = [one.link for one in verified if one.link is not None]
    assert set(standing.drives) == {0, 1} and set(standing.links) == set(range(len(links)))
    again = solve([drive.joined for drive in drives], links, standing=standing)
    assert int(again.accepted.sum()) == made[1].accepted
    for name, found in zip("ab", again.city_from_camera, strict=True):
        np.testing.assert_allclose(found, city.placements()[name].city_from_camera, atol=2e-3)


def test_drives_on_earth_are_linked_by_their_positions_and_an_area_selects_drives(street, tmp_path):
    """The worlds have two origins, 40 m apart. Descriptors are not used."""
    origin, out = (48.1, 11.6, 520.0), tmp_path / "out"
    other = tuple(float(value) for value in geodetic_from_enu(np.array([40.0, -10.0, 2.0]), origin))
    shift = np.asarray(
        enu_from_geodetic(*origin, other)
    )  # of one world in the other: their axes differ by microradians
    publish(out, tmp_path / "a", "a", street[0], Sim3.identity(), origin=origin, places=None)
    publish(out, tmp_path / "b", "b", street[1], Sim3(1.0, np.eye(3), shift), origin=other, places=None)
    result = fused(out)
    city = open_city(str(out))
    assert city.frames == ("earth",) and result.accepted >= 1 and city.drives["on_earth"].to_pylist() == [True, True]
    assert {"positions"} <= {one["by"] for one in city.links.to_pylist()} <= {"positions", "solution"}
    placed = city.placements()
    there = [
        enu_from_geodetic(*geodetic_from_enu(placed[name].city_from_camera[:, :3, 3], city.manifest.origin), origin)
        for name in "ab"
    ]
    for place, rendered in zip(there, street, strict=True):
        assert np.linalg.norm(place - rendered.poses[:, :3, 3], axis=1).max() < 1.0
    assert fused(out, area=(11.5, 48.0, 11.7, 48.2)).drives == 2
    with pytest.raises(DriveError, match="in the area"):
        fused(out, area=(12.5, 48.0, 12.7, 48.2))


def test_one_call_returns_the_points_of_a_box_one_for_each_cube_with_their_drive(made):
    city = open_city(str(made[0]))
    every = city.points()
    assert every.num_rows == city.manifest.counts["points"] and set(every["drive_id"].to_pylist()) == {"a", "b"}
    xyz = np.stack([every[axis].to_numpy() for axis in "xyz"], -1)
    low, high = np.quantile(xyz, 0.3, axis=0), np.quantile(xyz, 0.7, axis=0)
    some = city.points((low.tolist(), high.tolist()), columns=["x", "frame_index", "drive_id"])
    assert some.num_rows == int(((xyz >= low) & (xyz <= high)).all(1).sum()) > 0
    of_b = city.points(drives=["b"])
    assert set(of_b["drive_id"].to_pylist()) == {"b"} and of_b.num_rows < every.num_rows
    voxel = city.manifest.frames[0].voxel
    cubes = np.floor(xyz.astype(np.float64) / voxel).astype(np.int64)
    assert len(np.unique(cubes, axis=0)) == len(cubes)
    assert city.points(((1e6,) * 3, (2e6,) * 3)).num_rows == 0
    for wrong in ({"columns": ["nonsense"]}, {"frame": "elsewhere"}, {"drives": ["nobody"]}):
        with pytest.raises(ValueError, match=r"nonsense|elsewhere|nobody"):
            city.points(**wrong)


def test_a_second_run_writes_no_tile_and_a_drive_reconstructed_again_replaces_its_points(output, street):
    before = tile_files(output)
    assert fused(output).tiles_written == 0
    assert tile_files(output) == before
    publish(output, output.parent / "images" / "b", "b", street[1], GAUGES[1], identity="c")
    again = fused(output)
    assert again.tiles_written > 0 and again.manifest.keys["b"].startswith("c")
    city = open_city(str(output))
    assert city.points().num_rows == city.manifest.counts["points"]
    shutil.rmtree(output / "b")
    last = fused(output)
    assert set(open_city(str(output)).points()["drive_id"].to_pylist()) == {"a"} and last.drives == 1
    assert any("no longer in the city: 1 drive (b)" in note for note in last.notes)
    versions = sorted(path.name for path in (output / "_city").iterdir() if (path / "manifest.json").exists())
    assert versions == [again.manifest.version, last.manifest.version]


def test_a_damaged_drive_is_left_out_with_a_note_and_a_named_one_is_an_error(output):
    (output / "b" / "chunks.parquet").write_bytes(b"nothing")
    result = fused(output)
    assert result.drives == 1 and any("drive b is left out" in note for note in result.notes)
    with pytest.raises(DriveError, match=r"b: chunks\.parquet"):
        fused(output, drive=("a", "b"))
    with pytest.raises(DriveError, match="no finished drive c"):
        fused(output, drive=("c",))
    with pytest.raises(DriveError, match="in the area"):
        fused(output, area=(11.0, 48.0, 11.1, 48.1))
    with pytest.raises(DriveError, match="check --output"):
        fused(output.parent / "nowhere")


@pytest.mark.parametrize("file", ["places.parquet", "points/part-00000.parquet"])
def test_a_drive_whose_damage_shows_late_is_left_out_and_the_others_become_a_city(output, file):
    (output / "b" / file).write_bytes((output / "b" / file).read_bytes()[:-20])
    result = fused(output, voxel=0.21)  # so that all points are read
    (note,) = [note for note in result.notes if "drive b is left out" in note]
    assert file in note and result.drives == 1
    assert set(open_city(str(output)).points()["drive_id"].to_pylist()) == {"a"}
    with pytest.raises(DriveError, match=file):
        fused(output, drive=("a", "b"), voxel=0.22)


class During(Reporter):
    """Does something once, while the drives' points are read."""

    def __init__(self, action):
        super().__init__()
        self.action = action

    def advance(self, name, count, total, unit):
        super().advance(name, count, total, unit)
        if name == "points" and self.action is not None:
            action, self.action = self.action, None
            action()


def test_a_drive_that_is_removed_or_published_again_during_a_run_is_left_out_or_used_as_it_is_then(output, street):
    config = FuseConfig(str(output), **SETTINGS | {"voxel": 0.21})

    def publish_again():
        publish(output, output.parent / "images" / "b", "b", street[1], Sim3.identity(), identity="d")

    again = run_fuse(config, During(publish_again))
    assert again.drives == 2 and again.accepted and again.manifest.keys["b"].startswith("d")
    last = run_fuse(FuseConfig(str(output), **SETTINGS | {"voxel": 0.22}), During(lambda: shutil.rmtree(output / "b")))
    assert last.drives == 1 and open_city(str(output)).points().num_rows == last.manifest.counts["points"]


@pytest.mark.parametrize("damaged", ["poses.parquet", "links.parquet", "tile", "manifest.json"])
def test_a_damaged_city_is_made_again_with_a_note_and_without_comparing_frames_again(output, damaged):
    before = open_city(str(output)).manifest
    place = output / "_city" / before.version / damaged
    if damaged == "tile":
        (output / "_city" / before.tiles[0].file.path).unlink()
    else:
        data = bytearray(place.read_bytes())
        data[len(data) // 3] ^= 1
        place.write_bytes(data)
    if damaged != "poses.parquet":  # which an estimate does not need
        assert len(fused(output, plan=True).notes) == 1
    again = fused(output, images_from="/nowhere")
    assert again.accepted == before.counts["accepted"] and again.tiles_written == len(before.tiles)
    (note,) = again.notes
    assert damaged in note
    assert open_city(str(output)).points().num_rows == before.counts["points"]
    assert fused(output).tiles_written == 0


def test_names_given_twice_count_once_and_other_folders_are_no_drives(output):
    (output / "my photos").mkdir()
    (output / "my photos" / "x.jpg").write_bytes(b"x")
    result = fused(output, drive=("a", "b", "a"))
    assert result.drives == 2 and result.accepted
    again = fused(output)
    assert again.drives == 2 and not again.notes


def test_a_drive_whose_points_are_in_impossible_places_is_left_out(made, tmp_path, monkeypatch):
    city = open_city(str(made[0]))
    frames, placement = {one.name: one for one in city.manifest.frames}, city.placements()["a"]
    opened = open_drive(str(made[0]), "a")
    writer = tiles.TileWriter(frames, tmp_path, None, False)
    far = replace(placement, scale=placement.scale * 1e30)
    with pytest.raises(DriveError, match="drive a: it has points more than 1,000,000 tiles from the origin of of-a"):
        writer.add(tiles.Contribution(0, "a", PointMover(opened, far), None))
    monkeypatch.setattr(tiles, "_MOST_TILES", 3)
    with pytest.raises(DriveError, match="drive a: its points are in more than 3 tiles"):
        writer.add(tiles.Contribution(0, "a", PointMover(opened, placement), None))


def spoiled(row, place, value):
    return {**row, "link": [*row["link"][:place], value, *row["link"][place + 1 :]]}


@pytest.mark.parametrize(
    "change",
    [
        lambda row: spoiled(row, 5, float("nan")),
        lambda row: spoiled(row, 0, -1.0),  # scale
        lambda row: spoiled(row, 1, 3.0),  # quaternion
        lambda row: spoiled(row, 8, -1.0),  # variance
        lambda row: spoiled(row, 3, None),
        lambda row: {**row, "link": row["link"][:9]},
        lambda row: {**row, "first_frame": None},
    ],
)
def test_stored_verdicts_that_cannot_be_true_are_not_believed(output, change):
    (part,) = (output / "_city" / "evidence").glob("*.parquet")
    table = pq.read_table(part)
    pq.write_table(pa.Table.from_pylist([change(row) for row in table.to_pylist()], schema=table.schema), part)
    other = part.with_name("mine.parquet")
    other.write_bytes(b"of somebody else")
    drives = [read_drive(open_drive(str(output), name)) for name in "ab"]
    candidates = candidates_of(drives, FuseConfig(str(output), **SETTINGS))[0]
    known = Evidence(str(output), drives)
    assert candidates and all(known.known(one) is None for one in candidates)
    known.tidy()
    assert other.read_bytes() == b"of somebody else"


def test_drives_whose_pictures_are_gone_are_not_joined_and_the_reason_is_given(output):
    shutil.rmtree(output / "_city" / "evidence")
    shutil.move(output.parent / "out", output.parent / "moved")
    result = fused(output.parent / "moved", images_from=str(output.parent / "none"))
    assert result.links == 0 and result.candidates > 0
    assert any("could not be compared" in note and "--images-from" in note for note in result.notes)
    city = open_city(str(output.parent / "moved"))
    assert set(city.frames) == {"of-a", "of-b"}
    assert all("cannot be read" in one["reason"] for one in city.links.to_pylist())
    assert all("could not be compared" in one for one in city.drives["evidence"].to_pylist())
    site = output.parent / "site"
    site.mkdir()
    (kind,) = city_data(city, site)["candidates_without"]
    assert kind.startswith("could not be compared")


KILLED = """
import os, re, signal, sys
sys.path.insert(0, {root!r})
def hook(event, arguments):
    if event == "os.rename" and re.search({name!r}, str(arguments[1])):
        os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
from tests.fuse.test_run import fused
fused({output!r}, voxel=0.13)  # another size of cubes, so that all tiles are written
"""


@pytest.mark.parametrize(
    "at",
    [
        pytest.param(r"/tiles/.*\.parquet$", id="first tile", marks=pytest.mark.full),
        pytest.param(r"poses\.parquet$", id="poses", marks=pytest.mark.full),
        pytest.param(r"manifest\.json$", id="manifest"),
    ],
)
def test_a_killed_run_leaves_the_last_version_intact_and_the_next_run_uses_its_links(output, at):
    before = open_city(str(output)).manifest
    shutil.rmtree(output / "_city" / "evidence")
    code = KILLED.format(root=str(ROOT), name=at, output=str(output))
    environment = os.environ | {"TMPDIR": str(output.parent)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, env=environment)
    assert done.returncode == -9, done.stderr
    assert open_city(str(output)).manifest == before
    assert open_city(str(output)).points().num_rows == before.counts["points"]
    assert read_fuse_run(str(output), time.time() + 1000).state == "lost"
    again = fused(output, images_from="/nowhere")  # all pairs were compared before: no picture is needed
    assert again.manifest.version > before.version and again.links == before.counts["links"] > 0
    leftovers = [
        path
        for path in storage.list_below(str(output / "_city"))
        if path.split("/")[0] not in {before.version, again.manifest.version, "evidence", "run.json"}
    ]
    assert not leftovers


def test_an_error_names_the_damaged_file_of_a_city(output):
    city = open_city(str(output))
    tile = output / "_city" / city.manifest.tiles[0].file.path
    tile.write_bytes(tile.read_bytes()[:-1] + b"x")
    with pytest.raises(DriveError, match="does not hold the bytes"):
        city.points()
    tile.unlink()
    with pytest.raises(DriveError, match="is missing"):
        city.points()
    with pytest.raises(DriveError, match="no complete version 000009"):
        open_city(str(output), "000009")
    manifest = output / "_city" / city.manifest.version / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b'"drives": 2', b'"drives": 3'))
    with pytest.raises(storage.DamagedError, match="checksum"):
        open_city(str(output))


def test_the_job_prints_what_it_did_and_plan_writes_nothing(output, capsys):
    words = ["--output", str(output), "--similarity", "0.4", "--tile", "20", "--voxel", "0.2"]
    before = storage.list_below(str(output / "_city"))
    assert job.main([*words, "--plan"]) == 0
    said = capsys.readouterr().out
    assert "compare  0 pairs of frames; 3 more were compared before" in said  # one of them was proposed by the solution
    assert "pairs of frames in opposite directions" in said
    assert "1 of drives in the same direction" in said
    assert "core seconds" in said and "GiB of memory" in said and "MiB written" in said
    assert storage.list_below(str(output / "_city")) == before
    assert job.main(words) == 0
    said = capsys.readouterr().out
    assert "2 drives in 1 frames" in said and "links accepted" in said
    assert status.main(["--output", str(output)]) == 0
    said = capsys.readouterr().out
    assert "finished" in said and "2 drives" in said
    assert open_drive(str(output), "a").places.num_rows == 11


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"tile": 0.0}, "tile"),
        ({"budget": 0}, "budget"),
        ({"voxel": 30.0}, "below tile"),
        ({"similarity": 1.5}, "similarity"),
        ({"tolerance": -1.0}, "tolerance"),
        ({"area": (2.0, 0.0, 1.0, 1.0)}, "west south"),
        ({"per_pair": 10**9}, "per_pair"),
        ({"lease_s": 1e12}, "lease_s"),
    ],
)
def test_invalid_settings_are_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        FuseConfig("out", **(SETTINGS | wrong))
