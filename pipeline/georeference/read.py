"""Reads all positions of a drive and converts their times to its clock."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import av
import numpy as np

from pipeline import storage
from pipeline.common.fixes import Fixes, Speed
from pipeline.georeference.clocks import OnDrive, on_drive_clock
from pipeline.georeference.comma2k19 import read_comma2k19
from pipeline.georeference.config import PositionsConfig
from pipeline.georeference.csv_table import read_csv
from pipeline.georeference.find import PositionsSource
from pipeline.georeference.gpx import read_gpx
from pipeline.georeference.nmea import read_nmea
from pipeline.georeference.oxts import read_oxts
from pipeline.georeference.photographs import read_photographs
from pipeline.georeference.plausible import checked
from pipeline.georeference.positions import NoPositionsError, Positions
from pipeline.georeference.text import in_utf_8
from pipeline.georeference.times import date_seconds
from pipeline.georeference.video_telemetry import read_telemetry
from pipeline.ingest.video import FRAME_MARK

_COLUMNS = ("latitude", "longitude", "altitude", "accuracy", "vertical_accuracy")
_NMEA = re.compile(rb"^\s*(?:\[\d+\])?\$[A-Z]{2}[A-Z]{3},", re.MULTILINE)


def read_positions(
    source: PositionsSource,
    config: PositionsConfig,
    frame_uris: Sequence[str],
    timestamps_ns: Sequence[int] | None,
    frame_numbers: Sequence[int] | None = None,
) -> OnDrive:
    """The positions of a source on the drive's clock, with wrong fixes marked.

    frame_uris, timestamps_ns (N): the drive's frames; frame_numbers (N): their numbers in the source, to which a
    table with frame numbers refers; by default 0 to N - 1.

    Raises NoPositionsError in one line if they cannot be used; StorageError.
    """
    zeros = clip_zeros(frame_uris, timestamps_ns)
    positions = read_source(source, config, frame_uris, zeros)
    frame_s = None if timestamps_ns is None else np.asarray(timestamps_ns, np.float64) * 1e-9
    numbers = None if source.kind == "exif" or frame_numbers is None else np.asarray(frame_numbers, np.float64)
    video = frame_uris[0].partition(FRAME_MARK)[0] if FRAME_MARK in frame_uris[0] else None
    needs_date = video is not None and positions.clock in ("utc", "day")
    return on_drive_clock(
        checked(positions),
        frame_s,
        len(frame_uris),
        config.clock_window,
        zero_s=next(iter(zeros.values())) if zeros else None,
        created_s=_created(video) if needs_date and video else None,
        frame_numbers=numbers,
    )


def clip_zeros(frame_uris: Sequence[str], timestamps_ns: Sequence[int] | None) -> dict[str, float]:
    """The time of the first frame of each video file, seconds on the clock of the frames; empty for pictures.

    It follows from the first used frame of the file and the usual interval of frames."""
    if timestamps_ns is None or FRAME_MARK not in frame_uris[0]:
        return {}
    parts = [uri.rpartition(FRAME_MARK) for uri in frame_uris]
    clips = np.array([clip for clip, _, _ in parts])
    numbers = np.array([int(number) for _, _, number in parts])
    time_s = np.asarray(timestamps_ns, np.float64) * 1e-9
    along = np.diff(numbers)
    steps = np.diff(time_s)[along > 0] / along[along > 0]
    step = float(np.median(steps)) if len(steps) else 0.0
    first = {clip: int(np.flatnonzero(clips == clip)[0]) for clip in dict.fromkeys(clips.tolist())}
    return {clip: float(time_s[at] - step * numbers[at]) for clip, at in first.items()}


def read_source(
    source: PositionsSource,
    config: PositionsConfig,
    frame_uris: Sequence[str],
    zeros: Mapping[str, float] | None = None,
) -> Positions:
    """The positions of a source as written, on their own clock. zeros: see `clip_zeros`. Times of several clips are
    converted to the clock of the first clip."""
    if source.kind == "exif":
        return read_photographs(frame_uris)
    if source.kind == "oxts":
        return read_oxts(source.uris[0])
    if source.kind in ("comma2k19", "telemetry"):
        read = read_comma2k19 if source.kind == "comma2k19" else read_telemetry
        starts = list((zeros or {}).values())
        if len(source.uris) == 1 or len(starts) != len(source.uris):
            return read(source.uris[0])
        return _joined([(read(uri), start - starts[0]) for uri, start in zip(source.uris, starts, strict=True)])
    names = [storage.parent_and_name(uri.partition(FRAME_MARK)[0])[1] for uri in frame_uris]
    first, *others = [read_file(uri, config.crs, names) for uri in source.uris]
    for other in others:  # a second file may have the speed
        if first.speed is None and other.speed is not None and other.clock == first.clock:
            speed = replace(other.speed, of_receiver=False)
            first = replace(first, speed=speed, source=f"{first.source} and {other.source}")
        else:
            first = first.noted(f"{other.source} is not used beside {first.source}")
    return first


def _joined(parts: Sequence[tuple[Positions, float]]) -> Positions:
    """Positions of consecutive clips, the times of each moved by seconds."""
    fixes = [part.fixes for part, _ in parts]
    columns = [np.concatenate([getattr(one, name) for one in fixes]) for name in _COLUMNS]
    time_s = np.concatenate([part.fixes.time_s + by for part, by in parts])
    speeds = [(part.speed, by) for part, by in parts if part.speed is not None]
    speed = None
    if speeds:
        times = np.concatenate([one.time_s + by for one, by in speeds])
        of_receiver = all(one.of_receiver for one, _ in speeds)
        speed = Speed(times, np.concatenate([one.speed_m_s for one, _ in speeds]), of_receiver)
    first = parts[0][0]
    notes = tuple(dict.fromkeys(note for part, _ in parts for note in part.notes))
    return replace(first, fixes=Fixes(time_s, *columns), speed=speed, notes=notes)


def read_file(uri: str, crs: str | None = None, frame_names: Sequence[str] = ()) -> Positions:
    """One text file: GPX, NMEA or CSV, recognised by its content. Raises NoPositionsError; StorageError."""
    data, name = in_utf_8(storage.read_bytes(uri)), storage.parent_and_name(uri)[1]
    head = data[:2048]
    if not data.strip():
        raise NoPositionsError(f"{name}: an empty file")
    if b"<gpx" in head.lower():
        return read_gpx(data, name)
    if _NMEA.search(head):
        return read_nmea(data, name)
    if b"\0" in head:
        raise NoPositionsError(f"{name}: neither CSV, GPX nor NMEA")
    return read_csv(data, name, crs=crs, frame_names=frame_names)


def _created(video: str) -> float | None:
    """A video's date of recording, seconds since 1970; None without one."""
    try:
        with storage.open_input(video) as file, av.open(file, metadata_errors="ignore") as container:
            said = container.metadata.get("creation_time") or ""
        created = date_seconds(said)[0] if said else 0.0
        return created if created > 0 else None
    except (av.FFmpegError, ValueError):
        return None
