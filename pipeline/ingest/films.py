"""Drives made from videos: from one file, or from the clips of one recording, with times on one clock."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pipeline import storage
from pipeline.errors import DecodeError, DriveError
from pipeline.ingest import video
from pipeline.ingest.calibration import known_camera
from pipeline.ingest.clips import start_of
from pipeline.ingest.drive import Drive
from pipeline.ingest.frame_choice import FrameChoice, check_frame_size, selected_frames
from pipeline.ingest.video import Timeline
from pipeline.storage import Listing

_SECOND = 10**9
_READERS = 8  # clips whose timelines are read at a time
_USUAL_INTERVAL = _SECOND / 25  # between frames, where no clip has two frames
_NOTED = 5  # most notes on clips


def video_drive(uri: str, drive_id: str, used: FrameChoice) -> Drive:
    """The drive of one video file. Its times are presentation times, added to the time in its name, if it has one.
    Raises DriveError, DecodeError, StorageError."""
    storage.check_drive_id(drive_id)
    file = storage.stored_file(uri)
    if file.size == 0:
        raise DecodeError(f"drive {drive_id}: the video {storage.redacted(uri)} has no bytes")
    timeline = video.read_timeline(uri, used.turn)
    check_frame_size(drive_id, timeline.width, timeline.height)
    shown = timeline.timestamps_ns
    start = start_of(file.name)
    times = shown if start is None else tuple(start + time for time in shown)
    selected = selected_frames(len(times), times, used, drive_id)
    size = timeline.width, timeline.height
    return Drive(
        drive_id=drive_id,
        source_uri=uri,
        kind="video",
        uris=(file.uri,),
        frame_count=len(selected),
        timestamps_ns=tuple(times[i] for i in selected),
        video_frames=tuple(selected),
        source_width=timeline.width,
        source_height=timeline.height,
        listing=Listing.of([file]),
        turn=used.turn,
        orientation=timeline.orientation,
        notes=timeline.notes,
        camera=known_camera(used.camera, storage.parent_and_name(uri)[0], None, size, None),
        shown_ns=None if start is None else tuple(shown[i] for i in selected),
    )


def joined_drive(
    folder: str,
    files: Listing,
    drive_id: str,
    used: FrameChoice,
    times: Sequence[Sequence[int] | None] | None = None,
) -> Drive:
    """The drive of several clips.

    A clip that cannot be opened, or ends early, keeps its place: its missing frames have numbers and times, and are
    flagged when they are decoded.

    Args:
        folder: the folder of the clips; names in `files` are below it.
        files: the clips, in order.
        times: of each clip's frames in nanoseconds, from a data set's files; None where there are none.

    Raises:
        DriveError, DecodeError: no clip can be opened, or the network cannot use the size of the frames.
        StorageError: the store failed.
    """
    storage.check_drive_id(drive_id)
    names = files.names
    with ThreadPoolExecutor(_READERS, thread_name_prefix="clips") as pool:
        found = list(pool.map(lambda file: _timeline(file.uri, file.size, used.turn), files))
    good = [one for one in found if isinstance(one, Timeline)]
    if not good:
        raise DriveError(f"drive {drive_id}: none of its {len(names)} clips can be opened, the first: {found[0]}")
    first = good[0]
    check_frame_size(drive_id, first.width, first.height)
    shown = [_with_missing(one) if isinstance(one, Timeline) else None for one in found]
    clips = _placed(shown, [start_of(name) for name in names], times)
    starts, all_times, all_shown = [], list[int](), list[int]()
    for clip in clips:
        starts.append(len(all_times))
        all_times += clip.times
        all_shown += clip.shown
    selected = selected_frames(len(all_times), all_times, used, drive_id)
    size = first.width, first.height
    notes = [f"{len(names)} clips are one drive: {names[0]} to {names[-1]} (--no-join-clips: each is one)"]
    notes += _said(names, found)
    return Drive(
        drive_id=drive_id,
        source_uri=folder,
        kind="video",
        uris=tuple(files.uris),
        frame_count=len(selected),
        timestamps_ns=tuple(all_times[i] for i in selected),
        video_frames=tuple(selected),
        source_width=first.width,
        source_height=first.height,
        listing=files,
        turn=used.turn,
        orientation=first.orientation,
        notes=tuple(notes),
        camera=known_camera(used.camera, folder, None, size, None),
        clips=tuple(starts),
        shown_ns=tuple(all_shown[i] for i in selected),
    )


@dataclass(frozen=True)
class _Placed:
    """A clip's frames on the drive's clock, and when each is shown in its own file; nanoseconds."""

    times: list[int]
    shown: list[int]


def _timeline(uri: str, size: int, turn: int | None) -> Timeline | DecodeError:
    try:
        if size == 0:
            raise DecodeError(f"{uri}: the file has no bytes")
        return video.read_timeline(uri, turn)
    except DecodeError as error:
        return error


def _with_missing(timeline: Timeline) -> list[int]:
    """Presentation times of a clip's frames, continued at its frame rate for missing frames at its end."""
    shown = list(timeline.timestamps_ns)
    pace = _interval(shown) or _USUAL_INTERVAL
    return shown + [round(shown[-1] + (number + 1) * pace) for number in range(timeline.missing)]


def _placed(
    shown: Sequence[Sequence[int] | None],
    starts: Sequence[int | None],
    times: Sequence[Sequence[int] | None] | None,
) -> list[_Placed]:
    """All clips on one clock. A clip begins at the time in its name, or later in the same second, because names have
    whole seconds; without a time, when the clip before it ends."""
    paces = [_interval(one) for one in shown if one is not None]
    pace = statistics.median([one for one in paces if one] or [_USUAL_INTERVAL])
    usual = statistics.median([one[-1] - one[0] + (_interval(one) or pace) for one in shown if one is not None])
    placed: list[_Placed] = []
    clock = float(starts[0] or 0)
    for place, clip in enumerate(shown):
        start = starts[place]
        if start is not None:
            clock = min(max(clock, start), start + _SECOND) if place else float(start)
        if placed:
            clock = max(clock, placed[-1].times[-1] + pace / 2)
        if clip is None:  # it lasts until the next clip begins, at the frame rate of the others
            after = starts[place + 1] if place + 1 < len(starts) else None
            length = after - clock if after is not None and after > clock else usual
            clip = [round(number * pace) for number in range(max(round(length / pace), 1))]
        told = times[place] if times is not None else None
        if told is not None and len(told) == len(clip) and (not placed or told[0] > placed[-1].times[-1]):
            placed.append(_Placed(list(told), list(clip)))
        else:
            placed.append(_Placed([round(clock) + time - clip[0] for time in clip], list(clip)))
        clock = placed[-1].times[-1] + (_interval(clip) or pace)
    return placed


def _interval(times: Sequence[int]) -> float:
    return (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else 0.0


def _said(names: Sequence[str], found: Sequence[Timeline | DecodeError]) -> list[str]:
    """Notes on clips: the first five, and the number of the others."""
    said = []
    for name, one in zip(names, found, strict=True):
        if isinstance(one, DecodeError):
            said.append(f"clip {name} cannot be opened, its frames are flagged: {one}")
        else:
            said += [f"clip {name}: {note}" for note in one.notes]
    left = len(said) - _NOTED
    return said if left <= 0 else [*said[:_NOTED], f"{left} more notes on clips"]
