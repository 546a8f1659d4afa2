"""nuScenes' pictures: those of all scenes lie in one folder for each camera, and their names tell the log and the time:
samples/CAM_FRONT/LOG__CAM_FRONT__MICROSECONDS.jpg.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pipeline.errors import DriveError
from pipeline.ingest.clips import MOST_GAP_NS
from pipeline.ingest.drive import Drive
from pipeline.ingest.frame_choice import FrameChoice
from pipeline.ingest.name_times import time_in

FOLDERS = ("samples", "sweeps")
"""The folders that hold those of the cameras: of the keyframes, and of the frames between them."""

# Its cameras are triggered one after the other while the lidar turns: those behind 25 to 45 ms after the front one.
TOLERANCE_S = 0.06
"""Most seconds between pictures of one instant."""

_NAME = re.compile(r"(?P<log>.+?)__(?P<camera>CAM_[A-Z_]+)__(?P<time>\d{16})\.\w+")


@dataclass(frozen=True)
class NamedFrame:
    """What the name of a picture tells: the log, and the time in nanoseconds since 1970."""

    log: str
    time_ns: int


def named_frames(names: Sequence[str]) -> list[NamedFrame]:
    """What the names of pictures tell; empty where one of them is not nuScenes'."""
    frames: list[NamedFrame] = []
    for name in names:
        found = _NAME.fullmatch(name)
        told = time_in(found["time"]) if found is not None else None
        if found is None or told is None:
            return []
        frames.append(NamedFrame(found["log"], told.time_ns))
    return frames


def scene_ranges(frames: Sequence[NamedFrame]) -> list[tuple[int, int]]:
    """Half-open ranges of the frames of each scene. A scene ends where the log changes or more than 5 s pass."""
    cuts = [
        at
        for at, (one, two) in enumerate(itertools.pairwise(frames), start=1)
        if one.log != two.log or not 0 < two.time_ns - one.time_ns <= MOST_GAP_NS
    ]
    return list(itertools.pairwise([0, *cuts, len(frames)])) if frames else []


def in_one_scene(
    cameras: Mapping[str, Drive], used: FrameChoice, name: str, notes: list[str]
) -> tuple[dict[str, Drive], FrameChoice]:
    """The pictures of one scene, and the choice among them, of cameras whose folders hold several scenes; both as they
    are where the names are not nuScenes'.

    Args:
        cameras: by folder, the reference first, with all their pictures.
        used: its start and end are a range of the reference's pictures, which must lie in one scene.
        name: of the drive, for messages.
        notes: gets one sentence for each camera that has no picture of the scene and is left out.

    Raises:
        DriveError: the range begins beyond the pictures, or holds several scenes.
    """
    reference = next(iter(cameras))
    frames = named_frames(_names(cameras[reference]))
    if not frames:
        return dict(cameras), used
    if used.start >= len(frames):
        raise DriveError(f"drive {name}: starts at frame {used.start} of {len(frames)}; give an earlier start")
    taken = frames[used.start : used.end]
    scenes = scene_ranges(taken)
    if len(scenes) > 1:
        first = f"--start {used.start} --end {used.start + scenes[0][1]}"
        raise DriveError(
            f"drive {name}: its cameras' folders hold {len(scenes)} scenes; leave out --drive-id, for a drive of each, "
            f"or give the frames of one ({first})"
        )
    parts: dict[str, Drive] = {}
    for folder, drive in cameras.items():
        part = _within(drive, taken)
        if part is None:
            notes.append(f"camera {folder} is not used: it has no picture of this scene")
        else:
            parts[folder] = part
    if len(parts) < 2:
        raise DriveError(f"drive {name}: only camera {reference} has pictures of this scene; leave out --rig")
    return parts, replace(used, start=0, end=None)


def _within(drive: Drive, scene: Sequence[NamedFrame]) -> Drive | None:
    """The drive's pictures during a scene of its log; None where there are none."""
    first, last = scene[0].time_ns, scene[-1].time_ns
    around = int(TOLERANCE_S * 1e9)
    frames = named_frames(_names(drive))
    places = [
        place
        for place, frame in enumerate(frames)
        if frame.log == scene[0].log and first - around <= frame.time_ns <= last + around
    ]
    if not places:
        return None
    files = drive.listing.take(places)
    times = tuple(frames[place].time_ns for place in places)
    return replace(drive, uris=files.uris, frame_count=len(files), timestamps_ns=times, listing=files)


def _names(drive: Drive) -> list[str]:
    return [uri.rpartition("/")[2] for uri in drive.uris]
