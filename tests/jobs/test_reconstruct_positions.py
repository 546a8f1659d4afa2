"""The main job with positions, from pictures to maps: a rendered drive with fixes that are made from its truth."""

import json
import re

import laspy
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from jobs import evaluate, export, verify
from pipeline.common.geodesy import enu_from_geodetic, geodetic_from_enu
from pipeline.publish import open_drive
from pipeline.synthetic import read_drive, sample_drive
from tests.jobs.runs import run

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("one_ray"), pytest.mark.slow]

ORIGIN = (48.137, 11.575, 567.0)
OFFSET_S = 0.4  # clock of the receiver minus clock of the drive
HEADING = np.radians(70.0)
# axes of the drive's first camera (right, down, forward) to east, north, up
ENU_FROM_WORLD = np.array([[np.cos(HEADING), 0, np.sin(HEADING)], [-np.sin(HEADING), 0, np.cos(HEADING)], [0, -1, 0]])


@pytest.fixture(scope="module")
def placed(tmp_path_factory):
    """True places of the sample drive (metres east, north, up at ORIGIN), and a folder with a CSV of its fixes."""
    root = tmp_path_factory.mktemp("placed")
    truth = read_drive(sample_drive())
    enu = truth.world_from_camera[:, :3, 3] @ ENU_FROM_WORLD.T
    moments = np.arange(0.13, truth.timestamps_s[-1], 0.5)
    rng = np.random.default_rng(5)
    fixes = np.stack([np.interp(moments, truth.timestamps_s, enu[:, axis]) for axis in range(3)], 1)
    fixes += rng.normal(0, 0.3, fixes.shape)
    rows = np.stack([moments + OFFSET_S, *geodetic_from_enu(fixes, ORIGIN), np.full(len(moments), 0.5)], 1)
    np.savetxt(root / "rtk.csv", rows, "%.9f", ",", header="time,latitude,longitude,altitude,accuracy", comments="")
    return enu, root


def test_the_default_run_is_compared_with_its_truth_and_with_fixes_it_is_placed_on_earth(placed, capsys):
    enu, root = placed
    assert run("--output", root / "out", "--positions.file", root / "rtk.csv") == 0
    said = capsys.readouterr().out
    errors = re.findall(r"truth: ATE ([\d.]+) m \([\d.]+% of 93 m\), depth off by ([\d.]+)%", said)
    (ate, depth), (ate_unrefined, depth_unrefined) = [tuple(map(float, one)) for one in errors]
    assert ate < 0.6 * ate_unrefined and ate_unrefined < 2  # a straight line has more than 5
    assert depth < depth_unrefined < 12
    unrefined = open_drive(str(root / "out" / "_unrefined"), "city", check_hashes=True)
    assert unrefined.manifest.config["refine"] is False and not (root / "out" / "_staging").exists()
    assert "random weights" not in said
    shown = f"--truth {sample_drive()} --compare unrefined={root / 'out' / '_unrefined'} --serve"
    assert f"python -m jobs.report --output {root / 'out'} --drive city {shown}" in said
    with Image.open(root / "out" / "city.png") as picture:
        shown = np.asarray(picture.convert("RGB"))
    assert shown.shape[1] > 1000
    assert shown.std() > 20  # the picture is not empty
    assert re.search(r"place +48\.13\d+, 11\.57\d+ \(CSV rtk.csv", said)

    drive = open_drive(str(root / "out"), "city", check_hashes=True)
    poses = pq.read_table(root / "out" / "city" / "poses.parquet")
    found = enu_from_geodetic(*(poses[name].to_numpy() for name in ("latitude", "longitude", "altitude")), ORIGIN)
    assert len(found) == len(enu)
    off = np.linalg.norm((found - enu)[:, :2], axis=1)
    assert np.sqrt((off**2).mean()) < 1.5 and off.max() < 5
    manifest = json.loads((root / "out" / "city" / "manifest.json").read_text())
    assert manifest["metric"]["source"] == "fixes" and manifest["metric"]["deviation"] < 0.05
    length = np.linalg.norm(np.diff(enu, axis=0), axis=1).sum()
    assert manifest["counts"]["path_length"] == pytest.approx(length, rel=0.03)
    place = manifest["georeference"]
    assert place["fixes_used"] > 0.9 * place["fixes"] and place["residual_horizontal_m"] < 1
    assert abs(place["clock_offset_s"] - OFFSET_S) < 3 * place["clock_offset_deviation_s"] < 0.6
    assert drive.positions.num_rows == place["fixes"]
    assert verify.main(["--output", str(root / "out")]) == 0


def test_other_programs_read_the_exported_drive_at_the_same_place_on_earth(placed):
    enu, root = placed
    formats = ("laz", "geoparquet", "geojson", "kml", "3dtiles")
    to = root / "maps"
    arguments = ["--output", str(root / "out"), "--drive", "city", "--format", *formats, "--to", str(to)]
    assert export.main(arguments) == 0
    points = laspy.read(next(to.rglob("points.laz")))
    assert len(points.x) > 10_000 and "UTM zone 32N" in points.header.parse_crs().name
    line = json.loads(next(to.rglob("trajectory.geojson")).read_text())["features"][0]["geometry"]["coordinates"]
    longitude, latitude, altitude = np.array(line).T
    assert np.abs(enu_from_geodetic(latitude, longitude, altitude, ORIGIN)[:, :2] - enu[:, :2]).max() < 5
    for name in ("trajectory.parquet", "trajectory.kml", "tileset.json"):
        assert next(to.rglob(name)).stat().st_size > 500


def test_a_georeferenced_drive_is_evaluated_without_alignment(placed):
    enu, root = placed
    rows = np.concatenate([np.tile(np.eye(3), (len(enu), 1, 1)), enu[:, :, None]], 2).reshape(-1, 12)
    np.savetxt(root / "truth.txt", rows)
    arguments = ["--pred", root / "out" / "city", "--truth", root / "truth.txt", "--match", "index"]
    place = ",".join(map(repr, ORIGIN))
    assert evaluate.main([*map(str, arguments), "--json", str(root / "e.json"), "--truth-origin", place]) == 0
    absolute = json.loads((root / "e.json").read_text())["trajectory"]["absolute"]
    assert 0.05 < absolute["horizontal"] < 1.5
