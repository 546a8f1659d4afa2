"""Masks are one picture for all frames, or one picture for each frame by its name."""

import numpy as np
import pytest
from PIL import Image

from pipeline.cameras.fields import CalibrationError
from pipeline.ingest.drives import find_drive
from pipeline.ingest.frame_masks import FrameMasks, FrameShape
from tests.ingest.makers import write_images

SHAPE = FrameShape((64, 48), (32, 24))


def write_mask(path, top):
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.full((48, 64), 255, np.uint8)
    mask[top:] = 0
    Image.fromarray(mask).save(path)


def test_one_picture_is_the_mask_of_all_frames(tmp_path):
    write_mask(tmp_path / "bonnet.png", 40)
    masks = FrameMasks(str(tmp_path / "bonnet.png"), "d", ["a/0.jpg", "a/1.jpg"], SHAPE)
    assert masks.static[0][:20].all() and not masks.static[0][20:].any()
    assert masks.of(1) is masks.static[0]


@pytest.mark.parametrize("name", ["0.jpg.png", "0.png", "0_mask.png"])
@pytest.mark.parametrize("folder", ["masks", "masks/d"])
def test_a_folder_has_masks_by_the_names_of_frames(tmp_path, folder, name):
    write_mask(tmp_path / folder / name, 24)
    masks = FrameMasks(str(tmp_path / "masks"), "d", ["a/0.jpg", "a/1.jpg"], SHAPE)
    assert not masks.static and masks.of(1) is None
    assert masks.of(0)[:12].all() and not masks.of(0)[12:].any()


def test_frames_of_a_video_are_named_by_number(tmp_path):
    write_mask(tmp_path / "000007.png", 24)
    masks = FrameMasks(str(tmp_path), "d", ["a.mp4#frame=6", "a.mp4#frame=7"], SHAPE)
    assert masks.of(0) is None and masks.of(1) is not None


def test_masks_that_fit_no_frame_give_an_error_before_any_work(tmp_path):
    write_images(tmp_path / "drive", 2)
    write_mask(tmp_path / "masks" / "other.png", 24)
    with pytest.raises(CalibrationError, match=r"--masks .*no mask with the name of a frame of drive drive, such as"):
        find_drive(str(tmp_path / "drive"), masks=str(tmp_path / "masks"))


def test_the_content_of_masks_is_part_of_a_results_identity(tmp_path):
    write_images(tmp_path / "drive", 2)
    write_mask(tmp_path / "a.png", 24)
    write_mask(tmp_path / "b.png", 30)
    found = [
        find_drive(str(tmp_path / "drive"), masks=mask) for mask in (str(tmp_path / "a.png"), str(tmp_path / "b.png"))
    ]
    assert found[0].picture.keys() == {"masks"} and found[0].picture != found[1].picture
    assert find_drive(str(tmp_path / "drive")).picture == {}
    assert find_drive(str(tmp_path / "drive"), masks="auto").picture == {}  # auto is only a setting: there is no file
