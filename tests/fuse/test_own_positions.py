"""The city and a drive's own positions are compared: a contradiction is said."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from pipeline.backend.sim3 import Sim3
from pipeline.common.geodesy import geodetic_from_enu
from pipeline.errors import DriveError
from pipeline.fuse import solve
from pipeline.fuse.own_positions import contradicted, from_origin
from pipeline.fuse.published_drives import read_drive
from pipeline.publish import open_drive
from tests.fuse.rendered_drives import Rendered, publish

ORIGIN = (48.1, 11.6, 520.0)


@pytest.fixture(scope="module")
def solved(tmp_path_factory):
    """A drive on Earth and its city."""
    out = tmp_path_factory.mktemp("earth")
    publish(out, out / "images", "a", Rendered(range(0, 30, 3)), Sim3.identity(), origin=ORIGIN)
    drive = read_drive(open_drive(str(out), "a"))
    other = tuple(float(value) for value in geodetic_from_enu(np.array([300.0, 200.0, 10.0]), ORIGIN))
    return drive, solve([drive.joined], [], fixes={0: drive.fixes}, frame_time_s={0: drive.time_s}, origin=other)


def test_a_drive_where_its_own_positions_have_it_needs_no_note(solved):
    drive, city = solved
    assert city.drives[0].on_earth and not contradicted([drive], city)


@pytest.mark.parametrize(
    ("east", "scale", "said"), [(20.0, 1.0, "20 m from its own"), (0.0, 1.3, "at 1.30 of its own")]
)
def test_a_drive_in_another_place_or_of_another_scale_is_named(solved, east, scale, said):
    drive, city = solved
    pose = city.drives[0].city_from_camera.copy()
    pose[:, 0, 3] += east
    moved = replace(city.drives[0], city_from_camera=pose, depth_scale=scale * city.drives[0].depth_scale)
    (note,) = contradicted([drive], replace(city, drives=(moved,)))
    assert note.startswith("drive a: ") and said in note
    assert not contradicted([drive], replace(city, drives=(replace(moved, on_earth=False),)))


def test_places_from_another_origin_are_the_same_places_on_earth():
    there = (48.11, 11.63, 500.0)
    place = np.array([[10.0, 20.0, 3.0], [-400.0, 5.0, 0.0]])
    moved, turn = from_origin(place, ORIGIN, there)
    np.testing.assert_allclose(geodetic_from_enu(moved, there), geodetic_from_enu(place, ORIGIN), atol=1e-8)
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)


def test_a_drive_whose_own_metres_differ_from_those_of_the_city_is_named(solved):
    drive, city = solved
    manifest = replace(drive.opened.manifest, georeference=None, metric={"by": "stereo"})
    metric = replace(drive, opened=replace(drive.opened, manifest=manifest))
    alone = replace(city.drives[0], on_earth=False)
    assert not contradicted([metric], replace(city, drives=(alone,), origin=None))
    longer = replace(alone, depth_scale=1.2 * alone.depth_scale)
    (note,) = contradicted([metric, metric], replace(city, drives=(alone, longer), origin=None))
    assert note == "drive a: a metre of its own is 1.20 m of the city, which a made; one of them is wrong"


def with_positions(opened, **columns):
    """The drive with other values in its table of positions."""
    table = opened.positions
    for name, values in columns.items():
        at = table.schema.get_field_index(name)
        table = table.set_column(at, table.schema.field(at), pa.array(values, table.schema.field(at).type))
    changed = replace(opened)
    changed.__dict__["positions"] = table
    return changed


def test_positions_far_from_a_drives_own_trajectory_are_not_used_and_if_most_are_the_drive_is_damaged(solved):
    opened = solved[0].opened
    latitude = opened.positions["latitude"].to_numpy()
    assert len(solved[0].fixes) == len(latitude) == 2
    assert len(read_drive(with_positions(opened, latitude=[latitude[0], -latitude[1]])).fixes) == 1
    assert len(read_drive(with_positions(opened, time_s=[0.0, 1e9])).fixes) == 1  # after the drive
    with pytest.raises(DriveError, match=r"drive a: positions.parquet: 2 of 2 positions are far from its trajectory"):
        read_drive(with_positions(opened, latitude=-latitude))
