"""nerfstudio's own readers, as its trainers (splatfacto trains with gsplat) start them, on exports of a drive.

nerfstudio pins versions of many libraries, so these tests install it without them in a folder beside the environment.
"""

import json
import os
import subprocess
import sys
import textwrap

import av
import numpy as np
import pytest

from jobs import export
from pipeline.ingest.video import read_timeline
from pipeline.publish import PublishConfig, open_drive, publish_drive
from tests.publish.drives import Listed, small_drive

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

FRAMES, HEIGHT, WIDTH = 8, 24, 32
SOURCE = (4 * WIDTH, 4 * HEIGHT + 8)  # the size of its images, as in `small_drive`
NEEDS = ("nerfstudio==1.1.5", "jaxtyping", "opencv-python-headless", "tensorboard", "absl-py", "appdirs")


@pytest.fixture(scope="module")
def nerfstudio(tmp_path_factory):
    """A folder with nerfstudio, to be put on the path."""
    folder = tmp_path_factory.mktemp("nerfstudio")
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder), *NEEDS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    if done.returncode:
        pytest.skip(f"nerfstudio could not be fetched: {done.stderr.strip().splitlines()[-1]}")
    (folder / "rawpy.py").touch()  # needed for raw photographs only
    return folder


@pytest.fixture(scope="module")
def drive(tmp_path_factory):
    """A drive made of a video, published."""
    folder = tmp_path_factory.mktemp("drive")
    path = str(folder / "film.mp4")
    rng = np.random.default_rng(1)
    with av.open(path, "w") as film:
        stream = film.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = *SOURCE, "yuv420p"
        for _ in range(FRAMES):
            film.mux(stream.encode(av.VideoFrame.from_ndarray(rng.integers(0, 255, (*SOURCE[::-1], 3), np.uint8))))
        film.mux(stream.encode())
    made = small_drive(FRAMES, height=HEIGHT, width=WIDTH)
    names = [f"{path}#frame={n}" for n in range(FRAMES)]
    facts = made.facts.__class__(
        **{
            **made.facts.__dict__,
            "frame_uris": names,
            "timestamps_ns": list(read_timeline(path).timestamps_ns),
            "source_uri": path,
            "listing": [Listed("film.mp4", 1)],
        }
    )
    publish_drive(str(folder / "out"), facts, made.chunks, made.joined, PublishConfig(confidence_share=0.0), made.run)
    return open_drive(str(folder / "out"), facts.drive_id)


READ = """
import json, sys
from pathlib import Path
sys.path.append(sys.argv[1])  # after the environment's own
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
as_it_is = dict(
    data=Path(sys.argv[3]), downscale_factor=1, load_3D_points=True, eval_mode="all",
    orientation_method="none", center_method="none", auto_scale_poses=False,
)
if sys.argv[2] == "colmap":
    config = ColmapDataParserConfig(colmap_path=Path("sparse/0"), **as_it_is)
else:
    config = NerfstudioDataParserConfig(**as_it_is)
parsed = config.setup().get_dataparser_outputs("train")
cameras = parsed.cameras
print(json.dumps({
    "images": [path.name for path in parsed.image_filenames], "there": [p.exists() for p in parsed.image_filenames],
    "points": parsed.metadata["points3D_xyz"].tolist(), "colours": parsed.metadata["points3D_rgb"].tolist(),
    "poses": cameras.camera_to_worlds.tolist(), "sizes": [cameras.width.tolist(), cameras.height.tolist()],
    "intrinsics": [getattr(cameras, name).flatten().tolist() for name in ("fx", "fy", "cx", "cy")],
}))
"""


@pytest.mark.parametrize("form", ["colmap", "nerfstudio"])
def test_nerfstudio_sees_every_point_where_the_drive_has_it(nerfstudio, drive, tmp_path, form):
    if form == "nerfstudio":  # test_exports.py reads the same file with trimesh
        pytest.importorskip("open3d", reason="nerfstudio reads its PLY with open3d, 1 GB that no other test needs")
    to = tmp_path / "to"
    output = str(drive.uri).rpartition("/")[0]
    words = ["--output", output, "--drive", drive.manifest.drive_id, "--to", str(to), "--format", form, "--images"]
    assert export.main(words) == 0
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(READ), str(nerfstudio), form, str(to)],
        capture_output=True,
        text=True,
        timeout=250,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    read = json.loads(done.stdout.splitlines()[-1])
    assert read["images"] == [f"frame_{n:06d}.png" for n in range(FRAMES)] and all(read["there"])
    cameras, table = drive.cameras, drive.points()
    fx, fy, cx, cy = (np.array(values) for values in read["intrinsics"])
    np.testing.assert_allclose(np.stack([fx, fy, cx, cy], -1), cameras.intrinsics, rtol=1e-6)
    np.testing.assert_array_equal(np.array(read["sizes"])[..., 0].T, cameras.sizes)
    ours = np.stack([table[axis].to_numpy() for axis in "xyz"], -1)
    theirs = np.array(read["points"])
    assert len(theirs) == len(ours)
    expected = pixels(cameras.world_from_camera, cameras.intrinsics, ours, np.eye(4))
    poses = np.concatenate([np.array(read["poses"]), np.tile([[[0, 0, 0, 1.0]]], (FRAMES, 1, 1))], 1)
    # nerfstudio's cameras have OpenGL's axes
    found = pixels(poses, np.stack([fx, fy, cx, cy], -1), theirs, np.diag([1, -1, -1, 1]))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=0.01)
    np.testing.assert_array_equal(read["colours"], np.stack([table[name].to_numpy() for name in "rgb"], -1))


def pixels(world_from_camera, intrinsics, points, camera_from_opencv):
    """Where each camera sees each point (cameras, points, 2); NaN for points behind the camera."""
    camera_from_world = np.linalg.inv(world_from_camera @ camera_from_opencv)
    local = np.einsum("cij,pj->cpi", camera_from_world[:, :3, :3], points) + camera_from_world[:, None, :3, 3]
    local[local[..., 2] < 0.1] = np.nan
    fx, fy, cx, cy = (intrinsics[:, None, n] for n in range(4))
    return np.stack([local[..., 0] / local[..., 2] * fx + cx, local[..., 1] / local[..., 2] * fy + cy], -1)
