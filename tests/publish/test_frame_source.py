"""The images of a result are read from its own input and from no other place."""

from dataclasses import dataclass
from typing import Any

import pytest

from pipeline.errors import DriveError
from pipeline.publish.frame_source import FrameSource
from pipeline.publish.manifest import Manifest


@dataclass
class Recorded:
    """The fields of a manifest that are used."""

    input: dict[str, Any]
    drive_id: str = "d1"
    input_files = Manifest.input_files


def source(root, names=("000000.png", "000001.png"), images_from=None):
    files = [{"name": name, "size": 1, "etag": None} for name in names]
    return FrameSource(Recorded({"uri": root, "files": files}), images_from)


@pytest.mark.parametrize(
    ("root", "uri"),
    [
        ("/data/d1", "/data/d1/000000.png"),
        ("/data/d1/", "/data/d1/000000.png"),
        ("/data/d1", "/data/d1/image_2/000000.png"),
        ("s3://bucket/d1", "s3://bucket/d1/000000.png"),
        ("file:///data/d1", "/data/d1/000000.png"),
        ("/data/odd name #1::2", "/data/odd name #1::2/000000.png"),
    ],
)
def test_a_frame_of_the_input_is_found(root, uri):
    assert source(root).locate(uri) == uri


def test_the_place_of_a_frame_of_a_video_is_the_video():
    assert source("/v/clip.mp4", ["clip.mp4"]).locate("/v/clip.mp4#frame=12") == "/v/clip.mp4"


@pytest.mark.parametrize(
    "uri",
    [
        "/root/.ssh/id_rsa",
        "file:///root/.ssh/000000.png",
        "/data/d1/../d2/000000.png",
        "/data/d12/000000.png",
        "/data/d1/../../etc/000000.png",
        "s3://bucket/000000.png",
        "http://10.0.0.1/000000.png",
        "000000.png",
        "/data/d1",
        "",
        "/data/d1/secret.txt",
        "/data/d1//../../x/000000.png",
        "/data/d1/\0/../../../000000.png",
        "/root/000000.png#frame=1",
        "FILE:///etc/000000.png",
        "/data/000000.png",
    ],
)
def test_a_frame_outside_the_input_is_refused_with_a_reason(uri):
    with pytest.raises(DriveError, match="--images-from"):
        source("/data/d1").locate(uri)


@pytest.mark.parametrize("root", ["http://host/d1", "https://host/d1", "ftp://host/d1", "ssh://host/d1", "zip://x"])
def test_schemes_from_which_drives_are_not_read_are_refused(root):
    with pytest.raises(DriveError, match="not followed"):
        source(root).locate(f"{root}/000000.png")


@pytest.mark.parametrize("root", ["", "/", "s3://"])
def test_an_invalid_input_uri_contains_no_frames(root):
    with pytest.raises(DriveError):
        source(root).locate("/etc/000000.png")


def test_images_that_moved_are_found_by_their_path_below_the_input():
    moved = source("/old/d1", images_from="s3://bucket/new")
    assert moved.locate("/old/d1/image_2/000000.png") == "s3://bucket/new/image_2/000000.png"
    assert moved.locate("/elsewhere/000000.png") == "s3://bucket/new/000000.png"
    assert moved.locate("/old/d1/../../etc/passwd") == "s3://bucket/new/passwd"


def test_a_video_that_moved_is_found_by_its_folder_or_its_own_path():
    assert source("/old/a.mp4", ["a.mp4"], "/new").locate("/old/a.mp4#frame=3") == "/new/a.mp4"
    assert source("/old/a.mp4", ["a.mp4"], "/new/a.mp4").locate("/old/a.mp4#frame=3") == "/new/a.mp4"


def test_a_file_that_is_not_an_image_is_not_read(tmp_path):
    (tmp_path / "000000.png").write_text("TOP SECRET KEY")
    (tmp_path / "000001.png").write_bytes(b"\x89PNG\r\n\x1a\nrest")
    frames = source(str(tmp_path))
    with pytest.raises(DriveError, match="no image"):
        frames.read_image(str(tmp_path / "000000.png"))
    assert frames.read_image(str(tmp_path / "000001.png")).startswith(b"\x89PNG")
