"""Shows the evidence of the images in a report: how well each pair of frames agrees with its cameras, and a picture of
the worst pair with epipolar lines."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.cameras.rectify import remap_of
from pipeline.drive_images import read_frames
from pipeline.refine.evidence import CLOSE
from pipeline.refine.tracks import LONG_SIDE, Picture, find_corners, follow
from pipeline.refine.two_view import fundamental, sampson
from pipeline.report.colours import LEVELS
from pipeline.report.drive_view import DriveView, FloatArray

_WIDTH = 960  # pixels of the picture of a pair
_LINES = 16  # epipolar lines drawn; more hide the photograph
_FEWEST = 16  # tracks of a pair that can be the worst one; fewer can disagree by chance


@dataclass(frozen=True, eq=False)
class ImageEvidence:
    """schema.EVIDENCE of a result as arrays of P pairs of frames. first, second, tracks (P,); share (P,): of the tracks
    within 1.5 pixels of their epipolar lines; distance (P,): median of all, pixels; NaN where not judged."""

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    tracks: NDArray[np.int64]
    share: FloatArray
    distance: FloatArray

    @staticmethod
    def of(view: DriveView) -> ImageEvidence | None:
        """The evidence of a published drive; None where no corner was followed."""
        table = view.drive.evidence
        if table is None or not table.num_rows:
            return None

        def whole(name: str) -> NDArray[np.int64]:
            return np.asarray(table[name].to_numpy(), np.int64)

        def real(name: str) -> FloatArray:
            return np.asarray(table[name].to_numpy(zero_copy_only=False), np.float64)

        first, second, tracks = whole("frame_index"), whole("second_frame_index"), whole("tracks")
        return ImageEvidence(first, second, tracks, real("share"), real("distance"))

    def by_frame(self, frames: int) -> tuple[FloatArray, FloatArray]:
        """share and distance (frames,) of the pair that begins with each frame; NaN where there is none."""
        share, distance = np.full(frames, np.nan), np.full(frames, np.nan)
        share[self.first], distance[self.first] = self.share, self.distance
        return share, distance

    def worst(self) -> int | None:
        """The pair with the smallest share, of equal ones the largest distance; None where no pair is judged."""
        known = np.flatnonzero(np.isfinite(self.share))
        many = known[self.tracks[known] >= _FEWEST]
        known = many if len(many) else known
        if not len(known):
            return None
        return int(known[np.lexsort((-self.distance[known], self.share[known]))[0]])


@dataclass(frozen=True, eq=False)
class WorstPair:
    """The pair of frames that agrees least with its cameras. picture: None where its images cannot be read, or show no
    corners; note: what it shows, or why there is none."""

    title: str
    note: str
    picture: Image.Image | None


def worst_pair(view: DriveView, evidence: ImageEvidence) -> WorstPair | None:
    """The worst pair as a picture: corners in the first frame above, their epipolar lines in the second one below.

    The frames are read again and corners are followed from the first to the second, as when the drive was made. None
    where no pair is judged.
    """
    number = evidence.worst()
    if number is None:
        return None
    first, second = int(evidence.first[number]), int(evidence.second[number])
    title = f"Worst pair of images: frames {first} and {second}"
    said = (
        f"{evidence.share[number]:.0%} of {evidence.tracks[number]} tracks within {CLOSE} px of their epipolar lines, "
        f"median {evidence.distance[number]:.2f} px"
    )
    images = _photographs(view, first, second)
    if isinstance(images, str):
        return WorstPair(title, f"{said}; no picture: {images}", None)
    a, b = _corners(images)
    if not len(a):
        return WorstPair(title, f"{said}; no picture: no corner can be followed from one to the other", None)
    poses, cameras = view.poses[[first, second]], [_camera(view, frame) for frame in (first, second)]
    relative = np.linalg.inv(poses[1]) @ poses[0]
    limit = CLOSE * max(max(images[0].size) / LONG_SIDE, 1.0)
    close = sampson(a, b, relative, cameras[0], cameras[1]) < limit
    note = f"{said}. Above: corners. Below: where they are, and their epipolar lines; red: they disagree"
    return WorstPair(title, note, _drawn(images, a, b, close, _lines(a, relative, cameras)))


def _photographs(view: DriveView, first: int, second: int) -> list[Image.Image] | str:
    """The images of both frames and of those between them, as pinhole pictures; or why one is missing."""
    status = view.drive.poses["status"].to_pylist()
    own = range(first, second + 1, view.drive.camera_count)
    frames = [n for n in own if n in (first, second) or status[n] == "ok"]
    lens = view.drive.undistorted_view(first)
    images: list[Image.Image] = []
    for frame, image in read_frames(view.drive, frames):
        if isinstance(image, str):
            return f"frame {frame}: {image}"
        images.append(image if lens is None else Image.fromarray(remap_of(lens).apply(image)))
    return images


def _camera(view: DriveView, frame: int) -> FloatArray:
    """fx fy cx cy of the picture that `_photographs` gives of a frame."""
    lens = view.drive.undistorted_view(frame)
    if lens is not None:
        pinhole = lens.pinhole
        return np.array([pinhole.fx, pinhole.fy, pinhole.cx, pinhole.cy])
    row = view.drive.poses.slice(frame, 1).to_pylist()[0]
    return np.array([row[name] for name in ("fx", "fy", "cx", "cy")], np.float64)


def _corners(images: list[Image.Image]) -> tuple[FloatArray, FloatArray]:
    """Places (n, 2) of the same corners in the first and in the last image."""
    pictures = [Picture.of(np.asarray(image.convert("L"))) for image in images]
    xy = here = pictures[0].to_source(find_corners(pictures[0].pixels, np.zeros((0, 2), np.float32)))
    for before, now in pairwise(pictures):
        here, good = follow(before, now, here)
        xy, here = xy[good], here[good]
    return xy, here


def _lines(first: FloatArray, second_from_first: FloatArray, cameras: list[FloatArray]) -> FloatArray:
    """(n, 3): a b c of the line a x + b y + c = 0 in the second image on which each place (n, 2) of the first lies."""
    return np.asarray(np.c_[first, np.ones(len(first))] @ fundamental(second_from_first, *cameras).T)


def _drawn(
    images: list[Image.Image], first: FloatArray, second: FloatArray, close: NDArray[np.bool_], lines: FloatArray
) -> Image.Image:
    """The first image above the last, each _WIDTH wide, with corners (n, 2) and lines (n, 3) in colours by `close`."""
    scale = _WIDTH / images[0].width
    size = (_WIDTH, max(round(images[0].height * scale), 1))
    above, below = (np.array(image.convert("RGB").resize(size)) for image in (images[0], images[-1]))
    along = np.argsort(first[:, 0], kind="stable")
    shown = np.zeros(len(first), np.bool_)
    shown[along[np.unique(np.linspace(0, len(first) - 1, _LINES).astype(int))]] = True
    for number in np.flatnonzero(shown):
        a, b, c = lines[number] * (1, 1, scale)
        if abs(a) + abs(b) < 1e-12:
            continue
        if abs(b) >= abs(a):
            ends = [(0.0, -c / b), (float(_WIDTH), -(c + a * _WIDTH) / b)]
        else:
            ends = [(-c / a, 0.0), (-(c + b * size[1]) / a, float(size[1]))]
        start, stop = ((int(np.clip(x, -1e4, 1e4)), int(np.clip(y, -1e4, 1e4))) for x, y in ends)
        cv2.line(below, start, stop, LEVELS["pass" if close[number] else "fail"], 1, cv2.LINE_AA)
    for picture, places in ((above, first), (below, second)):
        for (x, y), agrees, large in zip(places * scale, close, shown, strict=True):
            radius = 4 if large else 2
            cv2.circle(picture, (int(x), int(y)), radius, LEVELS["pass" if agrees else "fail"], -1, cv2.LINE_AA)
    return Image.fromarray(np.concatenate([above, np.zeros((6, _WIDTH, 3), np.uint8), below]))
