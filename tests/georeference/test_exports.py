"""A georeferenced drive for maps, read by other programs: the same places to a millimetre."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from xml.etree import ElementTree

import laspy
import numpy as np
import pyarrow.parquet as pq
import pyproj
import pytest

from jobs import evaluate, export
from pipeline.common.progress import Reporter
from pipeline.finish import join_and_publish
from pipeline.georeference import find_positions
from pipeline.publish import open_drive
from pipeline.publish.exports.copc import octree
from pipeline.staged_drive import facts_with_positions
from tests.georeference.drives import scenario_and_fixes, stage, write_gps

MILLIMETRE = 1e-3


@pytest.fixture(scope="module")
def placed(shared, tmp_path_factory):
    """A published drive with positions, and its export to all formats of maps."""
    root = tmp_path_factory.mktemp("placed")
    scenario, gnss = scenario_and_fixes(shared)
    gnss.latitude[10:12] += 5e-4  # multipath: 55 m north
    folder, out = root / "drive-1", root / "out"
    folder.mkdir()
    write_gps(folder / "gps.csv", gnss)
    staged, config = stage(scenario, folder, out)
    from dataclasses import replace

    staged = replace(staged, facts=facts_with_positions(staged.facts, config.positions))
    assert find_positions(str(folder), staged.facts.frame_uris, "drive-1", config.positions) is not None
    join_and_publish(staged, config, str(out), Reporter(), lambda: None)
    formats = ("laz", "copc", "geoparquet", "geojson", "kml", "3dtiles")
    to = root / "maps"
    assert export.main(["--output", str(out), "--drive", "drive-1", "--format", *formats, "--to", str(to)]) == 0
    return open_drive(str(out), "drive-1"), to


def ecef(drive, enu):
    """By pyproj alone: the drive's metres as earth-centred ones."""
    latitude, longitude, altitude = drive.origin
    pipeline = (
        f"+proj=pipeline +step +inv +proj=topocentric +ellps=WGS84 +lat_0={latitude!r} +lon_0={longitude!r} "
        f"+h_0={altitude!r}"
    )
    return np.stack(pyproj.Transformer.from_pipeline(pipeline).transform(*np.asarray(enu, float).T), -1)


def ecef_of_degrees(longitude, latitude, height):
    way = pyproj.Transformer.from_crs("EPSG:4979", "EPSG:4978", always_xy=True)
    return np.stack(way.transform(longitude, latitude, height), -1)


def test_laz_is_in_utm_with_both_systems_named(placed):
    drive, to = placed
    las = laspy.read(to / "points.laz")
    assert las.header.version.minor == 4 and las.header.global_encoding.wkt
    crs = las.header.parse_crs()
    assert "UTM zone 32N" in crs.name and "ellipsoid" in crs.to_wkt().lower()
    table = drive.points(columns=["x", "y", "z", "frame_index"])
    enu = np.stack([table[axis].to_numpy() for axis in "xyz"], -1)
    way = pyproj.Transformer.from_crs("EPSG:32632", "EPSG:4326", always_xy=True)
    longitude, latitude = way.transform(np.asarray(las.x), np.asarray(las.y))
    away = ecef_of_degrees(longitude, latitude, np.asarray(las.z)) - ecef(drive, enu)
    assert np.linalg.norm(away, axis=1).max() < MILLIMETRE


def test_copc_has_the_points_of_laz_in_an_octree_that_is_read_from_the_top(placed):
    _, to = placed
    las = laspy.read(to / "points.laz")
    whole = np.stack([las.X, las.Y, las.Z, las.red, las.frame], 1)
    assert (to / "points.copc.laz").read_bytes()[377:381] == b"copc"
    with laspy.CopcReader.open(str(to / "points.copc.laz")) as reader:
        assert "UTM zone 32N" in reader.header.parse_crs().name
        np.testing.assert_array_equal(reader.header.maxs, las.header.maxs)
        every = reader.query()
        found = np.stack([every.X, every.Y, every.Z, every.red, every.frame], 1)
        top = reader.query(level=0)
        middle = np.array([np.median(las.x), np.median(las.y)])
        part = reader.query(laspy.copc.Bounds(middle - 10, middle + 10))
    np.testing.assert_array_equal(found[np.lexsort(found.T)], whole[np.lexsort(whole.T)])
    assert 0 < len(top) < len(every)
    place = np.stack([las.x, las.y], 1)
    assert len(part) == (np.abs(place - middle) <= 10).all(1).sum() > 0
    plain = laspy.read(to / "points.copc.laz")  # and any reader of LAZ reads it
    assert len(plain.points) == len(every) and (plain.return_number == 1).all()


def test_every_node_of_an_octree_lies_in_its_parent_and_keeps_one_point_a_cell():
    place = np.random.default_rng(0).integers(0, 1000, (60_000, 3)) ** 2 // 1000
    order, keys, counts = octree(place, 1000)
    np.testing.assert_array_equal(np.sort(order), np.arange(len(place)))
    assert keys[0].tolist() == [0, 0, 0, 0] and len(np.unique(keys, axis=0)) == len(keys) > 8
    known = set(map(tuple, keys.tolist()))
    for key, points in zip(keys, np.split(order, np.cumsum(counts)[:-1]), strict=True):
        side = 1000 / 2 ** key[0]
        assert (np.floor(place[points] / side) == key[1:]).all()
        assert key[0] == 0 or (key[0] - 1, *(key[1:] // 2).tolist()) in known


def test_geoparquet_is_read_by_geopandas(placed):
    geopandas = pytest.importorskip("geopandas")
    drive, to = placed
    frame = geopandas.read_parquet(to / "trajectory.parquet")
    assert len(frame) == drive.manifest.counts.frames and "deviation_up" in frame.columns
    assert frame.crs.is_geographic
    poses = drive.cameras.world_from_camera[:, :3, 3]
    points = np.array([(p.x, p.y, p.z) for p in frame.geometry])
    assert np.linalg.norm(ecef_of_degrees(*points.T) - ecef(drive, poses), axis=1).max() < MILLIMETRE
    line = geopandas.read_parquet(to / "path.parquet").geometry[0]
    np.testing.assert_allclose(np.array(line.coords), points, atol=1e-12)
    area = geopandas.read_parquet(to / "footprint.parquet").geometry[0]
    assert area.is_valid and area.buffer(1e-6).covers(line)
    geo = json.loads(pq.read_schema(to / "trajectory.parquet").metadata[b"geo"])
    assert geo["version"] == "1.1.0" and geo["columns"]["geometry"]["geometry_types"] == ["Point Z"]


def test_geojson_and_kml_say_the_same_places(placed):
    drive, to = placed
    want = ecef(drive, drive.cameras.world_from_camera[:, :3, 3])
    features = json.loads((to / "trajectory.geojson").read_text())["features"]
    line = np.array(features[0]["geometry"]["coordinates"])
    assert np.linalg.norm(ecef_of_degrees(*line.T) - want, axis=1).max() < MILLIMETRE
    assert features[1]["geometry"]["type"] == "Point" and len(features) == len(want) + 1
    tree = ElementTree.parse(to / "trajectory.kml")
    text = tree.find(".//{http://www.opengis.net/kml/2.2}coordinates").text
    places = np.array([[float(x) for x in one.split(",")] for one in text.split()])
    assert np.linalg.norm(ecef_of_degrees(*places.T) - want, axis=1).max() < MILLIMETRE


def test_kml_is_read_by_gdal(placed):
    geopandas = pytest.importorskip("geopandas", reason="GDAL reads KML through geopandas and pyogrio")
    pytest.importorskip("pyogrio", reason="GDAL reads KML through geopandas and pyogrio")
    drive, to = placed
    line = np.array(geopandas.read_file(to / "trajectory.kml").geometry[0].coords)
    want = ecef(drive, drive.cameras.world_from_camera[:, :3, 3])
    assert np.linalg.norm(ecef_of_degrees(*line.T) - want, axis=1).max() < MILLIMETRE


def test_tiles_of_points_stand_where_the_drive_is(placed):
    drive, to = placed
    tileset = json.loads((to / "tileset.json").read_text())
    assert tileset["asset"]["version"] == "1.1"
    transform = np.array(tileset["root"]["transform"]).reshape(4, 4).T
    y_up = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])  # a viewer's, before any transform of tiles
    found = []
    for child in tileset["root"]["children"]:
        data = (to / child["content"]["uri"]).read_bytes()
        magic, version, length = struct.unpack_from("<4sII", data)
        assert (magic, version, length) == (b"glTF", 2, len(data))
        size = struct.unpack_from("<I", data, 12)[0]
        tree = json.loads(data[20 : 20 + size])
        count = tree["accessors"][0]["count"]
        local = np.frombuffer(data, "<f4", 3 * count, 28 + size).reshape(-1, 3)
        assert np.abs(local).max() < 2_000
        moved = (local.astype(float) + tree["nodes"][0]["translation"]) @ y_up.T
        found.append(moved @ transform[:3, :3].T + transform[:3, 3])
    table = drive.points(columns=["x", "y", "z"])
    want = ecef(drive, np.stack([table[axis].to_numpy() for axis in "xyz"], -1))
    assert np.linalg.norm(np.concatenate(found) - want, axis=1).max() < MILLIMETRE


def test_tiles_are_read_by_py3dtiles(placed):
    tileset = pytest.importorskip(
        "py3dtiles.tileset", reason="py3dtiles asks for numba, and with it for an older NumPy than the product's"
    )
    drive, to = placed
    read = tileset.TileSet.from_file(to / "tileset.json")
    root = read.root_tile
    found = []
    for tile in root.children:
        points = tile.get_or_fetch_content(to)
        assert type(points).__name__ == "PointsGltf"
        y_up = np.array(points._gltf.nodes[0].translation) + points.get_vertices()
        enu = np.stack([y_up[:, 0], -y_up[:, 2], y_up[:, 1]], 1)
        found.append(enu @ root.transform[:3, :3].T + root.transform[:3, 3])
    table = drive.points(columns=["x", "y", "z"])
    want = ecef(drive, np.stack([table[axis].to_numpy() for axis in "xyz"], -1))
    assert np.linalg.norm(np.concatenate(found) - want, axis=1).max() < MILLIMETRE


def test_another_system_is_asked_for_by_its_number(placed, tmp_path, capsys):
    drive, to = placed
    out = to.parent / "out"
    arguments = ["--output", str(out), "--drive", "drive-1", "--format", "laz", "--to", str(tmp_path / "x")]
    assert export.main([*arguments, "--crs", "EPSG:3035"]) == 0
    assert "LAEA Europe" in laspy.read(tmp_path / "x" / "points.laz").header.parse_crs().name
    place = json.loads((tmp_path / "x" / "georeference.json").read_text())
    assert place["origin"]["latitude"] == pytest.approx(drive.origin[0])
    assert export.main([*arguments[:-1], str(tmp_path / "y"), "--crs", "EPSG:4326"]) != 0
    assert "no system of metres" in capsys.readouterr().err


def test_a_relative_drive_has_no_map(shared, tmp_path, capsys):
    scenario, _ = scenario_and_fixes(shared)
    folder, out = tmp_path / "drive-1", tmp_path / "out"
    folder.mkdir()
    staged, config = stage(scenario, folder, out)
    join_and_publish(staged, config, str(out), Reporter(), lambda: None)
    arguments = ["--output", str(out), "--drive", "drive-1", "--format", "kml", "--to", str(tmp_path / "x")]
    assert export.main(arguments) == 1
    assert "not georeferenced" in capsys.readouterr().err and not (tmp_path / "x").exists()


def test_evaluation_compares_places_with_nothing_aligned(placed, shared, tmp_path, capsys):
    _, to = placed
    scenario, gnss = scenario_and_fixes(shared)
    enu = np.asarray(scenario.world_from_cam)[:, :3, 3] @ gnss.enu_from_world[:3, :3].T
    rotation = gnss.enu_from_world[:3, :3] @ np.asarray(scenario.world_from_cam)[:, :3, :3]
    rows = np.concatenate([rotation, enu[:, :, None]], 2).reshape(-1, 12)
    np.savetxt(tmp_path / "truth.txt", rows)
    arguments = [
        "--pred",
        str(to.parent / "out" / "drive-1"),
        "--truth",
        str(tmp_path / "truth.txt"),
        "--match",
        "index",
    ]
    place = ",".join(repr(float(one)) for one in gnss.origin)
    assert evaluate.main([*arguments, "--json", str(tmp_path / "e.json"), "--truth-origin", place]) == 0
    found = json.loads((tmp_path / "e.json").read_text())["trajectory"]
    assert 0.1 < found["absolute"]["horizontal"] < 4 and found["sim3"]["ate"]["rmse"] < found["absolute"]["rmse"]
    assert "nothing aligned" in capsys.readouterr().out
    assert evaluate.main([*arguments, "--truth-origin", "91,0,0"]) != 0
    assert "no place on Earth" in capsys.readouterr().err


def test_the_report_has_north_fixes_and_what_made_it_metric(placed):
    from pipeline.report.comparison import Compared
    from pipeline.report.drive_report import _fixes, _place_rows
    from pipeline.report.drive_view import DriveView
    from pipeline.report.figures import drive_figures
    from pipeline.report.index import _place

    drive, _ = placed
    view = DriveView.of(drive)
    np.testing.assert_array_equal(view.ground, [[1, 0, 0], [0, 1, 0]])
    fixes = _fixes(view)
    assert (
        len(fixes) == len(view.fixes) > 20 and sum(one[2] for one in fixes) == drive.manifest.georeference["fixes_used"]
    )
    assert [one[2] for one in view.fixes][10:12] == [False, False]
    rows = dict(_place_rows(view))
    assert rows["scale from"].startswith("fixes, to") and "gps.csv" in rows["positions"]
    assert not {"antenna", "speed"} & set(rows)
    told = {"lever_m": [0.1, -1.2, -0.45], "lever_given": False, "lever_estimated": True, "speed_factor": 0.985}
    manifest = drive.manifest
    told = replace(manifest, georeference={**manifest.georeference, **told})
    rows = dict(_place_rows(replace(view, drive=replace(drive, manifest=told))))
    assert rows["antenna"] == "0.10, -1.20, -0.45 m from the camera, estimated"
    assert rows["speed"] == "shows 1.5 % less way than the fixes"
    names = [one.name for one in drive_figures(view, Compared(None, (), None, None, view.length, True))]
    assert "fixes" in names
    longitude, latitude = _place(view)[0]
    assert (latitude, longitude) == pytest.approx(
        (drive.poses["latitude"][0].as_py(), drive.poses["longitude"][0].as_py())
    )
