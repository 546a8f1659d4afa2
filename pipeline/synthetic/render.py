"""Finds the first hit of every ray of a camera with rectangles, ellipsoids and the ground, row by row.

The ray through the pixel at x = (u - cx) / fx, y = (v - cy) / fy has the direction (x, y, 1) in the camera's axes, so
the ray parameter is z-depth. Let w = 1 / z-depth. For the plane of a rectangle, w is an affine function of x and y, and
so is w times each of the two coordinates on the rectangle. The ray hits the rectangle where both stay within [-w, w].
In one image row this is an interval of x, computed in closed form, so that only rays that hit are enumerated. For
ellipsoids the interval lies between the roots of a quadratic. Of all hits, the nearest (largest w) counts.
tests/synthetic/plain_rays.py, the plain twin, tests every ray with every object.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.synthetic.layout import CityLayout
from pipeline.synthetic.solids import FloatArray

FAR = 250.0  # metres; everything beyond counts as sky, with depth 0
_NEAR = 0.02  # metres; the near plane
_MIN_PIXELS = 0.35  # objects with a smaller diameter in the image, in pixels, are left out


@dataclass(frozen=True)
class Camera:
    """F pinhole cameras: `world_from_camera` (F, 4, 4) float32; fx = fy = `focal`, principal point and image size in
    pixels."""

    world_from_camera: Tensor
    focal: float
    cx: float
    cy: float
    height: int
    width: int

    def supersampled(self, factor: int) -> Camera:
        """The same cameras with `factor` times as many pixels along each axis."""
        return Camera(
            self.world_from_camera,
            self.focal * factor,
            self.cx * factor,
            self.cy * factor,
            self.height * factor,
            self.width * factor,
        )


@dataclass(frozen=True)
class Scene:
    """A city's geometry as float32 tensors on one device, components first, (3, Q) and (3, E), because these are read
    fastest."""

    quad_centre: Tensor
    quad_u: Tensor  # half edges
    quad_v: Tensor
    quad_normal: Tensor
    leaf_centre: Tensor
    leaf_inverse: Tensor  # 1 / radii
    quad_start: Tensor
    leaf_start: Tensor
    sphere: Tensor  # (4, O)

    @classmethod
    def of(cls, city: CityLayout, device: torch.device) -> Scene:
        def real(array: FloatArray) -> Tensor:
            return torch.tensor(array.T, dtype=torch.float32).contiguous().to(device)

        quads, leaves = city.quads, city.leaves
        return cls(
            real(quads.centre),
            real(quads.half_u),
            real(quads.half_v),
            real(quads.normal),
            real(leaves.centre),
            real(1.0 / leaves.radii),
            torch.as_tensor(city.quad_start).to(device),
            torch.as_tensor(city.leaf_start).to(device),
            real(city.sphere),
        )


@dataclass(frozen=True)
class Hits:
    """The first hits of N = F x rows x W rays: `inverse_depth` (N,), 1 / metres, 0 for sky; `primitive` (N,) int64: -2
    sky, -1 ground, 0 .. Q - 1 a rectangle, from Q an ellipsoid."""

    inverse_depth: Tensor
    primitive: Tensor


@dataclass(frozen=True)
class _Spans:
    """R runs of pixels in a row that one primitive covers: `pixel` (R,): the first; `length`; `primitive`; w of the
    k-th pixel is slope * k + start + sqrt(curve0 + curve1 * k + curve2 * k^2); rectangles have no curve."""

    pixel: Tensor
    length: Tensor
    primitive: Tensor
    start: Tensor
    slope: Tensor
    curve: tuple[Tensor, Tensor, Tensor] | None


def cast_rays(scene: Scene, camera: Camera, rows: tuple[int, int]) -> Hits:
    """First hits of all rays of image rows `rows[0]` .. `rows[1] - 1`, frame by frame, row by row."""
    frame, item = _objects_in_view(scene, camera)
    quad_spans = _quad_spans(scene, camera, rows, *_expand(frame, item, scene.quad_start))
    leaf_spans = _leaf_spans(scene, camera, rows, *_expand(frame, item, scene.leaf_start))
    ground = _ground(camera, rows)
    # positive floats have the same order as their bits: (w, span) packed into one integer has a unique maximum
    key = (ground.clamp(min=0.0) * (ground > 1.0 / FAR)).view(torch.int32).to(torch.int64) << 32
    for offset, spans in ((1, quad_spans), (1 + len(quad_spans.pixel), leaf_spans)):
        pixel, packed = _run(spans, offset)
        key.scatter_reduce_(0, pixel, packed, "amax")
    span = key & 0xFFFFFFFF
    w = (key >> 32).to(torch.int32).view(torch.float32)
    ground_item = torch.full((1,), -1, dtype=torch.int64, device=w.device)
    primitive = torch.cat([ground_item, quad_spans.primitive, leaf_spans.primitive]).index_select(0, span)
    return Hits(w, primitive - (key == 0).to(torch.int64))


def _run(spans: _Spans, offset: int) -> tuple[Tensor, Tensor]:
    """The pixels (P,) of all runs, and their packed (w, span) (P,)."""
    device = spans.pixel.device
    row = torch.repeat_interleave(torch.arange(len(spans.pixel), device=device), spans.length)
    first = torch.cumsum(spans.length, 0) - spans.length
    k = torch.arange(len(row), device=device) - first.index_select(0, row)
    along = k.float()
    w = torch.addcmul(spans.start.index_select(0, row), spans.slope.index_select(0, row), along)
    if spans.curve is not None:
        c0, c1, c2 = (c.index_select(0, row) for c in spans.curve)
        w = w + torch.sqrt(torch.clamp(c0 + along * (c1 + along * c2), min=0.0))
    w = w * (w > 1.0 / FAR)
    # a span with w = 0 must not be larger than the sky, whose key is 0
    packed = (w.view(torch.int32).to(torch.int64) << 32) | (row + offset)
    return k + spans.pixel.index_select(0, row), packed * (w > 0)


def _ground(camera: Camera, rows: tuple[int, int]) -> Tensor:
    """w of the plane z = 0 for every ray, (F * rows * W,)."""
    x, y = pixel_grid(camera, rows)
    down = camera.world_from_camera[:, 2, :3] / -camera.world_from_camera[:, 2, 3:4]
    w = down[:, 0, None, None] * x + (down[:, 1, None, None] * y[:, None] + down[:, 2, None, None])
    return w.reshape(-1)


def pixel_grid(camera: Camera, rows: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """x (W,) of the columns and y (rows,) of some rows at z = 1, at pixel centres."""
    device = camera.world_from_camera.device
    x = (torch.arange(camera.width, device=device) + 0.5 - camera.cx) / camera.focal
    y = (torch.arange(rows[0], rows[1], device=device) + 0.5 - camera.cy) / camera.focal
    return x, y


def _objects_in_view(scene: Scene, camera: Camera) -> tuple[Tensor, Tensor]:
    """(frame, object) pairs whose sphere touches the frustum and is large enough to be seen."""
    pose, radius = camera.world_from_camera, scene.sphere[3]
    turned = pose[:, :3, :3].transpose(1, 2)
    x, y, z = torch.baddbmm(-turned @ pose[:, :3, 3:4], turned, scene.sphere[:3].expand(len(pose), 3, -1)).unbind(1)
    tan_x = max(camera.cx, camera.width - camera.cx) / camera.focal
    tan_y = max(camera.cy, camera.height - camera.cy) / camera.focal
    keep = (z > -radius) & (z < FAR + radius)
    keep &= x.abs() <= tan_x * z + radius * (1 + tan_x**2) ** 0.5
    keep &= y.abs() <= tan_y * z + radius * (1 + tan_y**2) ** 0.5
    keep &= 2 * radius * camera.focal > _MIN_PIXELS * z
    frame, item = keep.nonzero(as_tuple=True)
    return frame, item


def _expand(frame: Tensor, item: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """(frame, object) pairs -> (frame, part) pairs, with the parts start[object] .. start[object + 1]."""
    begin = start.index_select(0, item)
    count = start.index_select(0, item + 1) - begin
    pair = torch.repeat_interleave(torch.arange(len(item), device=item.device), count)
    first = torch.cumsum(count, 0) - count
    parts = torch.arange(len(pair), device=item.device) + (begin - first).index_select(0, pair)
    return frame.index_select(0, pair), parts


def _rows_of(low: Tensor, high: Tensor, camera: Camera, rows: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Part number, image row and y of every row that touches [low, high] in y."""
    top = torch.clamp(torch.ceil(low * camera.focal + camera.cy - 0.5), rows[0], rows[1]).to(torch.int64)
    end = torch.clamp(torch.floor(high * camera.focal + camera.cy + 0.5), rows[0], rows[1]).to(torch.int64)
    count = torch.clamp(end - top, min=0)
    part = torch.repeat_interleave(torch.arange(len(low), device=low.device), count)
    first = torch.cumsum(count, 0) - count
    row = torch.arange(len(part), device=low.device) + (top - first).index_select(0, part)
    return part, row, (row.float() + 0.5 - camera.cy) / camera.focal


def _columns(low: Tensor, high: Tensor, camera: Camera) -> tuple[Tensor, Tensor]:
    """First pixel column and number of columns whose centre lies in [low, high] in x."""
    left = torch.clamp(torch.ceil(low * camera.focal + camera.cx - 0.5), 0, camera.width)
    end = torch.clamp(torch.floor(high * camera.focal + camera.cx + 0.5), 0, camera.width)
    return left.to(torch.int64), torch.clamp(end - left, min=0).to(torch.int64)


def _first_pixel(camera: Camera, rows: tuple[int, int], frame: Tensor, row: Tensor, column: Tensor) -> Tensor:
    return (frame * (rows[1] - rows[0]) + row - rows[0]) * camera.width + column


def _pose_columns(camera: Camera, frame: Tensor) -> tuple[list[Tensor], Tensor]:
    """The camera's axes in the world, three times (3, P), and its position (3, P), for every pair."""
    flat = camera.world_from_camera[:, :3, :].permute(2, 1, 0).reshape(12, -1).contiguous()
    picked = flat.index_select(1, frame)
    return [picked[0:3], picked[3:6], picked[6:9]], picked[9:12]


def _into_camera(axes: list[Tensor], vector: Tensor) -> Tensor:
    """World vectors (3, P) in camera axes (3, P)."""
    return torch.stack([(axis * vector).sum(0) for axis in axes])


def _quad_spans(scene: Scene, camera: Camera, rows: tuple[int, int], frame: Tensor, quad: Tensor) -> _Spans:
    place = camera.world_from_camera[:, :3, 3].T.contiguous()
    normal = scene.quad_normal.index_select(1, quad)
    away = scene.quad_centre.index_select(1, quad) - place.index_select(1, frame)
    facing = ((away * normal).sum(0) < -1e-4).nonzero()[:, 0]
    frame, quad = frame.index_select(0, facing), quad.index_select(0, facing)
    axes, _ = _pose_columns(camera, frame)
    middle = _into_camera(axes, away.index_select(1, facing))
    half_u = _into_camera(axes, scene.quad_u.index_select(1, quad))
    half_v = _into_camera(axes, scene.quad_v.index_select(1, quad))
    low, high, seen = _quad_bounds(camera, middle, half_u, half_v)
    kept = seen.nonzero()[:, 0]
    frame, quad, low, high = (a.index_select(0, kept) for a in (frame, quad, low, high))
    middle, half_u, half_v = (a.index_select(1, kept) for a in (middle, half_u, half_v))
    normal = _into_camera([a.index_select(1, kept) for a in axes], scene.quad_normal.index_select(1, quad))
    # w(x, y) and w times the two coordinates on the rectangle, each as coefficients (3, P) of x, y and 1
    w = normal / (normal * middle).sum(0)
    u, v = ((a - (a * middle).sum(0) * w) / (a * a).sum(0) for a in (half_u, half_v))
    # five conditions g(x, y) = g0 x + g1 y + g2 >= 0; the last is the limit FAR
    limit = w - torch.tensor([[0.0], [0.0], [1.0 / FAR]], device=w.device)
    conditions = torch.stack([w - u, w + u, w - v, w + v, limit], 1).reshape(15, -1)
    part, row, y = _rows_of(low, high, camera, rows)
    picked = conditions.index_select(1, part)
    slope, rest = picked[0:5], torch.addcmul(picked[10:15], picked[5:10], y)
    slope = torch.where(slope == 0.0, 1e-30, slope)
    root = -rest / slope
    rising = slope > 0
    left = torch.where(rising, root, -1e9).amax(0)
    right = torch.where(rising, 1e9, root).amin(0)
    column, length = _columns(left, right, camera)
    kept = length.nonzero()[:, 0]
    part, row, y, column, length = (a.index_select(0, kept) for a in (part, row, y, column, length))
    x0 = (column.float() + 0.5 - camera.cx) / camera.focal
    w = w.index_select(1, part)
    pixel = _first_pixel(camera, rows, frame.index_select(0, part), row, column)
    start = torch.addcmul(torch.addcmul(w[2], w[1], y), w[0], x0)
    return _Spans(pixel, length, quad.index_select(0, part), start, w[0] / camera.focal, None)


def _quad_bounds(camera: Camera, middle: Tensor, half_u: Tensor, half_v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Lowest and highest y of the part in front of the camera, and whether that part can be in the image."""
    corners = torch.stack(
        [
            middle - half_u - half_v,
            middle + half_u - half_v,
            middle + half_u + half_v,
            middle - half_u + half_v,
        ],
        1,
    )
    following = corners[:, [1, 2, 3, 0]]
    z, z_next = corners[2], following[2]
    # if an edge crosses the near plane, the crossing point replaces the corner behind it
    across = (z - _NEAR) / torch.where(z == z_next, 1.0, z - z_next)
    crossing = corners + across * (following - corners)
    valid = torch.cat([z >= _NEAR, (z >= _NEAR) != (z_next >= _NEAR)])
    depth = torch.cat([z.clamp(min=_NEAR), torch.full_like(z, _NEAR)])
    x, y = torch.cat([corners[0], crossing[0]]) / depth, torch.cat([corners[1], crossing[1]]) / depth
    low, high = torch.where(valid, y, 1e9).amin(0), torch.where(valid, y, -1e9).amax(0)
    left, right = torch.where(valid, x, 1e9).amin(0), torch.where(valid, x, -1e9).amax(0)
    seen = (right * camera.focal + camera.cx > 0) & (left * camera.focal + camera.cx < camera.width) & (low < high)
    seen &= (high * camera.focal + camera.cy > 0) & (low * camera.focal + camera.cy < camera.height)
    margin = 1e-3  # more rows than needed are harmless: the conditions above decide about each pixel
    return low - margin, high + margin, seen


def _leaf_spans(scene: Scene, camera: Camera, rows: tuple[int, int], frame: Tensor, leaf: Tensor) -> _Spans:
    axes, place = _pose_columns(camera, frame)
    inverse = scene.leaf_inverse.index_select(1, leaf)
    centre = scene.leaf_centre.index_select(1, leaf)
    low, high = _leaf_bounds(_into_camera(axes, centre - place), 1.0 / inverse.amin(0))
    away = (place - centre) * inverse
    # from inside, an ellipsoid is not visible: then A is negative, and the interval of rows is made empty
    a = (away * away).sum(0) - 1.0
    part, row, y = _rows_of(low, torch.where(a > 1e-3, high, low - 1.0), camera, rows)
    # A w^2 + 2 B w + C = 0 with A = |away|^2 - 1, B = away . d, C = |d|^2, d = x right + y down + forward
    # in unit-sphere axes
    right, down, forward = (axis * inverse for axis in axes)
    table = torch.stack(
        [
            (away * right).sum(0),
            (away * down).sum(0),
            (away * forward).sum(0),
            (right * right).sum(0),
            (right * down).sum(0),
            (right * forward).sum(0),
            (down * down).sum(0),
            (down * forward).sum(0),
            (forward * forward).sum(0),
            a,
        ]
    )
    b1, bd, bf, rr, rd, rf, dd, df, ff, a = table.index_select(1, part)
    b0 = bd * y + bf
    q2 = b1 * b1 - a * rr
    q1 = 2 * b1 * b0 - 2 * a * (rd * y + rf)
    q0 = b0 * b0 - a * (dd * y * y + 2 * df * y + ff)
    column, length = _columns(*_between_roots(q2, q1, q0, b1, b0), camera)
    kept = length.nonzero()[:, 0]
    part, row, column, length = (t.index_select(0, kept) for t in (part, row, column, length))
    a, b1, b0, q2, q1, q0 = (t.index_select(0, kept) for t in (a, b1, b0, q2, q1, q0))
    x0, dx = (column.float() + 0.5 - camera.cx) / camera.focal, 1.0 / camera.focal
    square = a * a
    curve = ((q0 + x0 * (q1 + x0 * q2)) / square, (q1 + 2 * x0 * q2) * dx / square, q2 * dx * dx / square)
    pixel = _first_pixel(camera, rows, frame.index_select(0, part), row, column)
    item = leaf.index_select(0, part) + scene.quad_centre.shape[1]
    return _Spans(pixel, length, item, -(b1 * x0 + b0) / a, -b1 * dx / a, curve)


def _between_roots(q2: Tensor, q1: Tensor, q0: Tensor, b1: Tensor, b0: Tensor) -> tuple[Tensor, Tensor]:
    """Interval of x in which q2 x^2 + q1 x + q0 >= 0 and b1 x + b0 < 0 (the hit lies in front)."""
    disc = q1 * q1 - 4 * q2 * q0
    root = torch.sqrt(disc.clamp(min=0.0))
    q2 = torch.where(q2 == 0.0, -1e-30, q2)
    low, high = (-q1 - root) / (2 * q2), (-q1 + root) / (2 * q2)
    low, high = torch.minimum(low, high), torch.maximum(low, high)
    bounded = q2 < 0
    # an outline that passes behind the camera is a hyperbola; its branch in front is that with b1 x + b0 < 0
    branch_right = b1 < 0
    left = torch.where(bounded, low, torch.where(branch_right, high, -1e9))
    right = torch.where(bounded, high, torch.where(branch_right, 1e9, low))
    front = torch.where(bounded, b1 * (low + high) / 2 + b0 < 0, disc > 0)
    empty = ~front | (bounded & (disc <= 0))
    return left, torch.where(empty, left - 1e9, right)


def _leaf_bounds(local: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
    """Lowest and highest y in the image of balls around `local` (3, P), camera axes; an empty interval for balls behind
    the camera."""
    y, z = local[1], local[2]
    near, far = (z - radius).clamp(min=_NEAR), (z + radius).clamp(min=_NEAR)
    up, down = y - radius, y + radius
    low = torch.where(up < 0, up / near, up / far)
    high = torch.where(down > 0, down / near, down / far)
    return low, torch.where(z + radius <= _NEAR, low - 1.0, high)


def ray_directions(camera: Camera, rows: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """World directions (3, N) with z-depth 1, and origins (3, N), of all rays, in the order of `Hits`."""
    pose = camera.world_from_camera
    x, y = pixel_grid(camera, rows)
    right, down, ahead, eye = (pose[:, :3, k].T[:, :, None, None] for k in range(4))
    ray = right * x + (down * y[:, None] + ahead)
    return ray.reshape(3, -1), eye.expand_as(ray).reshape(3, -1)
