from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from pipeline.cameras.camera import Camera
from pipeline.cameras.rectify import GREY, SPHERE_VIEWS, common_views, enlarged, remap_of, view_of
from tests.cameras.lenses import LENSES


def pattern(rays):
    """A smooth colour for every direction (..., 3)."""
    x, y, z = np.moveaxis(rays, -1, 0)
    return np.stack([128 + 90 * np.sin(6 * x), 128 + 90 * np.sin(6 * y), 128 + 90 * np.cos(5 * z)], -1)


def picture(camera):
    """What a lens sees of the pattern; black where it sees nothing."""
    u, v = np.meshgrid(np.arange(camera.width) + 0.5, np.arange(camera.height) + 0.5)
    colours = pattern(camera.unproject(np.stack([u, v], -1)))
    return Image.fromarray(np.where(np.isfinite(colours), colours, 0).astype(np.uint8))


@pytest.mark.parametrize("size", [(168, 126), (640, 480)])
@pytest.mark.parametrize("name", [name for name in LENSES if name != "pinhole"])
def test_a_rectified_picture_is_what_a_pinhole_sees(name, size):
    view = view_of(LENSES[name], *size)
    got = remap_of(view).apply(picture(LENSES[name])).astype(float)
    wanted = np.asarray(picture(view.pinhole)).astype(float)
    seen = view.seen()
    assert seen.mean() > 0.9
    inner = seen.copy()
    inner[[0, 1, -2, -1]] = inner[:, [0, 1, -2, -1]] = False  # the picture's rim has no neighbours
    assert np.abs(got - wanted)[inner].mean() < 1.5
    assert np.quantile(np.abs(got - wanted)[inner], 0.99) < 8


def test_a_view_is_as_wide_as_the_lens_but_no_wider_than_asked():
    lens = LENSES["radtan4"]
    edges = np.degrees(
        np.arctan2(*np.abs(lens.unproject(np.array([[0, lens.cy], [lens.width, lens.cy]])))[:, [0, 2]].T)
    )
    assert view_of(lens, 518, 196).degrees_across == pytest.approx(2 * edges.min())
    full = view_of(lens, 518, 392)  # of the lens' own shape: the picture is full, a little more of it would not be
    assert full.seen().all() and 0.9 * 2 * edges.min() < full.degrees_across < 2 * edges.min()
    assert not replace(full, focal=full.focal * 0.99).seen().all()
    assert view_of(LENSES["fisheye"], 518, 392).degrees_across == pytest.approx(100)
    assert view_of(LENSES["equirectangular"], 518, 392, 70.0).degrees_across == pytest.approx(70)
    with pytest.raises(ValueError, match=r"--camera\.fov"):
        view_of(lens, 518, 392, 170.0)


def test_what_the_lens_does_not_see_is_grey_and_unseen():
    lens = Camera("fisheye", 400, 400, 260.0, 260.0, 200.0, 200.0, (0.0, 0.0, 0.0, 0.0))  # 88 degrees, a square
    view = view_of(lens, 400, 400)
    shifted = Camera("fisheye", 400, 300, 260.0, 260.0, 200.0, 20.0, (0.0, 0.0, 0.0, 0.0))
    assert view.seen()[200, 200]
    view = view_of(shifted, 400, 400)
    seen = view.seen()
    assert not seen[0].any() and seen[200].any()
    out = remap_of(view).apply(Image.new("RGB", (400, 300), (255, 0, 0)))
    assert (out[~seen] == GREY).all() and (out[seen] == (255, 0, 0)).all()


def test_a_view_s_points_are_the_lens_points():
    view = view_of(LENSES["fisheye"], 336, 252)
    u, v = np.meshgrid(np.arange(336) + 0.5, np.arange(252) + 0.5)
    rays = view.pinhole.unproject(np.stack([u, v], -1))
    seen = view.seen()
    np.testing.assert_allclose(view.lens_pixels()[seen], LENSES["fisheye"].project(rays)[seen])


@pytest.mark.parametrize(("name", "degrees"), SPHERE_VIEWS.items())
def test_a_sphere_is_looked_out_of_to_four_sides(name, degrees):
    sphere = Camera.equirectangular(400, 200)
    longitude, latitude = np.meshgrid((np.arange(400) + 0.5) * 0.9 - 180, 90 - (np.arange(200) + 0.5) * 0.9)
    pixels = np.stack([longitude % 360 / 360 * 250, latitude + 90, np.abs(longitude)], -1).astype(np.uint8)
    view = view_of(sphere.turned(degrees), 100, 60, 90.0)
    found = remap_of(view).apply(Image.fromarray(pixels)).astype(float)
    ahead = view.pinhole.unproject(np.array([[50.0, 30.0], [70.0, 30.0]]))
    to = np.degrees(np.arctan2(ahead[:, 0], ahead[:, 2])) + degrees
    assert found[29:31, 49:51, 2].mean() == pytest.approx(np.abs((to[0] + 180) % 360 - 180), abs=2)
    assert found[29:31, 69:71, 2].mean() == pytest.approx(np.abs((to[1] + 180) % 360 - 180), abs=2)
    assert found[:29, 50, 1].mean() > found[31:, 50, 1].mean()  # up is up
    assert view.seen().all()
    rays = view.pinhole.unproject(np.random.default_rng(0).uniform((0, 0), (100, 60), (500, 2)))
    seen_at = view.lens.project(rays)
    assert ((seen_at >= 0) & (seen_at <= (400, 200))).all()
    np.testing.assert_allclose(view.lens.unproject(seen_at), rays, atol=1e-9)
    turn = Rotation.from_euler("y", degrees, degrees=True).as_matrix()
    np.testing.assert_allclose(sphere.project(rays @ turn.T), seen_at, atol=1e-6)


def test_the_seam_of_a_sphere_s_picture_is_not_seen_in_the_view_to_the_rear():
    across = np.cos(np.radians((np.arange(403) + 0.5) / 403 * 360 - 180)) * 100 + 120  # 403 has no divisor to shrink by
    pixels = np.broadcast_to(across[None, :, None], (200, 403, 3)).round().astype(np.uint8)
    view = view_of(Camera.equirectangular(403, 200).turned(180), 40, 20, 100.0)
    found = remap_of(view).apply(Image.fromarray(pixels)).astype(int)
    assert np.abs(np.diff(found, axis=1)).max() <= 4 and np.abs(found - found[:, ::-1]).max() <= 1


def test_only_a_sphere_is_turned():
    with pytest.raises(ValueError, match="only an equirectangular camera sees to all sides, not a fisheye"):
        LENSES["fisheye"].turned(90)


def wide(focal, width=400, height=240):
    return Camera("pinhole", width, height, focal, focal, width / 2, height / 2)


def test_different_cameras_are_seen_as_one_pinhole_which_most_of_them_fill():
    lenses = (wide(200), wide(400, 240, 400), wide(200.5), LENSES["radtan4"], wide(410))
    views = common_views(lenses[:3], 128, 80)
    assert {view.pinhole for view in views} == {views[0].pinhole}
    assert [view.lens for view in views] == list(lenses[:3])
    assert views[0].focal == view_of(lenses[2], 128, 80).focal  # the wide ones lose (nearly) nothing
    assert views[0].seen().all() and not views[1].seen().all()
    assert {view.pinhole for view in common_views(lenses, 128, 80)} == {common_views(lenses, 128, 80)[0].pinhole}
    for pair in (lenses[::4], lenses[::-4]):  # of two the narrower one: both fill it
        assert all(view.seen().all() for view in common_views(pair, 128, 80))
    large = enlarged(views, 1280)
    assert {view.pinhole for view in large} == {large[0].pinhole}
    assert large[0].width == 384 and abs(large[0].focal / 200 - 1) < 0.1  # as fine as most lenses' pictures
    assert {view.width for view in enlarged(views, 300)} == {256}
    assert enlarged(views[:1], 1280) == (views[0].enlarged(1280),)


def test_pictures_of_different_cameras_show_the_same_in_the_common_view():
    lenses = (wide(200), wide(260, 400, 300), LENSES["radtan4"])
    views = common_views(lenses, 100, 60)
    first, *others = [remap_of(view).apply(picture(view.lens)).astype(float) for view in views]
    for view, other in zip(views[1:], others, strict=True):
        both = views[0].seen() & view.seen()
        assert both.mean() > 0.3 and np.abs(first - other)[both].mean() < 2
