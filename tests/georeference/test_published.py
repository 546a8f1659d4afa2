"""From predictions that are kept to a published drive in metres at a place on Earth, and back to one without."""

from __future__ import annotations

import json

import numpy as np
import pytest

from jobs import realign
from pipeline.common.geodesy import enu_from_geodetic
from pipeline.common.progress import Reporter
from pipeline.finish import join_and_publish
from pipeline.publish import open_drive
from pipeline.publish.verify import verify_drive
from tests.georeference.drives import scenario_and_fixes, stage, write_gps


@pytest.fixture(scope="module")
def made(shared):
    return scenario_and_fixes(shared)


@pytest.fixture
def relative(made, tmp_path):
    """Published without positions; its frames' folder is there."""
    scenario, _ = made
    folder, out = tmp_path / "drive-1", tmp_path / "out"
    folder.mkdir()
    staged, config = stage(scenario, folder, out)
    join_and_publish(staged, config, str(out), Reporter(), lambda: None)
    return folder, out


def again(out, *arguments):
    assert realign.main(["--output", str(out), "--drive", "drive-1", *map(str, arguments)]) == 0
    return open_drive(str(out), "drive-1", check_hashes=True)


def test_a_drive_without_positions_is_relative_and_its_tables_are_as_they_were(relative):
    _, out = relative
    drive = open_drive(str(out), "drive-1")
    text = (out / "drive-1" / "manifest.json").read_text()
    assert "georeference" not in json.loads(text) and "metric" not in json.loads(text)
    assert drive.origin is None and drive.positions is None
    assert "latitude" not in drive.poses.column_names
    np.testing.assert_allclose(drive.cameras.world_from_camera[0], np.eye(4), atol=1e-9)


def test_positions_that_lie_with_the_frames_georeference_what_was_published(relative, made, capsys):
    folder, out = relative
    scenario, gnss = made
    before = open_drive(str(out), "drive-1").manifest
    write_gps(folder / "gps.csv", gnss)
    drive = again(out)
    assert drive.manifest.identity != before.identity
    said = drive.manifest.georeference
    assert (
        said["source"] == "CSV gps.csv" and said["fixes"] == len(gnss.time) and said["vertical_datum"].startswith("WGS")
    )
    assert drive.manifest.metric["source"] == "fixes" and 0 < drive.manifest.metric["deviation"] < 0.2
    poses = drive.poses
    place = [poses[name].to_numpy() for name in ("latitude", "longitude", "altitude")]
    xyz = np.stack([poses[axis].to_numpy() for axis in "xyz"], -1)
    np.testing.assert_allclose(enu_from_geodetic(*place, drive.origin), xyz, atol=1e-6)
    truth = enu_from_geodetic(gnss.latitude, gnss.longitude, gnss.altitude, drive.origin)
    at = np.round(gnss.time * 10).astype(int)
    inside = at < len(xyz)
    assert np.median(np.linalg.norm((xyz[at[inside]] - truth[inside])[:, :2], axis=1)) < 4
    assert (poses["deviation_up"].to_numpy() > 0).all()
    fixes = drive.positions
    assert fixes.num_rows == len(gnss.time) and fixes["used"].to_numpy(zero_copy_only=False).mean() > 0.8
    length = np.linalg.norm(np.diff(np.asarray(scenario.world_from_cam)[:, :3, 3], axis=0), axis=1).sum()
    assert drive.manifest.counts.path_length == pytest.approx(length, rel=0.05)
    assert verify_drive(str(out), "drive-1").problems == ()
    assert b"east, north, up" in poses.schema.metadata[b"world_frame"]
    assert not any("positions" in note for note in drive.manifest.quality["notes"])
    # the points stand with the cameras
    points = np.stack([drive.points(columns=["x", "y", "z"])[axis].to_numpy() for axis in "xyz"], -1)
    assert np.linalg.norm(np.median(points, axis=0) - np.median(xyz, axis=0)) < 100


def test_positions_none_makes_it_relative_again_and_its_identity_what_it_was(relative, made):
    folder, out = relative
    before = open_drive(str(out), "drive-1").manifest
    write_gps(folder / "gps.csv", made[1])
    assert again(out).origin is not None
    after = again(out, "--positions.file", "none")
    assert after.origin is None and after.manifest.identity == before.identity


def test_files_that_cannot_be_used_are_named_and_the_drive_goes_on_relative(relative, made, capsys):
    folder, out = relative
    _, gnss = made
    (folder / "gps.csv").write_text("time,lat,lon\n")
    drive = again(out)
    assert drive.origin is None
    assert any("a header and no rows" in note for note in drive.manifest.quality["notes"])
    assert "gps.csv" in capsys.readouterr().out
    rows = np.stack([gnss.time + 86_400, gnss.latitude, gnss.longitude], 1)
    np.savetxt(folder / "gps.csv", rows, "%.9f", ",", header="t,lat,lon", comments="")
    drive = again(out)
    assert drive.origin is None and any("not used" in note for note in drive.manifest.quality["notes"])
    assert drive.positions is not None and not drive.positions["used"].to_numpy(zero_copy_only=False).any()
    assert realign.main(["--output", str(out), "--drive", "drive-1", "--positions.file", "/nowhere/gps.csv"]) == 1
    assert "/nowhere/gps.csv is not there" in capsys.readouterr().err


def test_the_speed_alone_makes_a_drive_metric(relative, made):
    folder, out = relative
    scenario, _ = made
    place = np.asarray(scenario.world_from_cam)[:, :3, 3]
    speed = np.linalg.norm(np.gradient(place, 0.1, axis=0), axis=1)
    np.savetxt(
        folder / "wheel_speed.csv",
        np.stack([np.arange(len(speed)) * 0.1, speed * 3.6], 1),
        "%.4f",
        ",",
        header="time,speed_kmh",
        comments="",
    )
    drive = again(out)
    length = np.linalg.norm(np.diff(place, axis=0), axis=1).sum()
    assert drive.origin is None and drive.manifest.metric["source"] == "speed"
    assert drive.manifest.counts.path_length == pytest.approx(length, rel=0.015)
