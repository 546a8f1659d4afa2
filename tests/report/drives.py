"""Published drives with images: a car that follows a gentle bend between textured walls of points."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.publish import PublishConfig, RunFacts, publish_drive
from tests.publish.drives import Listed, Loop, small_drive

FRAMES = 30
VERDICT = {
    "verdict": "warn",
    "figures": {"overlap_residual": 0.01, "looseness": 1.0},
    "findings": [
        {
            "level": "warn",
            "kind": "noisy overlap",
            "frame_start": 8,
            "frame_stop": 12,
            "chunk": None,
            "reason": "chunks 3 and 4 disagree",
        },
        {
            "level": "warn",
            "kind": "drive",
            "frame_start": 0,
            "frame_stop": FRAMES,
            "chunk": None,
            "reason": "loops contradict",
        },
    ],
}
CONFIG = {"chunk_size": 4, "memory_scope": "drive", "backend": {"scale": True}, "workers": 1}


def images(folder: Path, frames: int = FRAMES) -> list[Path]:
    """Frames of 96x80 pixels whose colour shows their number."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:06d}.png" for number in range(frames)]
    for number, path in enumerate(paths):
        Image.new("RGB", (96, 80), (8 * number % 256, 80, 200)).save(path)
    return paths


def evidence(share: dict[int, float], frames: int = FRAMES) -> dict[str, np.ndarray]:
    """Columns of schema.EVIDENCE: every pair of frames agrees, those that begin with the frames of `share` less; the
    last three pairs are not judged."""
    first = np.arange(frames - 2)
    judged = first < frames - 5
    shares = np.array([share.get(int(frame), 0.98) for frame in first])
    return {
        "frame_index": first,
        "second_frame_index": first + 2,
        "tracks": np.full(len(first), 40),
        "flow": np.full(len(first), 5.0),
        "distance": np.where(judged, 3 - 2.8 * shares, np.nan),
        "share": np.where(judged, shares, np.nan),
        "depth": np.full(len(first), np.nan),
        "spread": np.full(len(first), np.nan),
        "judged": judged,
    }


def draw_corners(folder: Path, frames: range, step: int = 3) -> None:
    """Draw squares over the images of these frames that move to the right by `step` pixels from frame to frame."""
    rng = np.random.default_rng(0)
    squares = rng.integers((-40, 4), (96, 70), (60, 2))
    for place, frame in enumerate(frames):
        path = folder / f"{frame:06d}.png"
        with Image.open(path) as image:
            pixels = np.array(image)
        for number, (x, y) in enumerate(squares):
            left = max(x + place * step, 0)
            pixels[y : y + 6, left : max(x + place * step + 7, 0)] = 40 + 3 * number
        Image.fromarray(pixels).save(path)


def positions(frames: int = FRAMES) -> np.ndarray:
    """(frames, 3): half a metre a frame, bending to the right."""
    angle = 0.03 * np.arange(frames)
    steps = 0.5 * np.stack([np.sin(angle), np.zeros(frames), np.cos(angle)], -1)
    return np.concatenate([np.zeros((1, 3)), np.cumsum(steps, 0)[:-1]])


def verdict_of(frames: int) -> dict:
    """VERDICT as it is of a drive of so many frames."""
    findings = [
        {**one, "frame_start": min(one["frame_start"], frames), "frame_stop": min(one["frame_stop"], frames)}
        for one in VERDICT["findings"]
    ]
    return {**VERDICT, "findings": findings}


def publish(
    output: Path,
    source: Path,
    drive_id: str = "bend",
    *,
    config=None,
    noise=0.0,
    seed=0,
    frames=FRAMES,
    quality=None,
    points=True,
    evidence=None,
) -> None:
    """Publish the drive; noise shakes its positions (metres); evidence: columns of schema.EVIDENCE."""
    paths = sorted(source.glob("*.png")) or images(source, frames)
    loop = Loop(range(4), range(20, 24), 0.9, 0.01, True, None)
    drive = small_drive(
        frames,
        drive_id=drive_id,
        height=20,
        width=24,
        size=4,
        seed=seed,
        loops=[loop],
        times=[10**8 * n for n in range(frames)],
    )
    poses = np.tile(np.eye(4), (frames, 1, 1))
    angle = 0.03 * np.arange(frames)
    poses[:, 0, 0], poses[:, 0, 2], poses[:, 2, 0], poses[:, 2, 2] = (
        np.cos(angle),
        np.sin(angle),
        -np.sin(angle),
        np.cos(angle),
    )
    poses[:, :3, 3] = positions(frames) + noise * np.random.default_rng(seed).normal(size=(frames, 3))
    facts = dataclasses.replace(
        drive.facts,
        source_uri=str(source),
        frame_uris=[str(path) for path in paths],
        source_width=96,
        source_height=80,
        listing=[Listed(path.name, path.stat().st_size) for path in paths],
    )
    run = RunFacts(
        "a" * 64,
        "b" * 64,
        CONFIG if config is None else config,
        "0.1.0",
        {"forward": 1.5, "join": 0.5},
        verdict_of(frames) if quality is None else quality,
        evidence=evidence,
    )
    options = PublishConfig(with_points=points, confidence_share=0.0, row_group_rows=1024)
    publish_drive(
        str(output), facts, drive.chunks, dataclasses.replace(drive.joined, world_from_camera=poses), options, run
    )


def truth_file(path: Path, frames: int = FRAMES) -> Path:
    """The true poses as a TUM trajectory with the drive's times."""
    lines = []
    for number, place in enumerate(positions(frames)):
        half = 0.015 * number
        numbers = (*place, 0, np.sin(half), 0, np.cos(half))
        lines.append(" ".join(f"{value:.9f}" for value in (0.1 * number, *numbers)))
    path.write_text("\n".join(lines) + "\n")
    return path
