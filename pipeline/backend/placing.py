"""Places a joined drive in the world: on Earth by fixes, else in metres by the car's speed or the camera's height."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from pipeline.backend.config import BackendConfig
from pipeline.backend.georeference import InWorld, Metric, WorldEvidence
from pipeline.backend.outline import Outline
from pipeline.backend.placing_by_fixes import height_above_road, place_by_fixes, timed_track
from pipeline.backend.pose_graph import Solution
from pipeline.backend.position_fusion import state_in_frame
from pipeline.backend.road import Heights
from pipeline.backend.sim3 import Sim3
from pipeline.backend.speed_scale import scale_of_speed

_MOST_SPREAD = 0.3  # of the length of a metre from chunk to chunk; above it the rig file or the network is wrong
_CAMERAS = 0.005  # deviation of lengths that two calibrated cameras measure, which no chunk shows
_ROAD = 0.02  # deviation of a known height, because of load, tyres, and roads that are not flat


def place_in_world(
    solution: Solution,
    outlines: Sequence[Outline],
    heights: Heights,
    evidence: WorldEvidence,
    config: BackendConfig,
    metres: Heights | None = None,
) -> InWorld:
    """Place the solution on Earth by fixes and the car's speed; without usable fixes, scale it to metres by two cameras
    at known places, else by the speed, else by the camera's height; else return it unchanged. The georeference has no
    poses yet. metres: see `metres_of`. Raises ValueError where the number of times is not that of the drive's frames.
    """
    world, reasons = InWorld(solution), list[str]()
    tries: tuple[Callable[[], InWorld | str | None], ...] = (
        lambda: place_by_fixes(solution, outlines, heights, evidence, config),
        lambda: _by_cameras(solution, metres),
        lambda: _by_speed(solution, outlines, evidence),
        lambda: _by_height(solution, heights, evidence.camera_height_m),
    )
    for attempt in tries:
        found = attempt()
        if isinstance(found, str):
            reasons.append(found)
        elif found is not None:
            world = found
            break
    return replace(world, relative_because="; ".join(reasons))


def _by_cameras(solution: Solution, metres: Heights | None) -> InWorld | str | None:
    """The solution in metres by what two cameras measured; a sentence where the chunks contradict it, None without."""
    if metres is None:
        return None
    seen, deviation = height_above_road(solution.state, metres)
    if deviation * len(metres) ** 0.5 > _MOST_SPREAD:
        return "the motions that two cameras measured do not fit the chunks: check the rig file and the calibration"
    return _scaled(solution, 1 / seen, Metric("baseline", float(np.hypot(deviation, _CAMERAS)), 0.0))


def _by_speed(solution: Solution, outlines: Sequence[Outline], evidence: WorldEvidence) -> InWorld | str | None:
    """The solution in metres by the car's speed; a sentence where that is impossible, None without a speed."""
    if evidence.speed is None:
        return None
    timed = timed_track(solution, outlines, evidence)
    if isinstance(timed, str):
        return timed
    _, track = timed
    found = scale_of_speed(track.time_s, track.poses(solution.state)[1], evidence.speed, evidence.clock_window_s)
    if isinstance(found, str):
        return found
    return _scaled(solution, found.scale, Metric("speed", found.deviation, found.offset_s))


def _by_height(solution: Solution, heights: Heights, height_m: float | None) -> InWorld | str | None:
    """The solution in metres by the camera's height; a sentence where no road is seen, None without a known height."""
    if height_m is None:
        return None
    if not len(heights):
        return "no road is seen below the camera, so its height cannot give the scale"
    seen, spread = height_above_road(solution.state, heights)
    return _scaled(solution, height_m / seen, Metric("height", float(np.hypot(spread, _ROAD)), 0.0))


def _scaled(solution: Solution, scale: float, metric: Metric) -> InWorld:
    state = state_in_frame(solution.state, Sim3(scale, np.eye(3), np.zeros(3)))
    return InWorld(replace(solution, state=state), metric=metric)
