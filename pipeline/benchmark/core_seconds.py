"""CPU seconds of a whole drive outside the network: for each frame, and for each drive whatever its length."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

from pipeline.config import RunConfig

SETTLED = 200
"""Frames from which on a drive's fixed costs are those of a longer one: the focal length is asked of as many windows,
and there is work for as many processes (on up to six cores)."""
TARGET = 0.15
"""Most core-seconds a frame of tracks and adjustment at KITTI's size: 16 cores keep up with 80 frames a second."""
_DECODED = 60  # frames, to measure decoding alone


@dataclass(frozen=True)
class CoreSeconds:
    """By stage: of each frame, and of a drive beside that (the start of processes, the focal length). settled: the two
    are told apart, because both lengths that are compared have SETTLED frames."""

    of_frame: Mapping[str, float]
    of_drive: Mapping[str, float]
    settled: bool = False

    @staticmethod
    def between(runs: Mapping[int, Mapping[str, float]]) -> CoreSeconds:
        """From runs of several lengths, which say their CPU seconds by stage: the difference of the longest and the
        shortest one of SETTLED frames. With one run, all of it counts as frames.

        runs: frames -> stage -> seconds.
        """
        if not runs:
            return CoreSeconds({}, {})
        settled = [frames for frames in sorted(runs) if frames >= SETTLED]
        lengths = settled if len(settled) > 1 else sorted(runs)
        short, long = lengths[0], lengths[-1]
        if short == long:
            return CoreSeconds({name: spent / long for name, spent in runs[long].items()}, {})
        of_frame = {
            name: max(spent - runs[short][name], 0.0) / (long - short)
            for name, spent in runs[long].items()
            if name in runs[short]
        }
        of_drive = {name: runs[short][name] - short * spent for name, spent in of_frame.items()}
        return CoreSeconds(of_frame, of_drive, short >= SETTLED)

    @property
    def of_refinement(self) -> float:
        """Of a frame: following corners and adjusting."""
        return self.of_frame.get("tracks", 0.0) + self.of_frame.get("adjustment", 0.0)


def decoding_seconds(config: RunConfig) -> float:
    """CPU seconds a frame of reading, decoding and resizing without following corners, on the first frames of a drive,
    in this process. Raises PipelineError for a drive that cannot be read."""
    from pipeline.ingest.segments import decode_segment, segment_of
    from pipeline.prepare import make_task, read_drive, resolve_settings

    model = config.network.config()
    drive = read_drive(config)
    task = make_task(drive, replace(resolve_settings(config, model), stops=False, turns=False), model)
    frames = range(min(_DECODED, task.frame_count))
    segment = segment_of(task.drive, 0, frames, task.numbers, task.height, task.width)
    begin = time.process_time()
    decode_segment(segment)
    return (time.process_time() - begin) / len(frames)


def beside_the_network(
    own: Mapping[str, float], others: Mapping[str, float], frames: int, decoding: float
) -> dict[str, float]:
    """CPU seconds of a run outside the network.

    own, others: by the job's stage, of the job's process and of Ray's. While the network runs, Ray's processes decode
    and follow corners. decoding: of a frame, without corners.
    """
    decoded = min(decoding * frames, others["forward"])
    spent = {"decoding": decoded, "tracks": others["forward"] - decoded}
    for name, stage in (("adjustment", "refine"), ("joining", "join"), ("publishing", "publish")):
        spent[name] = own.get(stage, 0.0) + others.get(stage, 0.0)
    return spent
