"""Published drives with images of their own: a car that follows a gentle bend between textured walls of points."""

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
    """Frames of 96x80 pixels whose colour says their number."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:06d}.png" for number in range(frames)]
    for number, path in enumerate(paths):
        Image.new("RGB", (96, 80), (8 * number % 256, 80, 200)).save(path)
    return paths


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
) -> None:
    """Publish the drive; noise shakes its positions (metres)."""
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
