"""Measures joint chunks on a rendered city: frames of two drives at one place, and at places far apart, go through the
network together, and what it says is compared with the truth and with the features of both pictures."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline import storage
from pipeline.backend.sim3 import rotation_log
from pipeline.benchmark.report import Measured, Row
from pipeline.common.progress import Reporter
from pipeline.common.ray_session import ray_for_one_job
from pipeline.fuse.candidates import Candidate
from pipeline.fuse.city_files import city_uri
from pipeline.fuse.joint_chunks import JointChunks
from pipeline.fuse.joint_link import JointLink
from pipeline.fuse.joint_verdict import SURE, UNDERSTOOD
from pipeline.fuse.published_drives import FusibleDrive
from pipeline.fuse.published_drives import read_drive as read_fusible
from pipeline.fuse.verification import Verifier
from pipeline.network_settings import NetworkSettings
from pipeline.publish import open_drive
from pipeline.synthetic import read_drive

Array = NDArray[np.float64]

_NEAR_M, _ALIKE = 4.0, 0.94  # a right pair: most metres, least cosine between viewing directions
_FAR_M = 30.0  # least metres between the frames of a wrong pair
_AROUND = 10  # frames before and after, whose steps tell the metres of a drive's unit


@dataclass(frozen=True, eq=False)
class _Known:
    """A published drive with its truth. true (N, 4, 4): poses of its frames in the city, metres."""

    fusible: FusibleDrive
    true: Array

    def metre(self, place: int) -> float:
        """Metres in a unit of the drive near a frame."""
        near = slice(max(place - _AROUND, 0), place + _AROUND + 1)
        own = self.fusible.opened.cameras.world_from_camera
        ways = [np.linalg.norm(np.diff(poses[near, :3, 3], axis=0), axis=1).sum() for poses in (own, self.true)]
        return float(ways[1] / max(ways[0], 1e-12))


@dataclass(frozen=True)
class JointBenchmark:
    """Random pairs of frames of drives that `jobs.synthesize --city` rendered and `jobs.reconstruct` published, in
    joint chunks and by features."""

    rendered: str = ""
    """Folder or URI that jobs.synthesize wrote."""
    output: str = ""
    """Folder or URI to which the drives were published."""
    right: int = 120
    """Pairs of frames at one place."""
    wrong: int = 300
    """Pairs of frames at places far apart."""
    seed: int = 0
    """Seed of the random choice."""
    weights: str | None = None
    """The network's checkpoint; by default the weights in the box."""

    def measure(self, say: Callable[[str], None]) -> Measured:
        """Predict and compare. Raises ValueError without both places, DriveError for drives without truth."""
        if not self.rendered or not self.output:
            raise ValueError("give --joint.rendered (written by jobs.synthesize --city) and --joint.output")
        output, rendered = storage.absolute(self.output), storage.absolute(self.rendered)
        names = [one for one in storage.list_folders(output) if not one.startswith((".", "_"))]
        drives = [_known(rendered, output, name) for name in sorted(names)]
        rng = np.random.default_rng(self.seed)
        pairs = _pairs(drives, rng, self.right, near=True) + _pairs(drives, rng, self.wrong, near=False)
        say(f"{self.right} right and {self.wrong} wrong pairs of {len(drives)} drives")
        fusible = [one.fusible for one in drives]
        links: dict[int, JointLink | str] = {}
        with tempfile.TemporaryDirectory(prefix="joint-") as scratch, Reporter() as reporter, ray_for_one_job():
            os.makedirs(city_uri(scratch))
            settings = NetworkSettings(weights=self.weights, threads=1)
            chunks = JointChunks(scratch, settings, fusible, "benchmark", lambda: None, reporter)
            chunks.measure(pairs[:1], lambda place, link: None)  # loads the network
            begun = time.process_time()
            chunks.measure(pairs, links.__setitem__)
            spent = time.process_time() - begun
        verifier = Verifier(fusible)
        seen = [verifier.verify(one).link is not None for one in pairs]
        values: dict[str, object] = {"core_seconds_a_chunk": spent / len(pairs), "drives": len(drives)}
        values |= _counts("right", range(self.right), links, seen)
        values |= _counts("wrong", range(self.right, len(pairs)), links, seen)
        values |= _errors(drives, pairs[: self.right], links)
        return Measured(values, _rows(values))


def _known(rendered: str, output: str, name: str) -> _Known:
    fusible = read_fusible(open_drive(output, name))
    said = json.loads(storage.read_bytes(storage.join(rendered, "sequences", name, "city.json")))
    poses = np.array(said["city_from_first"]) @ read_drive(rendered, name).world_from_camera
    return _Known(fusible, poses[fusible.frame_index])


def _pairs(drives: list[_Known], rng: np.random.Generator, count: int, *, near: bool) -> list[Candidate]:
    """Random pairs of frames of two drives. Near ones are the nearest frame of the second drive or a neighbour."""
    made: list[Candidate] = []
    for _ in range(1000 * max(count, 1)):
        if len(made) == count:
            break
        a, b = sorted(rng.choice(len(drives), 2, replace=False).tolist())
        i = int(rng.integers(len(drives[a].true)))
        away = np.linalg.norm(drives[b].true[:, :3, 3] - drives[a].true[i, :3, 3], axis=1)
        j = int(rng.integers(len(away)))
        if near:
            j = int(np.clip(np.argmin(away) + rng.integers(-1, 2), 0, len(away) - 1))
        along = float(drives[a].true[i, :3, 2] @ drives[b].true[j, :3, 2])
        if (away[j] < _NEAR_M and along > _ALIKE) if near else away[j] > _FAR_M:
            made.append(Candidate(a, i, b, j, 1.0, "positions"))
    if len(made) < count:
        raise ValueError(
            f"the drives have too few {'common streets' if near else 'places far apart'} for {count} pairs"
        )
    return made


def _counts(name: str, places: range, links: dict[int, JointLink | str], seen: list[bool]) -> dict[str, object]:
    measured = [one for n in places if isinstance(one := links.get(n), JointLink)]
    return {
        f"{name}_pairs": len(places),
        f"{name}_measured": len(measured),
        f"{name}_understood": sum(UNDERSTOOD.met(one) for one in measured),
        f"{name}_sure": sum(SURE.met(one) for one in measured),
        f"{name}_by_features": sum(seen[n] for n in places),
        f"{name}_turn_degrees": _quantiles([np.degrees(one.turn) for one in measured]),
        f"{name}_place_share": _quantiles([one.place for one in measured]),
    }


def _errors(drives: list[_Known], pairs: list[Candidate], links: dict[int, JointLink | str]) -> dict[str, object]:
    """Errors of the measured right pairs: metres, degrees, log scale; and chi2 / 7 by their covariances."""
    found = []
    for n, one in enumerate(pairs):
        link = links.get(n)
        if not isinstance(link, JointLink):
            continue
        first, second = drives[one.first], drives[one.second]
        metres = [first.metre(one.first_frame), second.metre(one.second_frame)]
        true = np.linalg.inv(second.true[one.second_frame]) @ first.true[one.first_frame]
        move = link.second_from_first
        turn = rotation_log(move.rotation @ true[:3, :3].T)
        place = move.translation - true[:3, 3] / metres[1]
        scale = np.log(move.scale * metres[1] / metres[0])
        apart = np.concatenate([turn, place, [scale]])
        chi2 = float(apart @ np.linalg.solve(link.covariance, apart))
        found.append((np.linalg.norm(place) * metres[1], np.degrees(np.linalg.norm(turn)), abs(scale), chi2 / 7))
    columns = np.array(found).reshape(-1, 4).T
    names = ("error_m", "error_degrees", "error_log_scale", "chi2_over_degrees")
    return {name: _quantiles(column.tolist()) for name, column in zip(names, columns, strict=True)}


def _quantiles(values: list[float]) -> tuple[float, float, float]:
    """The 10 %, 50 % and 90 % quantiles."""
    if not values:
        return (float("nan"),) * 3
    low, middle, high = np.quantile(values, (0.1, 0.5, 0.9)).tolist()
    return low, middle, high


def _rows(values: dict[str, object]) -> tuple[Row, ...]:
    def said(name: str, unit: str = "") -> str:
        return ", ".join(f"{value:.3g}" for value in values[name]) + unit  # type: ignore[attr-defined]

    rows = [Row("core seconds of a joint chunk, one thread", f"{values['core_seconds_a_chunk']:.2f}")]
    for kind in ("right", "wrong"):
        total = values[f"{kind}_pairs"]
        rows += [
            Row(f"{kind} pairs accepted by features", f"{values[f'{kind}_by_features']} of {total}"),
            Row("  understood by the network", f"{values[f'{kind}_understood']} of {total}"),
            Row("  sure without features", f"{values[f'{kind}_sure']} of {total}"),
            Row("  turns of the worse half: 10, 50, 90 %", said(f"{kind}_turn_degrees", " degrees")),
            Row("  places, shares of its length", said(f"{kind}_place_share")),
        ]
    return (
        *rows,
        Row("errors of joint links, right pairs: 10, 50, 90 %", said("error_m", " m")),
        Row("  turn", said("error_degrees", " degrees")),
        Row("  log scale", said("error_log_scale")),
        Row("  chi2 over degrees of freedom", said("chi2_over_degrees")),
    )
