"""Other results to compare a drive with (other runs, files of poses, ground truth), aligned to its world frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline import storage
from pipeline.backend.sim3 import Sim3
from pipeline.errors import DriveError
from pipeline.evaluation import PosedFrames, Truth, align, associate, open_estimate, open_truth
from pipeline.publish import Manifest, PublishedDrive, is_published, open_drive
from pipeline.report.colours import OTHERS
from pipeline.report.drive_view import DriveView, FloatArray

_SAME_INPUT = 0.1  # least share of common files of two results of one drive: strides may differ
_SETTINGS_IN_A_NAME = 2


@dataclass(frozen=True, eq=False)
class Trajectory:
    """A result in the world frame of the shown drive.

    drive: None for a file of poses; world_from_other: transform to the world frame of the shown drive; deviation (n,):
    at the frames `at` (n,) of the shown drive, in metres from the ground truth, or without it in world units from the
    shown drive.
    """

    name: str
    colour: tuple[int, int, int]
    frames: PosedFrames
    drive: PublishedDrive | None
    world_from_other: Sim3
    at: NDArray[np.int64]
    deviation: FloatArray

    @property
    def positions(self) -> FloatArray:
        """(n, 3) of its frames with a pose, in the world frame of the shown drive."""
        return self.world_from_other.apply(self.frames.world_from_camera[self.frames.known, :3, 3])

    @property
    def rmse(self) -> float:
        """Root mean square of the deviations."""
        return float(np.sqrt((self.deviation**2).mean()))


@dataclass(frozen=True, eq=False)
class Compared:
    """The shown drive and the results that it is compared with. own: the shown drive with its deviations from the
    ground truth, None without; metres: in a world unit, None without ground truth; path: length of the compared part,
    in metres or world units."""

    own: Trajectory | None
    others: tuple[Trajectory, ...]
    truth_path: FloatArray | None
    metres: float | None
    path: float
    is_metric: bool = False
    """Whether the shown drive's own unit is a metre."""

    @property
    def unit(self) -> str:
        """Unit of deviations and path."""
        return "m" if self.metres is not None or self.is_metric else "units"


def compare_with(
    view: DriveView, named: Sequence[tuple[str | None, str]], truth_uri: str | None, own_colour: tuple[int, int, int]
) -> Compared:
    """Open other results and align them to the view's world frame by Sim(3): by way of the ground truth if it is given,
    else directly.

    named: name (or None) and URI of each: a published drive, an output that contains it, or a file of poses. Raises
    DriveError for results that do not exist, are of another drive, or share fewer than three frames.
    """
    truth = open_truth(truth_uri, view.drive_id) if truth_uri is not None else None
    own, metres, path, truth_path, world_from_truth = None, None, view.length, None, None
    if truth is not None:
        truth_from_world, at, deviation, path = _against(view.frames, truth)
        world_from_truth, metres = truth_from_world.inverse(), truth_from_world.scale
        own = Trajectory("this result", own_colour, view.frames, view.drive, Sim3.identity(), at, deviation)
        truth_path = world_from_truth.apply(truth.frames.world_from_camera[truth.frames.known, :3, 3])
    others: list[Trajectory] = []
    for number, (name, uri) in enumerate(named):
        drive, frames = _open(view, uri)
        if drive is not None:
            check_same_drive(view.drive.manifest, drive.manifest, uri)
        if truth is not None and world_from_truth is not None:
            truth_from_other, places, deviation, _ = _against(frames, truth)
            (own_at, other_at), _ = associate(view.frames, frames)
            place = np.minimum(np.searchsorted(places, other_at), len(places) - 1)
            judged = places[place] == other_at  # frames that also have a true pose
            at, deviation = own_at[judged], deviation[place[judged]]
            world_from_other = world_from_truth @ truth_from_other
        else:
            (at, other_at), _ = associate(view.frames, frames)
            here, there = view.frames.world_from_camera[at], frames.world_from_camera[other_at]
            world_from_other = _aligned(there, here, uri)
            deviation = np.linalg.norm(world_from_other.apply(there[:, :3, 3]) - here[:, :3, 3], axis=1)
        label = name or _name(view.drive.manifest, drive, uri)
        label = label if label not in [one.name for one in others] else f"{label} ({number + 1})"
        colour = OTHERS[number % len(OTHERS)]
        others.append(Trajectory(label, colour, frames, drive, world_from_other, at, deviation))
    return Compared(own, tuple(others), truth_path, metres, path, view.is_metric)


def check_same_drive(own: Manifest, other: Manifest, uri: str) -> None:
    """Raises DriveError where two results have different inputs: few files have equal names and sizes."""
    here, there = _files(own), _files(other)
    if len(here & there) < _SAME_INPUT * min(len(here), len(there)):
        raise DriveError(
            f"{storage.redacted(uri)} is not a result of drive {own.drive_id}: it was made from {other.input['uri']}, "
            f"this one from {own.input['uri']}, with other files; compare results of one drive"
        )


def changed_settings(own: Mapping[str, object], other: Mapping[str, object]) -> dict[str, tuple[object, object]]:
    """Settings in which two results differ, by dotted name: (own value, other value). Settings of places and machines
    are left out."""
    ignored = {"input", "output", "drive_id", "workers", "threads", "overwrite", "keep_predictions", "address"}
    here, there = flattened(own), flattened(other)
    return {
        name: (here.get(name), there.get(name))
        for name in {**here, **there}
        if name not in ignored and here.get(name) != there.get(name)
    }


def _open(view: DriveView, uri: str) -> tuple[PublishedDrive | None, PosedFrames]:
    uri = storage.absolute(uri)
    if is_published(uri, view.drive_id):
        other = DriveView.of(open_drive(uri, view.drive_id))
        return other.drive, other.frames
    estimate = open_estimate(uri)
    return estimate.drive, estimate.frames


def _against(frames: PosedFrames, truth: Truth) -> tuple[Sim3, NDArray[np.int64], FloatArray, float]:
    """(truth_from_estimate, compared frames, their distance from the truth in metres, length of their path in
    metres)."""
    (at, true_at), _ = associate(frames, truth.frames)
    estimated, true = frames.world_from_camera[at], truth.frames.world_from_camera[true_at]
    truth_from_estimate = _aligned(estimated, true, frames.what)
    off = truth_from_estimate.apply(estimated[:, :3, 3]) - true[:, :3, 3]
    path = float(np.linalg.norm(np.diff(true[:, :3, 3], axis=0), axis=1).sum())
    return truth_from_estimate, at, np.linalg.norm(off, axis=1), path


def _aligned(poses: FloatArray, onto: FloatArray, what: str) -> Sim3:
    try:
        return align(poses, onto, with_scale=True)
    except ValueError as error:
        raise DriveError(f"{storage.redacted(what)} cannot be aligned: {error}") from None


def _name(own: Manifest, other: PublishedDrive | None, uri: str) -> str:
    """A name for a result: the settings that differ, or its folder."""
    changed = changed_settings(own.config, other.manifest.config) if other is not None else {}
    if 0 < len(changed) <= _SETTINGS_IN_A_NAME:
        return ", ".join(f"{name.rpartition('.')[2]} {value}" for name, (_, value) in changed.items())
    above, name = storage.parent_and_name(storage.absolute(uri))
    return name if name != own.drive_id else storage.parent_and_name(above)[1]


def _files(manifest: Manifest) -> set[tuple[object, object]]:
    return {(file["name"], file["size"]) for file in manifest.input_files}


def flattened(values: Mapping[str, object], above: str = "") -> dict[str, object]:
    """Nested settings by dotted name."""
    flat: dict[str, object] = {}
    for name, value in values.items():
        flat |= flattened(value, f"{above}{name}.") if isinstance(value, Mapping) else {f"{above}{name}": value}
    return flat
