"""Judges a city that jobs.fuse made of rendered drives through the same streets: pairs found, links, error, change."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from pipeline import storage
from pipeline.backend.sim3 import Sim3, fit_similarity, rotation_log
from pipeline.benchmark.report import Measured, Row
from pipeline.errors import DriveError
from pipeline.fuse import PublishedCity, open_city
from pipeline.fuse.candidates import Candidate
from pipeline.fuse.evidence import Evidence
from pipeline.fuse.link import Link
from pipeline.fuse.published_drives import FusibleDrive
from pipeline.fuse.published_drives import read_drive as read_fusible
from pipeline.publish import open_drive
from pipeline.synthetic import read_drive
from pipeline.synthetic.layout import build_city

Array = NDArray[np.float64]

_STREET_M = 10.0  # most metres between two paths through one street
_SHARED_M = 50.0  # least length that two drives have in common
_SAME, _OPPOSITE = 0.7, -0.7  # cosines between viewing directions
_WRONG_M, _WRONG_DEGREES = 3.0, 8.0  # a link with a larger error is wrong
_AT_CAR_M = 3.0  # most metres between a changed object and the parked car
_TARGET_FOUND, _TARGET_RATIO = 0.9, 0.6


@dataclass(frozen=True)
class CityBenchmark:
    """A city of drives that `jobs.synthesize --city` rendered, `jobs.reconstruct` published and `jobs.fuse` joined,
    compared with the truth."""

    rendered: str = ""
    """Folder or URI that jobs.synthesize wrote."""
    output: str = ""
    """Folder or URI to which the drives were published, with their city in _city/."""

    def measure(self, say: Callable[[str], None]) -> Measured:
        """Compare. Raises ValueError without both places, DriveError for drives without truth or without a city."""
        if not self.rendered or not self.output:
            raise ValueError("give --city.rendered (written by jobs.synthesize --city) and --city.output (jobs.fuse)")
        say(f"comparing the city in {storage.redacted(self.output)} with the truth")
        output = storage.absolute(self.output)
        return Measured(*_judged(open_city(output), storage.absolute(self.rendered), output))


@dataclass(frozen=True, eq=False)
class _Judged:
    """A drive in the city with its truth. found, true (N, 4, 4): poses of its frames in the city and in metres; frame:
    name of its coordinate frame; known: what city.json says of it."""

    fusible: FusibleDrive
    frame: str
    found: Array
    true: Array
    known: dict[str, Any]  # of JSON


def _judged(
    city: PublishedCity, rendered: str, output: str
) -> tuple[dict[str, Any], tuple[Row, ...]]:  # plain values for JSON
    drives = [_drive(city, rendered, output, name) for name in city.drives["drive_id"].to_pylist()]
    share = shared_metres([one.true for one in drives])
    names = [one.fusible.drive_id for one in drives]
    accepted, opposite = set(), set()
    for row in city.links.to_pylist():
        pair = (names.index(row["first_drive"]), names.index(row["second_drive"]))
        pair = (min(pair), max(pair))
        if row["accepted"]:
            accepted.add(pair)
        if "opposite directions" in row["reason"] and (row["accepted"] or not row["verified"]):
            opposite.add(pair)
    facing = sum(row["accepted"] and "opposite directions" in row["reason"] for row in city.links.to_pylist())
    same = {pair for pair, (along, _) in share.items() if along >= _SHARED_M}
    against = {pair for pair, (_, back) in share.items() if back >= _SHARED_M} - same
    frames = [one.frame for one in drives]
    largest = max(sorted(set(frames)), key=frames.count)
    members = [one for one in drives if one.frame == largest]
    errors = _link_errors(city, drives, output)
    wrong = [one for one in errors if one[0] > _WRONG_M or one[1] > _WRONG_DEGREES]
    found = np.concatenate([one.found[:, :3, 3] for one in members])
    true = np.concatenate([one.true[:, :3, 3] for one in members])
    move = fit_similarity(found, true)
    joint = _rms(move.apply(found) - true)
    alone = [_alone(one) for one in members]
    changes = _changes(city, members, largest, move)
    values = {
        "drives": len(drives),
        "same": len(same),
        "same_found": len(same & accepted),
        "same_together": sum(frames[a] == frames[b] for a, b in same),
        "opposite": len(against),
        "opposite_reported": len(against & opposite),
        "opposite_linked": len(against & accepted),
        "facing_links": facing,
        "links": len(errors),
        "wrong_links": len(wrong),
        "link_error_m": float(np.median([one[0] for one in errors])) if errors else 0.0,
        "link_error_degrees": float(np.median([one[1] for one in errors])) if errors else 0.0,
        "largest": len(members),
        "ate_m": joint,
        "alone_m": float(np.mean(alone)),
        "missed_pairs": [f"{names[a]} {names[b]}" for a, b in sorted(same - accepted)],
        **changes,
    }
    return values, _rows(values)


def _rows(values: dict[str, Any]) -> tuple[Row, ...]:  # as `_judged` made them
    part = values["same_found"] / max(values["same"], 1)
    ratio = values["ate_m"] / max(values["alone_m"], 1e-9)
    car = "none was parked" if values["car_found"] is None else "yes" if values["car_found"] else "no"
    return (
        Row(
            "pairs that share 50 m in one direction, with an accepted link",
            f"{values['same_found']} of {values['same']}",
            f">= {_TARGET_FOUND:.0%}",
            part >= _TARGET_FOUND,
        ),
        Row("  in one coordinate frame", f"{values['same_together']} of {values['same']}"),
        Row("  in opposite directions, reported", f"{values['opposite_reported']} of {values['opposite']}"),
        Row("  in opposite directions, linked", f"{values['opposite_linked']}, by {values['facing_links']} links"),
        Row(
            f"accepted links with errors over {_WRONG_M:.0f} m or {_WRONG_DEGREES:.0f} degrees",
            f"{values['wrong_links']} of {values['links']}",
            "0",
            not values["wrong_links"],
        ),
        Row("  median error", f"{values['link_error_m']:.2f} m, {values['link_error_degrees']:.2f} degrees"),
        Row("drives in the largest component", f"{values['largest']} of {values['drives']}"),
        Row(
            "error of its frames, one Sim(3), over the mean of its drives, a Sim(3) each",
            f"{values['ate_m']:.2f} m / {values['alone_m']:.2f} m = {ratio:.2f}",
            f"<= {_TARGET_RATIO}",
            ratio <= _TARGET_RATIO,
        ),
        Row("the car that one drive has more is in the change", car, "yes", values["car_found"] is not False),
        Row("trees in the change", str(values["trees_changed"]), "0", not values["trees_changed"]),
        Row("other objects in the change", str(values["others_changed"])),
    )


def _drive(city: PublishedCity, rendered: str, output: str, name: str) -> _Judged:
    truth = read_drive(rendered, name)
    file = storage.join(rendered, "sequences", name, "city.json")
    if not storage.exists(file):
        raise DriveError(f"drive {name} has no city.json: render the drives with jobs.synthesize --city")
    known = json.loads(storage.read_bytes(file))
    placed = city.placements()[name]
    if placed.frame_index[-1] >= len(truth.world_from_camera):
        raise DriveError(f"drive {name} has more frames than its truth; --city.rendered must be what was reconstructed")
    true = np.array(known["city_from_first"]) @ truth.world_from_camera[placed.frame_index]
    fusible = read_fusible(open_drive(output, name))
    return _Judged(fusible, placed.frame, placed.city_from_camera, true, known)


def shared_metres(poses: Sequence[Array]) -> dict[tuple[int, int], tuple[float, float]]:
    """For each pair of drives, poses (N, 4, 4) in metres, the length of street that they share in one direction, and in
    opposite directions: the way of the first's frames near which the second went through the same street."""
    answer = {}
    for a, b in combinations(range(len(poses)), 2):
        place, other = poses[a][:, :3, 3], poses[b][:, :3, 3]
        way = np.append(0.0, np.linalg.norm(np.diff(place, axis=0), axis=1))
        near = cKDTree(other).query_ball_point(place, _STREET_M)
        along = back = 0.0
        for n, some in enumerate(near):
            if some:
                cosine = poses[b][some, :3, 2] @ poses[a][n, :3, 2]
                along += way[n] * bool(cosine.max() > _SAME)
                back += way[n] * bool(cosine.min() < _OPPOSITE)
        answer[a, b] = (float(along), float(back))
    return answer


def _link_errors(city: PublishedCity, drives: Sequence[_Judged], output: str) -> list[tuple[float, float]]:
    """The errors of accepted links: metres and degrees between the measured and the true relative pose."""
    names = [one.fusible.drive_id for one in drives]
    evidence = Evidence(output, [one.fusible for one in drives])
    errors = []
    for row in city.links.to_pylist():
        if row["accepted"]:
            ends = [names.index(row[f"{end}_drive"]) for end in ("first", "second")]
            at = [
                int(np.searchsorted(drives[n].fusible.frame_index, row[f"{end}_frame"]))
                for n, end in zip(ends, ("first", "second"), strict=True)
            ]
            one = Candidate(ends[0], at[0], ends[1], at[1], row["score"], row["by"])
            verdicts = (evidence.known(one, kind) for kind in evidence.kinds)
            used = [found.link for found in verdicts if found is not None and row["reason"].startswith(found.reason)]
            if used and used[-1] is not None:  # the reason of features alone may begin that with a joint chunk
                errors.append(_link_error(used[-1], drives[ends[0]], drives[ends[1]]))
    return errors


def _link_error(link: Link, first: _Judged, second: _Judged) -> tuple[float, float]:
    """Metres are those of the second drive by the distances of its own frames near the link."""
    true = np.linalg.inv(second.true[link.second_frame]) @ first.true[link.first_frame]
    near = slice(max(link.second_frame - 10, 0), link.second_frame + 11)
    own = np.linalg.norm(np.diff(second.fusible.joined.world_from_camera[near, :3, 3], axis=0), axis=1).sum()
    real = np.linalg.norm(np.diff(second.true[near, :3, 3], axis=0), axis=1).sum()
    move: Sim3 = link.second_from_first
    away = np.linalg.norm(move.translation * (real / max(own, 1e-12)) - true[:3, 3])
    turn = np.linalg.norm(rotation_log(move.rotation.T @ true[:3, :3]))
    return float(away), float(np.degrees(turn))


def _alone(one: _Judged) -> float:
    """Error in metres of a drive as it was published, after a Sim(3) of its own."""
    found, true = one.fusible.joined.world_from_camera[:, :3, 3], one.true[:, :3, 3]
    return _rms(fit_similarity(found, true).apply(found) - true)


def _rms(away: Array) -> float:
    return float(np.sqrt((away**2).sum(1).mean()))


def _changes(
    city: PublishedCity, members: Sequence[_Judged], frame: str, move: Sim3
) -> dict[str, Any]:  # plain values for JSON
    """Whether the parked car is among the changed objects, and how many of the others are trees."""
    parked = {one.fusible.drive_id: one.known["parked"] for one in members if one.known["parked"] is not None}
    layout = build_city(int(members[0].known["city"]))
    tree = layout.sphere[np.diff(layout.leaf_start) > 0]
    car, trees, others = False, 0, 0
    for row in city.changes.to_pylist():
        if row["frame"] != frame:
            continue
        low, high = (np.array([row[f"{end}_{axis}"] for axis in "xyz"]) for end in ("low", "high"))
        middle = move.apply((low + high)[None] / 2)[0]
        at = parked.get(row["drive_id"])
        if at is not None and np.hypot(middle[0] - at[0], middle[1] - at[1]) < _AT_CAR_M:
            car = True
        elif (np.linalg.norm(tree[:, :3] - middle, axis=1) < tree[:, 3]).any():
            trees += 1
        else:
            others += 1
    return {"car_found": car if parked else None, "trees_changed": trees, "others_changed": others}
