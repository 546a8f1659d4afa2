"""Templates of tracks: each track's place is found again in every picture by the patch with which it began.

A corner that is only followed from picture to picture accumulates the errors of all steps: a patch that grows is pulled
towards its strongest edges, to the same side each time. Shi and Tomasi, "Good Features to Track" (1994), section 3,
therefore compare with the first patch under an affine motion. The search is the inverse compositional one of Baker and
Matthews, "Lucas-Kanade 20 Years On" (2004), section 3.2, with brightness and contrast eliminated.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Flags = NDArray[np.bool_]

_STEPS = 5  # of the search
_SPREAD = 0.5  # standard deviation of a pixel's weight, as a share of the patch's side
# Damping of the affine part, times the number of pixels of a patch: small patches hardly tell it.
_DAMPING = 1.6
_MOVED = 1.0  # pixels: a place that is farther from where the corner was followed to is not believed
_ALIKE = 0.8  # least correlation of a patch with its template
_GROWN = (0.2, 40.0)  # accepted factors of a patch's area since the track began
_ACROSS = 64  # patches side by side in the picture from which templates are made
_FLAT = 1e-3  # grey values: is added to a patch's contrast


@dataclass(frozen=True, eq=False)
class Origins:
    """The pixels around n corners in the picture in which their templates began, from which these can be made again.

    pixels (n, s, s) uint8, where s is larger than a patch by what its gradients need; at (n, 2): the corner's place in
    them.
    """

    pixels: NDArray[np.uint8]
    at: Floats

    @staticmethod
    def of(pixels: NDArray[np.uint8], points: Floats, side: int) -> Origins:
        """Around points (n, 2) of a picture (h, w); pixels outside the picture repeat its edge."""
        centre = np.rint(points).astype(np.int64)
        reach = np.arange(-_around(side), _around(side) + 1)
        y = np.clip(centre[:, 1, None] + reach, 0, pixels.shape[0] - 1)
        x = np.clip(centre[:, 0, None] + reach, 0, pixels.shape[1] - 1)
        return Origins(pixels[y[:, :, None], x[:, None, :]], _floats(points - centre + _around(side)))

    def laid_out(self) -> tuple[Floats, Floats]:
        """One picture of all pixels, and the corners' places (n, 2) in it. cv2.remap needs one picture."""
        count, side, _ = self.pixels.shape
        rows = -(-count // _ACROSS)
        sheet = np.zeros((rows * _ACROSS, side, side), np.float32)
        sheet[:count] = self.pixels
        picture = sheet.reshape(rows, _ACROSS, side, side).transpose(0, 2, 1, 3).reshape(rows * side, _ACROSS * side)
        row, column = np.divmod(np.arange(count), _ACROSS)
        return picture, _floats(self.at + side * np.stack([column, row], 1))

    def select(self, rows: Flags) -> Origins:
        """Only those that are True in `rows` (n,)."""
        return Origins(self.pixels[rows], self.at[rows])

    def joined(self, other: Origins) -> Origins:
        """These, then the other ones."""
        return Origins(np.concatenate([self.pixels, other.pixels]), np.concatenate([self.at, other.at]))

    def replaced(self, rows: Flags, other: Origins) -> Origins:
        """These, with the other ones (m) in the m places that are True in `rows` (n,)."""
        answer = Origins(self.pixels.copy(), self.at.copy())
        answer.pixels[rows], answer.at[rows] = other.pixels, other.at
        return answer


@dataclass(frozen=True, eq=False)
class Templates:
    """Templates of n tracks, K pixels each.

    grey (n, K): patches with mean 0 and deviation 1; search (n, 6, K): differences of patches -> steps of place and
    affine motion; warp (n, 2, 2): from offsets in the template to offsets in the present picture; side: of a patch;
    origin: the pixels from which the templates were made.
    """

    grey: Floats
    search: Floats
    warp: Floats
    side: int
    origin: Origins

    @staticmethod
    def of(pixels: NDArray[np.uint8], points: Floats, side: int) -> Templates:
        """Templates around points (n, 2) of a picture (h, w); pixel centres at whole numbers."""
        return Templates.begun(Origins.of(pixels, points, side), side)

    @staticmethod
    def begun(origin: Origins, side: int, warp: Floats | None = None) -> Templates:
        """Templates from their first pixels. warp (n, 2, 2): their present warps; None: those of the first picture."""
        count = len(origin.at)
        if not count:
            size = side * side
            nothing = np.zeros((0, 2, 2), np.float32)
            return Templates(np.zeros((0, size), np.float32), np.zeros((0, 6, size), np.float32), nothing, side, origin)
        x, y, weight = _offsets(side)
        picture, points = origin.laid_out()
        upright = np.repeat(np.eye(2, dtype=np.float32)[None], count, 0)
        raw = _sampled(picture, points, upright, side)
        grey, contrast = _normal(raw, weight)
        step = np.eye(2, dtype=np.float32)
        right, left, below, above = (
            _sampled(picture, points + s, upright, side) for s in (*_both(step[0]), *_both(step[1]))
        )
        by_x, by_y = (right - left) / (2 * contrast), (below - above) / (2 * contrast)
        jacobian = np.stack([by_x, by_y, by_x * x, by_x * y, by_y * x, by_y * y], 1)
        jacobian -= (jacobian @ weight)[:, :, None]
        jacobian -= ((jacobian * grey[:, None]) @ weight)[:, :, None] * grey[:, None]
        weighted = jacobian * weight
        matrix = weighted @ jacobian.transpose(0, 2, 1)
        scale = (matrix[:, 0, 0] + matrix[:, 1, 1]) / 2 + 1e-9
        damping = np.array([0, 0, 1, 1, 1, 1], np.float32) * (_DAMPING / side**2) + 1e-4
        matrix += scale[:, None, None] * np.diag(damping)
        search = np.linalg.solve(matrix, weighted).astype(np.float32)
        return Templates(grey, search, upright if warp is None else warp, side, origin)

    def select(self, rows: Flags) -> Templates:
        """Only the templates that are True in `rows` (n,)."""
        origin = self.origin.select(rows)
        return Templates(self.grey[rows], self.search[rows], self.warp[rows], self.side, origin)

    def joined(self, other: Templates) -> Templates:
        """These templates, then the other ones."""
        grey, search = np.concatenate([self.grey, other.grey]), np.concatenate([self.search, other.search])
        warp, origin = np.concatenate([self.warp, other.warp]), self.origin.joined(other.origin)
        return Templates(grey, search, warp, self.side, origin)

    def replaced(self, rows: Flags, other: Templates) -> Templates:
        """These templates, with the other ones (m) in the m places that are True in `rows` (n,)."""
        origin = self.origin.replaced(rows, other.origin)
        answer = Templates(self.grey.copy(), self.search.copy(), self.warp.copy(), self.side, origin)
        answer.grey[rows], answer.search[rows], answer.warp[rows] = other.grey, other.search, other.warp
        return answer

    def found(self, pixels: NDArray[np.uint8], points: Floats) -> tuple[Floats, Templates]:
        """Places (n, 2) of the templates in a picture (h, w), searched from points (n, 2), and the templates with their
        warps there. Where a patch no longer looks like its template, the point stays and a new template begins."""
        if not len(points):
            return points, self
        weight = _offsets(self.side)[2]
        half = np.float32(self.side // 2)
        picture = pixels.astype(np.float32)
        place, warp = points.astype(np.float32), self.warp
        for _ in range(_STEPS):
            now, _ = _normal(_sampled(picture, place, warp, self.side), weight)
            step = np.matmul(self.search, (now - self.grey)[:, :, None])[:, :, 0]
            motion = np.eye(2, dtype=np.float32) + step[:, 2:].reshape(-1, 2, 2) / half
            warp = warp @ _inverse(motion)
            place = place - np.einsum("nij,nj->ni", warp, step[:, :2])
        now, _ = _normal(_sampled(picture, place, warp, self.side), weight)
        area = warp[:, 0, 0] * warp[:, 1, 1] - warp[:, 0, 1] * warp[:, 1, 0]
        with np.errstate(invalid="ignore"):
            good = (np.linalg.norm(place - points, axis=1) < _MOVED) & ((now * self.grey) @ weight > _ALIKE)
            good &= (area > _GROWN[0]) & (area < _GROWN[1])
        answer = np.where(good[:, None], place, points).astype(np.float32)
        kept = replace(self, warp=np.where(good[:, None, None], warp, self.warp))
        if good.all():
            return answer, kept
        return answer, kept.replaced(~good, Templates.of(pixels, answer[~good], self.side))


def _around(side: int) -> int:
    """Pixels on each side of a corner's nearest pixel that a template needs: half a patch, and two for its gradients
    and for interpolation."""
    return side // 2 + 2


def _floats(values: NDArray[np.floating]) -> Floats:
    return values.astype(np.float32, copy=False)


def _both(step: Floats) -> tuple[Floats, Floats]:
    return step, -step


def _offsets(side: int) -> tuple[Floats, Floats, Floats]:
    """x and y of a patch's pixels as shares of half its side, and their weights, whose sum is 1; all (K,)."""
    half = side // 2
    y, x = np.mgrid[-half : half + 1, -half : half + 1].astype(np.float32).reshape(2, -1)
    weight = np.exp(-(x**2 + y**2) / (2 * (_SPREAD * side) ** 2))
    return _floats(x / half), _floats(y / half), _floats(weight / weight.sum())


def _sampled(pixels: Floats, points: Floats, warp: Floats, side: int) -> Floats:
    """Grey values (n, K) of warped patches around points (n, 2)."""
    x, y, _ = _offsets(side)
    half = np.float32(side // 2)
    at_x = points[:, :1] + half * (warp[:, 0, :1] * x + warp[:, 0, 1:] * y)
    at_y = points[:, 1:] + half * (warp[:, 1, :1] * x + warp[:, 1, 1:] * y)
    grey = cv2.remap(pixels, at_x, at_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(grey, np.float32)


def _normal(grey: Floats, weight: Floats) -> tuple[Floats, Floats]:
    """Patches (n, K) with mean 0 and deviation 1, and the deviations (n, 1) that they had."""
    centred = grey - (grey @ weight)[:, None]
    contrast = (np.sqrt((centred * centred) @ weight) + _FLAT)[:, None]
    return _floats(centred / contrast), _floats(contrast)


def _inverse(matrix: Floats) -> Floats:
    """Inverses of (n, 2, 2) matrices that are near the identity; the identity where they are singular."""
    a, b, c, d = matrix[:, 0, 0], matrix[:, 0, 1], matrix[:, 1, 0], matrix[:, 1, 1]
    determinant = a * d - b * c
    answer = np.stack([d, -b, -c, a], 1).reshape(-1, 2, 2)
    usable = np.abs(determinant) > 1e-3
    answer /= np.where(usable, determinant, 1.0)[:, None, None]
    answer[~usable] = np.eye(2, dtype=np.float32)
    return answer
