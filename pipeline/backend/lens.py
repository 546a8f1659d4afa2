"""The verdict on a lens: whether the network's pictures are a pinhole's, by lines that are straight in the world."""

from __future__ import annotations

from pipeline.backend.quality import Finding
from pipeline.cameras.straight_lines import LineEvidence

_BEND = 0.06  # of the division model, from which a lens is warned of; pinholes come out below 0.03 (cameras/README.md)
_GAIN, _GAIN_OUTWARDS = 0.03, 0.1  # how much straighter edges get, in logs; pincushions are rare, so more is asked
_AGREEMENT = 0.8  # halves of the pictures may differ by this share of the bend
_FISHEYE = -0.35  # beyond it no radial-tangential lens bends


def lens_findings(evidence: LineEvidence | None, frames: range, is_calibrated: bool) -> list[Finding]:
    """A warning that names the lens where pictures that should be a pinhole's bend straight lines.

    Args:
        evidence: of the pictures that the network saw; None where they show too few edges to tell.
        frames: of the drive, half open.
        is_calibrated: whether these pictures were rectified, or said to be a pinhole's, by a calibration.
    """
    if evidence is None or abs(evidence.bend) < _BEND:
        return []
    if evidence.gain < (_GAIN if evidence.bend < 0 else _GAIN_OUTWARDS):
        return []
    if evidence.agreement > _AGREEMENT * abs(evidence.bend):
        return []
    kind = "pincushion lens" if evidence.bend > 0 else "fisheye" if evidence.bend <= _FISHEYE else "barrel lens"
    rim = abs(1 / (1 + evidence.bend) - 1)
    advice = (
        "the calibration does not fit this camera: check --camera.file"
        if is_calibrated
        else "give its calibration (--camera.file), else poses and depth are bent with the picture"
    )
    reason = (
        f"straight edges are bent as by a {kind}, which moves the sides of the picture by {rim:.0%} "
        f"({evidence.edges} edges): {advice}"
    )
    return [Finding("warn", "lens", frames, None, reason)]
