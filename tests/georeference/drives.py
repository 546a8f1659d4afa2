"""A drive whose predictions are staged as the network leaves them, from a real trajectory; and a receiver's fixes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config import RunConfig
from pipeline.forward.staging import ChunkPrediction, attempt_uri, write_chunk
from pipeline.publish import DriveFacts
from pipeline.staged_drive import StagedDrive, write_staged_drive
from pipeline.storage import Listing

FRAMES = 300
ATTEMPT = "20260101T000000-0123abcd"
TIMES_S = np.arange(FRAMES) * 0.1


def scenario_and_fixes(shared: Path, **gnss: Any) -> tuple[Any, Any]:
    """Half a minute of KITTI 00 in chunks, and fixes once a second."""
    sys.path.insert(0, str(shared / "scenarios"))
    try:
        from chunked_drive import make_scenario
        from gnss import make_gnss
    finally:
        sys.path.pop(0)
    scenario = make_scenario(str(shared / "data" / "trajectories" / "KITTI_00_gt.txt"), seed=2, limit=FRAMES)
    return scenario, make_gnss(scenario.world_from_cam, TIMES_S, seed=4, **gnss)


def write_gps(path: Path, gnss: Any) -> None:
    """The fixes as a logger writes them."""
    rows = np.stack([gnss.time, gnss.latitude, gnss.longitude, gnss.altitude, gnss.accuracy], 1)
    np.savetxt(path, rows, "%.9f", ",", header="time_s,latitude,longitude,altitude,hacc", comments="")


def stage(scenario: Any, folder: Path, output: Path) -> tuple[StagedDrive, RunConfig]:
    """The staged drive "drive-1" whose frames lie in `folder`."""
    place = attempt_uri(str(output), "drive-1", ATTEMPT)
    for number, chunk in enumerate(scenario.chunks):
        order = np.argsort(chunk.frame_index)
        height, width = chunk.depth.shape[1:]
        write_chunk(
            place,
            number,
            ChunkPrediction(
                np.asarray(chunk.frame_index)[order].astype(np.int64),
                chunk.cam_from_world[order][:, :3].astype(np.float32),
                np.broadcast_to(chunk.intrinsics, (len(order), 3, 3))[order].astype(np.float32),
                chunk.depth[order].astype(np.float32),
                np.maximum(chunk.confidence[order], 1).astype(np.float32),
                np.full((len(order), height, width, 3), 128, np.uint8),
                np.ones(len(order), bool),
            ),
        )
    facts = DriveFacts(
        drive_id="drive-1",
        source_uri=str(folder),
        frame_uris=[str(folder / f"{n:06d}.png") for n in range(FRAMES)],
        timestamps_ns=[int(t * 1e9) for t in TIMES_S],
        source_width=scenario.chunks[0].depth.shape[2] * 8,
        source_height=scenario.chunks[0].depth.shape[1] * 8,
        net_width=scenario.chunks[0].depth.shape[2],
        net_height=scenario.chunks[0].depth.shape[1],
        listing=Listing.of([]),
        sample="0" * 64,
    )
    staged = StagedDrive(facts, ATTEMPT, len(scenario.chunks), (), tuple(range(FRAMES)), "0" * 64, True)
    config = RunConfig(input=str(folder), output=str(output), chunk_size=60, overlap=30)
    write_staged_drive(str(output), staged, config)
    return staged, config
