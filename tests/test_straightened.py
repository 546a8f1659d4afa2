"""A drive whose lens nobody knew is straightened where its tracks show the lens, and published as one of that lens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from jobs import export
from pipeline.cameras.known_camera import KnownCamera
from pipeline.common.progress import Reporter
from pipeline.config import RunConfig
from pipeline.finish import join_and_publish
from pipeline.forward.staging import StagedChunks, attempt_uri, write_chunk
from pipeline.publish import DriveFacts, PublishedDrive, open_drive
from pipeline.refine.segment_files import tracks_table, write_table
from pipeline.refine.track_files import DriveTracks, write_linked
from pipeline.staged_drive import StagedDrive, write_staged_drive
from pipeline.storage import Listing
from pipeline.straightened import Bent, StraightChunks, StraightTracks
from pipeline.tracked_drive import tracks_uri
from tests.refine.scene import NET, SOURCE, Scene, drive, turned_apart
from tests.refine.test_lens_estimate import BARREL, seen_through
from tests.test_refined_drive import prediction

ATTEMPT = "20260101T000000-0123abcd"
FRAMES = 30
CHUNKS = (range(20), range(10, 30))


def bent() -> Bent:
    view = KnownCamera(BARREL, "estimated").view(*NET)
    assert view is not None
    return Bent(view, view.enlarged(640))


@pytest.fixture(scope="module")
def scene() -> Scene:
    return drive(frames=FRAMES, points=1500, noise=0.2)


@pytest.fixture(scope="module")
def published(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> tuple[PublishedDrive, Path]:
    """A drive without calibration, of which the network and the tracks saw a barrel lens."""
    root = tmp_path_factory.mktemp("bent")
    window = scene.window(turn=0.003, shift=0.05)
    place = attempt_uri(str(root), "d", ATTEMPT)
    for number, frames in enumerate(CHUNKS):
        write_chunk(place, number, prediction(window, frames, 1.0))
    facts = DriveFacts(
        drive_id="d",
        source_uri=str(root / "in"),
        frame_uris=[str(root / "in" / f"{n:06d}.png") for n in range(FRAMES)],
        timestamps_ns=None,
        source_width=SOURCE[0],
        source_height=SOURCE[1],
        net_width=NET[0],
        net_height=NET[1],
        listing=Listing.of([]),
        sample="0" * 64,
    )
    staged = StagedDrive(facts, ATTEMPT, len(CHUNKS), (), tuple(range(FRAMES)), "0" * 64, True)
    config = RunConfig(input=str(root / "in"), output=str(root), chunk_size=20, overlap=10, keep_predictions=True)
    write_staged_drive(str(root), staged, config)
    folder = tracks_uri(str(root), facts, staged.kept)
    tracks = seen_through(scene, BARREL).at_least(2)
    write_table(f"{folder}/segment-0000000-{FRAMES:07d}.arrow", tracks_table(tracks))
    join_and_publish(staged, config, str(root), Reporter(), lambda: None)
    return open_drive(str(root), "d"), root


def test_the_lens_is_published_as_estimated_and_the_poses_are_right(
    scene: Scene, published: tuple[PublishedDrive, Path]
) -> None:
    drive, _ = published
    assert drive.lens is not None and abs(np.log(drive.lens.fx / BARREL.fx)) < 0.03
    assert any("the lens is estimated" in note for note in drive.manifest.quality["notes"])
    assert drive.manifest.config["camera"]["file"] is None
    assert turned_apart(drive.cameras.world_from_camera, scene.world_from_camera) < 0.001
    assert drive.manifest.quality["figures"]["image_share"] > 0.95
    view = drive.undistorted_view()
    assert view is not None and view.lens == drive.lens


def test_kept_depth_is_straightened_for_exports_too(published: tuple[PublishedDrive, Path], tmp_path: Path) -> None:
    _, root = published
    to = tmp_path / "depth"
    assert export.main(["--output", str(root), "--drive", "d", "--format", "depth", "--to", str(to)]) == 0
    assert len(list(to.rglob("*.png"))) == FRAMES


def test_maps_are_straightened_and_empty_where_the_picture_does_not_reach(scene: Scene, tmp_path: Path) -> None:
    """Depth that is a plane across the bent picture: each pixel of the view has the depth of where the lens saw it."""
    window, lens = scene.window(), bent()
    rows, columns = np.mgrid[: NET[1], : NET[0]] + 0.5
    depth = (10 + 0.05 * columns + 0.02 * rows).astype(np.float32)
    chunk = prediction(window, range(4), 1.0)
    chunk.depth[:] = depth
    write_chunk(str(tmp_path), 0, chunk)
    chunks = StraightChunks(StagedChunks(str(tmp_path), 1, range(4)), lens)
    seen = chunks[-1]
    assert len(chunks) == 1 and chunks.bad_frames == {} and chunks[0] is seen
    at = lens.view.lens_pixels() / (SOURCE[0] / NET[0])
    inside = (at > 1).all(-1) & (at < np.array(NET) - 1).all(-1)
    expected = 10 + 0.05 * at[..., 0] + 0.02 * at[..., 1]
    np.testing.assert_allclose(seen.depth[2][inside], expected[inside], rtol=2e-3)
    assert np.isfinite(seen.confidence[2][inside]).all() and seen.rgb.shape == chunk.rgb.shape


def test_an_edge_of_depth_stays_an_edge(tmp_path: Path, scene: Scene) -> None:
    chunk = prediction(scene.window(), range(2), 1.0)
    chunk.depth[:, :, : NET[0] // 2], chunk.depth[:, :, NET[0] // 2 :] = 5.0, 20.0
    depth = bent().straightened(chunk).depth
    assert set(np.unique(depth[np.isfinite(depth)].round(3))) <= {5.0, 20.0}


def test_tracks_are_where_the_rectified_picture_shows_them(scene: Scene, tmp_path: Path) -> None:
    write_linked(str(tmp_path), 0, seen_through(scene, BARREL))
    lens = bent()
    tracks = StraightTracks(DriveTracks(str(tmp_path)), lens)
    rows = tracks.of(0, FRAMES)
    assert len(tracks) == 1 and 0 < len(rows) <= len(scene.tracks)
    size = np.array([lens.tracked.width, lens.tracked.height])
    assert (rows.xy > 0).all() and (rows.xy < size).all()
    straight = {(t, f): xy for t, f, xy in zip(scene.tracks.track, scene.tracks.frame, scene.tracks.xy, strict=True)}
    pinhole = np.array([straight[key] for key in zip(rows.track, rows.frame, strict=True)])
    expected = (pinhole - BARREL.intrinsics[2:]) / BARREL.fx * lens.tracked.focal + size / 2
    np.testing.assert_allclose(rows.xy, expected, atol=0.01)
