import numpy as np
import pytest
from PIL import Image

from pipeline.cameras.rectify import remap_of, view_of
from pipeline.ingest.drives import find_drive
from pipeline.ingest.frame_masks import FrameMasks, FrameShape
from pipeline.ingest.segments import decode_segment, segment_of
from pipeline.synthetic import DriveSpec, read_drive, write_drive
from pipeline.synthetic.bonnet import bonnet_mask, bonnet_motion
from pipeline.synthetic.drive import CityDrive
from pipeline.synthetic.lens import LensDrive, named_lens


@pytest.mark.parametrize("name", ["fisheye", "barrel"])
def test_a_rectified_lens_image_equals_that_of_a_pinhole(name):
    lens = named_lens(name, 160, 120)
    view = view_of(lens, 96, 72, 66.0)
    through = LensDrive(3, 4, lens, supersample=2).render([0, 3])
    plain = CityDrive(3, 4, 72, 96, supersample=2, field_of_view=66.0).render([0, 3])
    np.testing.assert_allclose(through.world_from_camera, plain.world_from_camera)
    for k in range(2):
        got = remap_of(view).apply(Image.fromarray(through.images[k])).astype(float)
        assert np.abs(got - plain.images[k])[4:-4, 4:-4].mean() < 9  # edges of houses, sampled twice
        place = np.floor(view.lens_pixels()).astype(int)
        depth = through.depth[k][place[..., 1], place[..., 0]]
        both = (depth > 0) & (plain.depth[k] > 0)
        assert np.median(np.abs(depth[both] / plain.depth[k][both] - 1)) < 0.03


def test_a_written_lens_drive_brings_its_calibration_and_its_orientation(tmp_path):
    spec = DriveSpec(3, 2, 48, 64, 1, "barrel", True, 6, bonnet_shake=2.0)
    sequence = write_drive(spec, str(tmp_path), "00")
    drive = find_drive(sequence)
    assert (drive.source_width, drive.source_height, drive.orientation) == (64, 48, 6)
    assert drive.camera.camera.params == (-0.3, 0, 0, 0) and drive.camera.camera.model == "radtan"
    truth = read_drive(sequence)
    np.testing.assert_allclose(truth.intrinsics, drive.camera.camera.matrix, rtol=1e-9)
    motion = bonnet_motion(LensDrive(3, 2, named_lens("barrel", 64, 48)).world_from_camera, 3, 2.0)
    assert np.abs(motion).max() <= 2 and np.abs(np.diff(motion, axis=0)).max() > 0
    masks = FrameMasks(f"{sequence}/masks", "00", drive.frame_uris(), FrameShape((64, 48), (64, 48)))
    for frame, bonnet in enumerate(bonnet_mask(3, 48, 64, motion)):
        np.testing.assert_array_equal(masks.of(frame), ~bonnet)
        assert (truth.depth(frame)[bonnet] == 0).all()
    assert decode_segment(segment_of(drive, 0, range(2), range(2), 32, 48)).ok.all()


def test_an_unknown_lens_is_refused():
    with pytest.raises(ValueError, match="lens must be fisheye, barrel or equirectangular"):
        named_lens("plastic", 64, 48)
