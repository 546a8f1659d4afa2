"""What readers take for granted in a manifest beyond the types of its fields: the parts stored as free JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline import storage


@dataclass(frozen=True)
class _Finding:
    level: str
    kind: str
    reason: str
    frame_start: int
    frame_stop: int


@dataclass(frozen=True)
class _Quality:
    verdict: str = "unknown"
    figures: Mapping[str, float | None] | None = None
    findings: tuple[_Finding, ...] | None = None
    chunks: tuple[Mapping[str, Any], ...] | None = None
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


def check_input(values: Mapping[str, Any], name: str) -> None:
    """The manifest's `input`. Raises DamagedError."""
    storage.parse_record(_text(values), _Input, f"{name} (input)")


def check_quality(values: Mapping[str, Any], frames: int, name: str) -> None:
    """The manifest's `quality` of a drive of so many frames. Raises DamagedError."""
    quality = storage.parse_record(_text(values), _Quality, f"{name} (quality)")
    for number, finding in enumerate(quality.findings or ()):
        if not 0 <= finding.frame_start <= finding.frame_stop <= frames:
            raise storage.DamagedError(
                f"{name} (quality): finding {number}: expected frames within 0..{frames}, "
                f"got {finding.frame_start}..{finding.frame_stop}"
            )


@dataclass(frozen=True)
class _Origin:
    latitude: float
    longitude: float
    altitude: float


@dataclass(frozen=True)
class _Georeference:
    origin: _Origin


def check_georeference(values: Mapping[str, Any] | None, name: str) -> None:
    """The manifest's `georeference`, where it has one. Raises DamagedError."""
    if values is None:
        return
    origin = storage.parse_record(_text(values), _Georeference, f"{name} (georeference)").origin
    if not (abs(origin.latitude) <= 90 and abs(origin.longitude) <= 360 and abs(origin.altitude) < 1e5):
        raise storage.DamagedError(f"{name} (georeference): {origin} is no place on Earth")


def _text(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values).encode()
