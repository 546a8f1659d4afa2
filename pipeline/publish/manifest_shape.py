"""Types and checks for the parts of a manifest that have no dataclass: input, quality, georeference."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline import storage


@dataclass(frozen=True)
class Finding:
    """One reason of a verdict; it concerns the frames frame_start to frame_stop - 1."""

    level: str
    kind: str
    reason: str
    frame_start: int
    frame_stop: int


@dataclass(frozen=True)
class _Quality:
    verdict: str = "unknown"
    figures: Mapping[str, float | None] | None = None
    findings: tuple[Finding, ...] | None = None
    chunks: tuple[Mapping[str, object], ...] | None = None
    bad_frames: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _InputFile:
    name: str
    size: int
    etag: str | None = None


@dataclass(frozen=True)
class _Input:
    uri: str = ""
    files: tuple[_InputFile, ...] = ()


def check_input(values: Mapping[str, object], name: str) -> None:
    """Check the manifest's `input`. Raises DamagedError."""
    storage.parse_record(_text(values), _Input, f"{name} (input)")


def findings_of(values: Mapping[str, object], name: str) -> tuple[Finding, ...]:
    """The findings in a manifest's `quality`. Raises DamagedError."""
    return storage.parse_record(_text(values), _Quality, f"{name} (quality)").findings or ()


def check_quality(values: Mapping[str, object], frames: int, name: str) -> None:
    """Check the manifest's `quality` for a drive of so many frames. Raises DamagedError."""
    quality = storage.parse_record(_text(values), _Quality, f"{name} (quality)")
    for number, finding in enumerate(quality.findings or ()):
        if not 0 <= finding.frame_start <= finding.frame_stop <= frames:
            raise storage.DamagedError(
                f"{name} (quality): finding {number}: expected frames within 0..{frames}, "
                f"got {finding.frame_start}..{finding.frame_stop}"
            )


@dataclass(frozen=True)
class Origin:
    """The world's origin on Earth: degrees, and metres above the vertical datum."""

    latitude: float
    longitude: float
    altitude: float


@dataclass(frozen=True)
class Georeference:
    """A drive's place on Earth, and where it is known from; older results lack some fields."""

    origin: Origin
    vertical_datum: str | None = None
    source: str | None = None
    fixes: int | None = None
    fixes_used: int | None = None
    residual_horizontal_m: float | None = None
    clock_offset_s: float | None = None
    clock_offset_deviation_s: float | None = None
    lever_m: tuple[float, ...] | None = None
    lever_given: bool | None = None
    lever_estimated: bool | None = None
    speed_factor: float | None = None


def georeference_of(values: Mapping[str, object], name: str) -> Georeference:
    """The manifest's `georeference` as a dataclass. Raises DamagedError."""
    return storage.parse_record(_text(values), Georeference, f"{name} (georeference)")


def check_georeference(values: Mapping[str, object] | None, name: str) -> None:
    """Check the manifest's `georeference`, if there is one. Raises DamagedError."""
    if values is None:
        return
    origin = georeference_of(values, name).origin
    if not (abs(origin.latitude) <= 90 and abs(origin.longitude) <= 360 and abs(origin.altitude) < 1e5):
        raise storage.DamagedError(f"{name} (georeference): {origin} is no place on Earth")


def _text(values: Mapping[str, object]) -> bytes:
    return json.dumps(values).encode()
