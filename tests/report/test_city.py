"""The city's page: what it is made from, and what a browser shows of it."""

import io
import json
import shutil
import threading

import pytest

from jobs import report
from pipeline.common.progress import Reporter
from pipeline.fuse import FuseConfig, run_fuse
from pipeline.report import make_server
from tests.fuse.rendered_drives import publish
from tests.fuse.scenes import CAR, EAST_NORTH_UP, SceneDrive
from tests.report.browser import chromium, screenshot, watched

ORIGIN = (48.1, 11.6, 520.0)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site of an output with a city: two drives on Earth, a car parked in one of them."""
    folder = tmp_path_factory.mktemp("city-site")
    for name, scene in (("a", SceneDrive(lambda frame: (CAR,))), ("b", SceneDrive(aside=0.7, start=0.5))):
        publish(folder / "out", folder / "images" / name, name, scene, EAST_NORTH_UP, origin=ORIGIN)
    run_fuse(FuseConfig(str(folder / "out"), tile=25.0, voxel=0.1, copc=False), Reporter(io.StringIO()))
    assert report.main(["--output", str(folder / "out"), "--site", str(folder / "www")]) == 0
    return folder


def test_the_city_is_told_in_one_file_with_pictures_of_what_changed(site):
    city = json.loads((site / "www" / "city.json").read_text())
    assert [one["id"] for one in city["drives"]] == ["a", "b"] and all(len(one["path"]) == 20 for one in city["drives"])
    assert city["frames"] == [{"name": "earth", "on_earth": True, "tile": 25.0}] and city["tiles"]
    (change,) = city["changes"]
    assert (change["kind"], change["drive"], change["other"]) == ("gone", "a", "b")
    assert (site / "www" / change["picture"]).read_bytes()[:2] == b"\xff\xd8"
    west, south, east, north = change["box"]
    assert 2.3 < west < 3.3 and 4.2 < east < 5.2  # the car is from 3.0 to 4.7 m east, from 8 to 12 m north
    assert 6.4 < south < 8.5 and 11.0 < north < 12.6
    assert json.loads((site / "www" / "drives.json").read_text())["city"] is True


def test_without_a_city_there_is_no_page_of_one(site, tmp_path, capsys):
    shutil.copytree(site / "out", tmp_path / "out")
    shutil.copytree(site / "www", tmp_path / "www")
    drives = next((tmp_path / "out" / "_city").rglob("drives.parquet"))
    drives.write_bytes(b"nothing")
    words = ["--output", str(tmp_path / "out"), "--site", str(tmp_path / "www")]
    assert report.main(words) == 0
    assert "the city is not shown" in capsys.readouterr().err
    assert not (tmp_path / "www" / "city.json").exists()
    assert json.loads((tmp_path / "www" / "drives.json").read_text())["city"] is False


@pytest.mark.slow
def test_a_browser_shows_drives_links_tiles_and_changes(site):
    page_of = site / "linked"
    shutil.copytree(site / "www", page_of)
    city = json.loads((page_of / "city.json").read_text())
    ends = [city["drives"][0]["path"][3], city["drives"][1]["path"][5]]
    link = {"frame": "earth", "ends": ends, "names": ["a, frame 3", "b, frame 5"], "reason": "40 features agree"}
    city["links"] = [{**link, "accepted": True}, {**link, "accepted": False, "reason": "contradicts the other links"}]
    (page_of / "city.json").write_text(json.dumps(city))
    server = make_server(page_of, "127.0.0.1", 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    base = f"http://127.0.0.1:{server.server_port}"
    try:
        with chromium() as browser:
            one = watched(browser, base, 1200, 1000)
            one.page.goto(f"{base}/index.html")
            one.page.click("#city")
            one.page.wait_for_selector("body[data-ready=yes]")
            count = {
                name: one.page.locator(f"#map .{name}").count()
                for name in ("drive", "tile", "accepted", "rejected", "gone")
            }
            assert count == {"drive": 2, "tile": len(city["tiles"]), "accepted": 1, "rejected": 1, "gone": 1}
            assert "seen through in b" in one.page.locator("#map .gone title").text_content()
            one.page.locator("#changes img").scroll_into_view_if_needed()  # it is loaded when it comes into view
            assert one.page.locator("#changes img").evaluate(
                "image => image.decode().then(() => image.naturalWidth > 0)"
            )
            screenshot(one.page, "city")
            one.page.click("[data-layer=tiles]")
            assert one.page.locator("#map .tile").count() == 0 and one.page.locator("#map .drive").count() == 2
            before = one.page.locator("#map").get_attribute("viewBox")
            one.page.locator("#map").hover()
            one.page.mouse.wheel(0, -200)
            one.page.locator("#map").dblclick(trial=True)
            assert one.page.locator("#map").get_attribute("viewBox") != before
            assert not one.wrong
    finally:
        server.shutdown()
        server.server_close()
