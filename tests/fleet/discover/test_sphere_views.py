from pipeline.config import RunConfig
from pipeline.fleet.discover.drive_ref import DriveRef, RefusedDrive
from pipeline.fleet.discover.sphere_views import each_view
from pipeline.fleet.plan.drive_plan import drive_config


def test_each_view_of_a_sphere_is_a_drive_of_its_own():
    refused = RefusedDrive("odd", "in/odd", "why")
    found = list(each_view([DriveRef("a", "in/a", camera="c.yaml"), refused], ("front", "rear")))
    assert [ref.drive_id for ref in found] == ["a-front", "a-rear", "odd"] and found[2] is refused
    config = drive_config(RunConfig(), found[1])
    assert (config.drive_id, config.camera.views, config.camera.file) == ("a-rear", "rear", "c.yaml")
    assert list(each_view(found[:1], ())) == found[:1]
