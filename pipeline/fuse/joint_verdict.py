"""The verdict on a candidate by its joint chunk and by the features of its two pictures together.

A joint chunk whose halves agree with what their drives published was understood by the network, and features must not
contradict it. Where they agree very well, fewer features are enough, and where there are hardly any (other light) the
joint chunk is a link of its own.

The limits were set on 360 right and 700 wrong pairs of rendered drives through `city_tiny` (README.md, Measured).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.backend.sim3 import Sim3, rotation_exp, rotation_log
from pipeline.common.chi_squared import chi_squared_quantile
from pipeline.fuse.evidence import Verified
from pipeline.fuse.joint_link import JointLink
from pipeline.fuse.link import Link
from pipeline.fuse.two_drives import Needed

Array = NDArray[np.float64]

CONFIRMED = Needed(8, 0.2, 8, 0.2)
"""Matches that are enough where a joint chunk gives the same relative pose."""


@dataclass(frozen=True)
class Fit:
    """How well both halves of a joint chunk must agree with the published frames. turn: most degrees; place: most of
    the window's length; inliers: least share of pixels."""

    turn: float
    place: float
    inliers: float

    def met(self, joint: JointLink) -> bool:
        """Whether they do."""
        turn = float(np.degrees(joint.turn))
        return bool(turn <= self.turn and joint.place <= self.place and joint.inliers >= self.inliers)


UNDERSTOOD = Fit(1.5, 1.5, 0.6)
"""The pictures may be of one place: 72 % of right pairs, 17 % of wrong ones."""
SURE = Fit(0.8, 0.25, 0.8)
"""They are, also without features: a seventh of right pairs. The nearest of 700 wrong ones has 40 % of the length."""
_CONFIDENCE = 0.9999  # with which links of a right pair do not differ by more


def judged(
    features: Verified, joint: JointLink | str, link: Callable[[], Link], few: Callable[[], Verified]
) -> Verified:
    """The verdict on a candidate.

    Args:
        features: the verdict by features alone.
        joint: what its joint chunk measured, or why it could not.
        link: makes the link of the joint chunk between the instants of the candidate's frames.
        few: compares features again, with `CONFIRMED`.
    """
    if isinstance(joint, str):
        return replace(features, reason=f"{features.reason}; {joint}")
    fit = (
        f"halves of the joint chunk agree with their drives within {np.degrees(joint.turn):.1f} degrees, "
        f"{joint.place:.0%} of their length, {joint.inliers:.0%} of depths"
    )
    if not UNDERSTOOD.met(joint):
        return replace(features, reason=f"{features.reason}; {fit}: too little to say more")
    by_network = link()
    if features.link is None and not SURE.met(joint):
        return replace(features, reason=f"{features.reason}; {fit}: too little without features")
    seen = features if features.link is not None else few()
    if seen.link is not None:
        apart = distance(seen.link, by_network)
        if apart <= _bound():
            reason = f"{seen.reason}; {fit}, and it gives the same relative pose"
            return replace(seen, link=together(seen.link, by_network), reason=reason)
        said = f"its joint chunk gives another one (chi2 {apart:.0f}, at most {_bound():.0f}): {fit}"
        return replace(features, link=None, reason=f"{seen.reason}, but {said}")
    return replace(features, link=by_network, reason=f"by the network alone: {fit}; {features.reason}")


def _bound() -> float:
    return chi_squared_quantile(_CONFIDENCE, 7)


def _difference(first: Link, second: Link) -> Array:
    """(7,): rotation, translation and log scale by which the second link differs from the first, as its covariance
    counts them."""
    a, b = first.second_from_first, second.second_from_first
    turn = rotation_log(b.rotation @ a.rotation.T)
    return np.concatenate([turn, b.translation - a.translation, [np.log(b.scale / a.scale)]])


def distance(first: Link, second: Link) -> float:
    """Squared Mahalanobis distance of two links between the same frames, 7 degrees of freedom."""
    apart = _difference(first, second)
    return float(apart @ np.linalg.solve(first.covariance + second.covariance, apart))


def together(first: Link, second: Link) -> Link:
    """The mean of two independent links between the same frames, weighted by their covariances."""
    gain = np.linalg.solve(first.covariance + second.covariance, first.covariance).T
    step, move = gain @ _difference(first, second), first.second_from_first
    mean = Sim3(
        float(move.scale * np.exp(step[6])), rotation_exp(step[:3]) @ move.rotation, move.translation + step[3:6]
    )
    rest = first.covariance - gain @ first.covariance
    return replace(first, second_from_first=mean, covariance=(rest + rest.T) / 2)
