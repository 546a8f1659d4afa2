"""Pictures of both drives confirm an object that only one has, also where dense depth lacks it. What moves, what
pictures do not show, and what depth made up are no change."""

import shutil

import numpy as np
import pytest

from pipeline.backend.sim3 import Sim3
from pipeline.fuse.drive_pictures import DrivePictures
from pipeline.fuse.picture_change import Sight, changed_objects
from pipeline.fuse.picture_depth import votes
from pipeline.publish import open_drive
from tests.fuse.rendered_drives import publish
from tests.fuse.scenes import CAR, SceneDrive, cameras, seen

VOXEL, METRE = 0.2, 1.0
ONE = Sim3(1.0, np.eye(3), np.zeros(3))
REAR = np.array([[x, y, CAR[0][2]] for x in (3.3, 3.8, 4.3) for y in (0.4, 0.8, 1.2)])  # points of the car's rear
NO_CORNERS = np.zeros((0, 3))


def parked(frame):
    return (CAR,)


def oncoming(frame):
    """A car in the other lane, as fast as the camera."""
    at = 30.0 - frame
    return (((-3.9, 0.1, at), (-2.1, 1.45, at + 4.0)),)


SCENES = {"parked": (parked, 0.0, 0.0), "empty": (lambda frame: (), 0.7, 0.5), "oncoming": (oncoming, 0.0, 0.0)}


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    out = tmp_path_factory.mktemp("pictures")
    for name, (boxes, aside, start) in SCENES.items():
        publish(
            out / "out",
            out / name,
            name,
            SceneDrive(boxes, aside=aside, start=start, way=-1.0 if boxes is oncoming else 0.0),
            ONE,
        )
    return out / "out"


def pictures_of(output, name):
    opened = open_drive(str(output), name)
    return DrivePictures(opened, opened.cameras.world_from_camera)


def sight(output, name, corners=NO_CORNERS, dense=None):
    """What a drive knows. dense: the drive whose dense points it has, by default its own."""
    boxes, aside, start = SCENES[dense or name]
    cloud = seen(cameras(aside=aside, start=start), boxes).thinned(VOXEL)[0]
    return Sight(cloud, corners, pictures_of(output, name))


def found(first, second):
    asked = np.ones(len(first.cloud.xyz), bool)
    return changed_objects(first, second, asked, np.ones(len(first.corners), bool), VOXEL, METRE)


def on_the_car(one):
    low, high = np.array(CAR[0]) - 0.4, np.array(CAR[1]) + 0.4
    return ((one.xyz > low) & (one.xyz < high)).all(1).mean()


def test_pictures_of_a_drive_say_whether_it_saw_a_surface_at_a_point_or_looks_through_it(output):
    own, other = (votes(pictures_of(output, name), REAR, METRE, 8) for name in ("parked", "empty"))
    assert (own.met >= 3).mean() > 0.7 and not own.through.any()
    assert (other.through >= 1).mean() > 0.6 and not other.met.any()
    assert (other.camera[other.through > 0] >= 0).all() and (own.camera == -1).all()
    nowhere = REAR + [0, 0, 200.0]  # not in any picture
    assert not votes(pictures_of(output, "parked"), nowhere, METRE, 8).met.any()
    assert not len(votes(pictures_of(output, "parked"), NO_CORNERS, METRE, 8).met)


def test_a_parked_car_is_found_by_its_corners_although_dense_depth_lacks_it(output):
    (one,) = found(sight(output, "parked", REAR, dense="empty"), sight(output, "empty"))
    assert on_the_car(one) > 0.9 and len(one.xyz) >= 25
    assert len(one.camera) == len(one.pixel) == len(one.xyz) and 0 <= one.through < 20


def test_what_only_dense_depth_has_is_no_change(output):
    # The first drive's depth has a car that its pictures do not show; then the second one's lacks one that they show.
    assert found(sight(output, "parked"), sight(output, "empty"))
    assert not found(sight(output, "empty", dense="parked"), sight(output, "empty"))
    assert not found(sight(output, "parked"), sight(output, "parked", dense="empty"))


def test_a_car_that_comes_towards_the_camera_is_no_change_although_its_corners_look_like_those_of_a_nearer_one(output):
    eye = np.zeros(3)
    rear = np.array([[x, y, 30.0] for x in (-3.6, -3.0, -2.4) for y in (0.4, 0.8, 1.2)])
    apparent = eye + 0.5 * (rear - eye)  # the intersection of the rays to a point that is as fast as the camera
    assert not found(sight(output, "oncoming", apparent, dense="empty"), sight(output, "empty"))


def test_without_pictures_nothing_is_confirmed(output, tmp_path):
    shutil.copytree(output.parent, tmp_path / "moved", ignore=shutil.ignore_patterns("*.png"))
    gone = open_drive(str(output), "empty", images_from=str(tmp_path / "moved"))
    blind = Sight(sight(output, "empty").cloud, NO_CORNERS, DrivePictures(gone, gone.cameras.world_from_camera))
    assert not found(sight(output, "parked"), blind)
