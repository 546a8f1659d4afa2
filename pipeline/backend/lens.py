"""The verdict on a lens: warns if the network's images do not look like those of a pinhole camera."""

from __future__ import annotations

from pipeline.backend.quality import Finding
from pipeline.cameras.straight_lines import LineEvidence

_BEND = 0.06  # least parameter of the division model for a warning; pinholes measure below 0.03 (cameras/README.md)
# Least log gain in straightness of edges. Lenses measure 0.014 to 0.15; pinholes at most 0.001 inwards. The limit is
# higher for pincushions, which are rare.
_GAIN, _GAIN_OUTWARDS = 0.006, 0.1
_AGREEMENT = 0.8  # share of the bend by which the estimates of two halves of the images may differ
_FISHEYE = -0.35  # bends below this are beyond what radial-tangential lenses have


def lens_findings(evidence: LineEvidence | None, frames: range, is_calibrated: bool) -> list[Finding]:
    """One warning that names the kind of lens if straight lines are bent in the images; else nothing.

    Args:
        evidence: measured in the images that the network saw; None if they show too few edges.
        frames: of the drive, half open.
        is_calibrated: whether a calibration rectified these images, or said that they are a pinhole camera's.
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
