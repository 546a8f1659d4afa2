"""Depth maps and images of a drive that was reconstructed with its predictions kept."""

import hashlib
import json

import numpy as np
import pytest
from PIL import Image

from jobs import export
from pipeline.publish import open_drive
from tests.jobs.conftest import FRAMES
from tests.jobs.runs import run

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("one_ray")]


def test_depth_maps_hold_the_depth_of_the_published_points(drive, weights, tmp_path, capsys):
    out, to = tmp_path / "out", tmp_path / "to"
    (drive / "frame4.png").write_bytes(b"no image")
    assert run("--input", drive, "--output", out, "--weights", weights, "--keep-predictions", "--no-loops") == 0
    arguments = ["--output", str(out), "--drive", "drive-1", "--to", str(to), "--format", "depth", "colmap", "--images"]
    assert export.main(arguments) == 0
    said = json.loads((to / "depth" / "depth.json").read_text())
    scale = said["depth_scale"]
    maps = {one["frame_index"]: one for one in said["frames"]}
    assert sorted(maps) == [n for n in range(FRAMES) if n != 4]  # the frame has a pose, but no depth
    assert np.log2(scale) == int(np.log2(scale))
    published = open_drive(str(out), "drive-1")
    cameras = published.cameras
    compared = 0
    for number, one in maps.items():
        stored = np.asarray(Image.open(to / "depth" / one["file"]))
        assert stored.dtype == np.uint16 and stored.shape == (one["h"], one["w"])
        points = published.points(frames=(number, number + 1))
        xyz = np.stack([points[axis].to_numpy() for axis in "xyz"], -1)
        _, depth = cameras.project(np.full(len(xyz), number), xyz)
        local = (xyz - cameras.world_from_camera[number, :3, 3]) @ cameras.world_from_camera[number, :3, :3]
        u = one["fl_x"] * local[:, 0] / depth + one["cx"]
        v = one["fl_y"] * local[:, 1] / depth + one["cy"]
        near = depth * scale < 65535
        got = stored[np.floor(v[near]).astype(int), np.floor(u[near]).astype(int)] / scale
        np.testing.assert_allclose(got, depth[near], atol=0.51 / scale + 1e-5 * depth.max())
        compared += int(near.sum())
    assert compared > 0.9 * published.manifest.counts.points > 1000
    names = [f"frame_{n:06d}.png" for n in range(FRAMES)]  # frame10 sorts before frame2
    # a file that is not an image is copied unchanged
    assert sorted(p.name for p in (to / "images").iterdir()) == [*names[:4], *names[5:]]
    assert "1 frames cannot be decoded" in capsys.readouterr().out
    assert (to / "images" / names[12]).read_bytes() == (drive / "frame12.png").read_bytes()
    capsys.readouterr()

    again = [*arguments[:-4], "--overwrite", "--format", "depth", "--min-confidence", "1e9", "--depth-scale", "100"]
    assert export.main(again) == 0
    assert json.loads((to / "depth" / "depth.json").read_text())["depth_scale"] == 100
    assert not np.asarray(Image.open(next((to / "depth").glob("*.png")))).any()
    # predictions of another run are recognised and refused

    poses = next(out.joinpath("drive-1").rglob("poses.parquet"))
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(poses)
    moved = pa.array(table["x"].to_numpy() + 1000.0)
    pq.write_table(table.set_column(table.schema.get_field_index("x"), table.schema.field("x"), moved), poses)
    manifest = json.loads((out / "drive-1" / "manifest.json").read_text())
    entry = next(one for one in manifest["files"] if one["path"] == "poses.parquet")
    entry |= {"size": poses.stat().st_size, "sha256": hashlib.sha256(poses.read_bytes()).hexdigest()}
    del manifest["checksum"]
    (out / "drive-1" / "manifest.json").write_text(json.dumps(manifest))
    assert export.main(again) == 1
    assert "jobs.realign" in capsys.readouterr().err
