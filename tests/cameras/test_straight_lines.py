"""What pictures say of their lens: edges that are straight in the world, seen through pinholes and others."""

import cv2
import numpy as np
import pytest

from pipeline.backend.lens import lens_findings
from pipeline.cameras.camera import Camera
from pipeline.cameras.straight_lines import find_bend, long_edges
from pipeline.synthetic.lens import named_lens

W, H = 224, 112
FRAMES = range(100)


def street(lens, seed, frames=16):
    """Walls before the camera, seen through a lens: polygons in the world, drawn at four times the size."""
    random = np.random.default_rng(seed)
    for _ in range(frames):
        big = np.full((4 * H, 4 * W, 3), 128, np.uint8)
        for _ in range(14):
            x, y = random.uniform(-8, 8), random.uniform(-3, 2)
            width, height, depth, lean = (
                random.uniform(1, 4),
                random.uniform(1, 3),
                random.uniform(4, 9),
                random.uniform(-2, 2),
            )
            corners = np.array([[x, y], [x + width, y], [x + width, y + height], [x, y + height]])
            t = np.linspace(0, 1, 40)[:, None]
            outline = np.concatenate([a + t * (b - a) for a, b in zip(corners, np.roll(corners, -1, 0), strict=True)])
            z = depth + lean * (outline[:, 0] - x) / width
            pixels = lens.project(np.column_stack([outline, z]))
            if np.isfinite(pixels).all():
                cv2.fillPoly(big, [np.round(pixels * 4).astype(np.int32)], random.uniform(0, 255, 3).tolist())
        noisy = cv2.resize(big, (W, H), interpolation=cv2.INTER_AREA) + random.normal(0, 2, (H, W, 3))
        yield noisy.clip(0, 255).astype(np.uint8)


def pinhole(degrees):
    focal = W / 2 / np.tan(np.radians(degrees) / 2)
    return Camera("pinhole", W, H, focal, focal, W / 2, H / 2)


@pytest.mark.parametrize("degrees", [50, 80, 110])
@pytest.mark.parametrize("seed", range(3))
def test_a_pinhole_bends_no_lines(degrees, seed):
    evidence = find_bend(street(pinhole(degrees), seed))
    assert abs(evidence.bend) < 0.06 and lens_findings(evidence, FRAMES, False) == []


@pytest.mark.parametrize(
    ("name", "bend", "said"), [("fisheye", -0.65, "a fisheye"), ("barrel", -0.15, "a barrel lens")]
)
@pytest.mark.parametrize("seed", range(3))
def test_a_lens_is_told_by_the_lines_that_it_bends(name, bend, said, seed):
    evidence = find_bend(street(named_lens(name, W, H), seed))
    assert evidence.bend == pytest.approx(bend, abs=0.09)
    (finding,) = lens_findings(evidence, FRAMES, False)
    assert finding.level == "warn" and said in finding.reason and "--camera.file" in finding.reason
    assert finding.frames == FRAMES
    assert "does not fit this camera" in lens_findings(evidence, FRAMES, True)[0].reason


def test_pictures_without_edges_tell_nothing():
    assert find_bend([np.full((H, W, 3), 90, np.uint8)] * 20) is None
    assert lens_findings(None, FRAMES, False) == []


def test_the_border_of_a_mask_is_no_edge():
    picture = np.full((H, W, 3), 200, np.uint8)
    mask = np.ones((H, W), bool)
    mask[80:] = False
    picture[80:] = 0
    assert len(long_edges(picture)) == 1
    keep = cv2.erode(mask.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)
    assert long_edges(picture, keep) == []
