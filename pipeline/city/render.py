"""What every ray of a camera meets first: rays against rectangles, ellipsoids and the ground, solved row by row.

Along the ray through the pixel at x = (u - cx) / fx, y = (v - cy) / fy the camera-frame direction is (x, y, 1), so that
the ray parameter is z-depth. With w = 1 / z-depth everything a rectangle needs is affine in x and y: w itself, and w times
the two coordinates on it; it is met where both stay within [-w, w]. In one image row that is an interval of
x, found in closed form, so that only rays that do hit are ever enumerated. Ellipsoids give an interval between the roots of a quadratic.
The nearest of all hits (largest w) wins. `cast_rays_plainly` is the same question asked ray by ray, for tests.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.city.layout import CityLayout

FAR = 250.0  # metres; what lies beyond is sky, and depth is 0
_NEAR = 0.02
_MIN_PIXELS = 0.35  # an object whose diameter is a smaller part of a pixel is left out


@dataclass(frozen=True)
class Camera:
    """Pinhole cameras: `world_from_camera` (F, 4, 4) float32, pixels fx = fy = `focal`, principal point, image size."""

    world_from_camera: Tensor
    focal: float
    cx: float
    cy: float
    height: int
    width: int

    def supersampled(self, factor: int) -> Camera:
        return Camera(
            self.world_from_camera, self.focal * factor, self.cx * factor, self.cy * factor,
            self.height * factor, self.width * factor,
        )  # fmt: skip


@dataclass(frozen=True)
class Scene:
    """A city's geometry as float32 tensors on one device; the fields are those of `CityLayout`."""

    quad_centre: Tensor
    quad_u: Tensor  # half edge divided by its squared length: u . (X - centre) is in [-1, 1] on the rectangle
    quad_v: Tensor
    quad_normal: Tensor
    quad_corners: Tensor
    leaf_centre: Tensor
    leaf_inverse: Tensor
    quad_start: Tensor
    leaf_start: Tensor
    sphere: Tensor

    @classmethod
    def of(cls, city: CityLayout, device: torch.device) -> Scene:
        quads = city.quads
        u2 = (quads.half_u**2).sum(1, keepdims=True)
        v2 = (quads.half_v**2).sum(1, keepdims=True)
        corners = [quads.centre + a * quads.half_u + b * quads.half_v for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1))]

        def real(array: object) -> Tensor:
            return torch.as_tensor(array, dtype=torch.float32).to(device)

        return cls(
            real(quads.centre), real(quads.half_u / u2), real(quads.half_v / v2), real(quads.normal),
            torch.stack([real(c) for c in corners], 1), real(city.leaves.centre), real(1.0 / city.leaves.radii),
            torch.as_tensor(city.quad_start).to(device), torch.as_tensor(city.leaf_start).to(device), real(city.sphere),
        )  # fmt: skip


@dataclass(frozen=True)
class Hits:
    """What F x rows x W rays meet, flat: `inverse_depth` (N,) 1 / metres, 0 for sky, and `primitive` (N,) int64:
    -2 sky, -1 ground, 0 .. Q - 1 a rectangle, Q .. an ellipsoid."""

    inverse_depth: Tensor
    primitive: Tensor


@dataclass(frozen=True)
class _Spans:
    """Runs of pixels: `pixel` (R,) of the first, `length`, `primitive`, and w along the run,
    w = slope * k + start + sqrt(curve0 + curve1 * k + curve2 * k^2) for the k-th pixel (flat ones have no curve)."""

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
    # float bits of positive numbers sort as the numbers do: (w, span) packed into one integer has a unique maximum
    key = torch.where(ground > 1.0 / FAR, ground, torch.zeros_like(ground)).view(torch.int32).to(torch.int64) << 32
    for offset, spans in ((1, quad_spans), (1 + len(quad_spans.pixel), leaf_spans)):
        pixel, packed = _run(spans, offset)
        key.scatter_reduce_(0, pixel, packed, "amax")
    span = key & 0xFFFFFFFF
    w = (key >> 32).to(torch.int32).view(torch.float32)
    sky_or_ground = torch.full((1,), -1, dtype=torch.int64, device=w.device)
    primitive = torch.cat([sky_or_ground, quad_spans.primitive, leaf_spans.primitive])[span]
    return Hits(w, torch.where(key == 0, -2, primitive))


def _run(spans: _Spans, offset: int) -> tuple[Tensor, Tensor]:
    """Pixels (P,) and packed (w, span) (P,) of all runs."""
    device = spans.pixel.device
    row = torch.repeat_interleave(torch.arange(len(spans.pixel), device=device), spans.length)
    first = torch.cumsum(spans.length, 0) - spans.length
    ramp = torch.arange(len(row), device=device)
    k = (ramp - first[row]).float()
    w = torch.addcmul(spans.start[row], spans.slope[row], k)
    if spans.curve is not None:
        c0, c1, c2 = (c[row] for c in spans.curve)
        w = w + torch.sqrt(torch.clamp(c0 + k * (c1 + k * c2), min=0.0))
    packed = (w.view(torch.int32).to(torch.int64) << 32) | (row + offset)
    return ramp + (spans.pixel - first)[row], torch.where(w > 1.0 / FAR, packed, 0)


def _ground(camera: Camera, rows: tuple[int, int]) -> Tensor:
    """w of the plane z = 0 for every ray, (F * rows * W,)."""
    x, y = _pixel_grid(camera, rows)
    down = camera.world_from_camera[:, 2, :3] / -camera.world_from_camera[:, 2, 3:4]
    w = down[:, 0, None, None] * x + (down[:, 1, None, None] * y[:, None] + down[:, 2, None, None])
    return w.reshape(-1)


def _pixel_grid(camera: Camera, rows: tuple[int, int]) -> tuple[Tensor, Tensor]:
    device = camera.world_from_camera.device
    x = (torch.arange(camera.width, device=device) + 0.5 - camera.cx) / camera.focal
    y = (torch.arange(rows[0], rows[1], device=device) + 0.5 - camera.cy) / camera.focal
    return x, y


def _objects_in_view(scene: Scene, camera: Camera) -> tuple[Tensor, Tensor]:
    """(frame, object) pairs whose sphere touches the frustum and is large enough to be seen."""
    pose = camera.world_from_camera
    centre, radius = scene.sphere[:, :3], scene.sphere[:, 3]
    local = torch.einsum("fji,foj->foi", pose[:, :3, :3], centre - pose[:, None, :3, 3])
    x, y, z = local.unbind(-1)
    tan_x = max(camera.cx, camera.width - camera.cx) / camera.focal
    tan_y = max(camera.cy, camera.height - camera.cy) / camera.focal
    keep = (z > -radius) & (z < FAR + radius)
    keep &= x.abs() <= tan_x * z + radius * (1 + tan_x**2) ** 0.5
    keep &= y.abs() <= tan_y * z + radius * (1 + tan_y**2) ** 0.5
    keep &= 2 * radius * camera.focal > _MIN_PIXELS * z
    frame, item = keep.nonzero(as_tuple=True)
    return frame, item


def _expand(frame: Tensor, item: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """(frame, object) pairs to (frame, part) pairs with the parts start[object] .. start[object + 1]."""
    count = start[item + 1] - start[item]
    pair = torch.repeat_interleave(torch.arange(len(item), device=item.device), count)
    first = torch.cumsum(count, 0) - count
    return frame[pair], torch.arange(len(pair), device=item.device) + (start[item] - first)[pair]


def _rows_of(
    low: Tensor, high: Tensor, camera: Camera, rows: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Part number, image row and y of every row that touches [low, high] in y."""
    top = torch.clamp(torch.ceil(low * camera.focal + camera.cy - 0.5), rows[0], rows[1]).to(torch.int64)
    end = torch.clamp(torch.floor(high * camera.focal + camera.cy + 0.5), rows[0], rows[1]).to(torch.int64)
    count = torch.clamp(end - top, min=0)
    part = torch.repeat_interleave(torch.arange(len(low), device=low.device), count)
    first = torch.cumsum(count, 0) - count
    row = torch.arange(len(part), device=low.device) + (top - first)[part]
    return part, row, (row.float() + 0.5 - camera.cy) / camera.focal


def _columns(low: Tensor, high: Tensor, camera: Camera) -> tuple[Tensor, Tensor]:
    """First pixel column and number of columns whose centre lies in [low, high] in x."""
    left = torch.clamp(torch.ceil(low * camera.focal + camera.cx - 0.5), 0, camera.width)
    end = torch.clamp(torch.floor(high * camera.focal + camera.cx + 0.5), 0, camera.width)
    return left.to(torch.int64), torch.clamp(end - left, min=0).to(torch.int64)


def _quad_spans(scene: Scene, camera: Camera, rows: tuple[int, int], frame: Tensor, quad: Tensor) -> _Spans:
    pose = camera.world_from_camera
    facing = ((pose[frame, :3, 3] - scene.quad_centre[quad]) * scene.quad_normal[quad]).sum(1) > 1e-4
    frame, quad = frame[facing], quad[facing]
    rotation, eye = pose[frame, :3, :3], pose[frame, :3, 3]
    low, high, seen = _quad_bounds(scene, camera, rotation, eye, quad)
    frame, quad, rotation, eye, low, high = (a[seen] for a in (frame, quad, rotation, eye, low, high))
    away = eye - scene.quad_centre[quad]
    axes = torch.stack([scene.quad_normal[quad], scene.quad_u[quad], scene.quad_v[quad]], 1)
    local = axes @ rotation  # (P, 3, 3): the axes seen from the camera
    reach = (axes * away[:, None]).sum(2)
    w = -local[:, 0] / reach[:, :1]
    u = reach[:, 1:2] * w + local[:, 1]
    v = reach[:, 2:3] * w + local[:, 2]
    # five conditions g(x, y) = g0 x + g1 y + g2 >= 0, the last keeps to the far limit
    limit = w - torch.tensor([0.0, 0.0, 1.0 / FAR], device=w.device)
    conditions = torch.stack([w - u, w + u, w - v, w + v, limit], 1)
    part, row, y = _rows_of(low, high, camera, rows)
    slope = conditions[:, :, 0][part]
    rest = conditions[:, :, 1][part] * y[:, None] + conditions[:, :, 2][part]
    slope = torch.where(slope == 0.0, 1e-30, slope)
    root = -rest / slope
    rising = slope > 0
    left = torch.where(rising, root, -1e9).amax(1)
    right = torch.where(rising, 1e9, root).amin(1)
    column, length = _columns(left, right, camera)
    part, row, y, column, length = (a[length > 0] for a in (part, row, y, column, length))
    x0 = (column.float() + 0.5 - camera.cx) / camera.focal
    start = w[part, 0] * x0 + w[part, 1] * y + w[part, 2]
    pixel = (frame[part] * (rows[1] - rows[0]) + row - rows[0]) * camera.width + column
    return _Spans(pixel, length, quad[part], start, w[part, 0] / camera.focal, None)


def _quad_bounds(
    scene: Scene, camera: Camera, rotation: Tensor, eye: Tensor, quad: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Lowest and highest y of the part in front of the camera, and whether that part can be in the image."""
    corners = (scene.quad_corners[quad] - eye[:, None]) @ rotation
    following = corners.roll(-1, 1)
    z, z_next = corners[..., 2], following[..., 2]
    # where an edge crosses the near plane, the crossing stands in for the corner behind it
    across = (z - _NEAR) / torch.where(z == z_next, 1.0, z - z_next)
    crossing = corners + across[..., None] * (following - corners)
    points = torch.cat([corners, crossing], 1)
    valid = torch.cat([z >= _NEAR, (z >= _NEAR) != (z_next >= _NEAR)], 1)
    depth = torch.cat([z.clamp(min=_NEAR), torch.full_like(z, _NEAR)], 1)
    x, y = points[..., 0] / depth, points[..., 1] / depth
    low, high = torch.where(valid, y, 1e9).amin(1), torch.where(valid, y, -1e9).amax(1)
    left, right = torch.where(valid, x, 1e9).amin(1), torch.where(valid, x, -1e9).amax(1)
    seen = (right * camera.focal + camera.cx > 0) & (left * camera.focal + camera.cx < camera.width) & (low < high)
    margin = 1e-3  # rounding may cost a row, never a pixel: the conditions decide
    return low - margin, high + margin, seen


def _leaf_spans(scene: Scene, camera: Camera, rows: tuple[int, int], frame: Tensor, leaf: Tensor) -> _Spans:
    pose = camera.world_from_camera
    inverse = scene.leaf_inverse[leaf]
    away = (pose[frame, :3, 3] - scene.leaf_centre[leaf]) * inverse
    outside = (away**2).sum(1) - 1.0
    apart = outside > 1e-3
    frame, leaf, inverse, away, outside = (a[apart] for a in (frame, leaf, inverse, away, outside))
    axes = inverse[:, :, None] * pose[frame, :3, :3]  # unit-sphere directions of the camera axes, as columns
    low, high = _leaf_bounds(scene, pose[frame], leaf)
    part, row, y = _rows_of(low, high, camera, rows)
    # A w^2 + 2 B w + C = 0 with A = |away|^2 - 1, B = away . d, C = |d|^2, d = axes (x, y, 1)
    along = (away[:, :, None] * axes).sum(1)
    gram = axes.transpose(1, 2) @ axes
    b1, b0 = along[part, 0], along[part, 1] * y + along[part, 2]
    c2 = gram[part, 0, 0]
    c1 = 2 * (gram[part, 0, 1] * y + gram[part, 0, 2])
    c0 = gram[part, 1, 1] * y * y + 2 * gram[part, 1, 2] * y + gram[part, 2, 2]
    a = outside[part]
    q2, q1, q0 = b1 * b1 - a * c2, 2 * b1 * b0 - a * c1, b0 * b0 - a * c0
    column, length = _columns(*_between_roots(q2, q1, q0, b1, b0), camera)
    keep = length > 0
    part, row, y, column, length = (t[keep] for t in (part, row, y, column, length))
    a, b1, b0, q2, q1, q0 = (t[keep] for t in (a, b1, b0, q2, q1, q0))
    x0, dx = (column.float() + 0.5 - camera.cx) / camera.focal, 1.0 / camera.focal
    square = a * a
    curve = ((q0 + x0 * (q1 + x0 * q2)) / square, (q1 + 2 * x0 * q2) * dx / square, q2 * dx * dx / square)
    pixel = (frame[part] * (rows[1] - rows[0]) + row - rows[0]) * camera.width + column
    return _Spans(
        pixel, length, leaf[part] + len(scene.quad_centre), -(b1 * x0 + b0) / a, -b1 * dx / a, curve
    )  # fmt: skip


def _between_roots(q2: Tensor, q1: Tensor, q0: Tensor, b1: Tensor, b0: Tensor) -> tuple[Tensor, Tensor]:
    """Interval of x in which q2 x^2 + q1 x + q0 >= 0 and b1 x + b0 < 0 (the hit lies in front)."""
    disc = q1 * q1 - 4 * q2 * q0
    root = torch.sqrt(disc.clamp(min=0.0))
    q2 = torch.where(q2 == 0.0, -1e-30, q2)
    low, high = (-q1 - root) / (2 * q2), (-q1 + root) / (2 * q2)
    low, high = torch.minimum(low, high), torch.maximum(low, high)
    bounded = q2 < 0
    # an outline that passes behind the camera is a hyperbola; its branch in front is the one on which b1 x + b0 < 0
    branch_right = b1 < 0
    left = torch.where(bounded, low, torch.where(branch_right, high, -1e9))
    right = torch.where(bounded, high, torch.where(branch_right, 1e9, low))
    front = torch.where(bounded, b1 * (low + high) / 2 + b0 < 0, disc > 0)
    empty = ~front | (bounded & (disc <= 0))
    return left, torch.where(empty, left - 1e9, right)


def _leaf_bounds(scene: Scene, pose: Tensor, leaf: Tensor) -> tuple[Tensor, Tensor]:
    radius = 1.0 / scene.leaf_inverse[leaf].amin(1)
    local = ((scene.leaf_centre[leaf] - pose[:, :3, 3])[:, None] @ pose[:, :3, :3])[:, 0]
    y, z = local[:, 1], local[:, 2]
    near, far = (z - radius).clamp(min=_NEAR), z + radius
    up, down = y - radius, y + radius
    low = torch.where(up < 0, up / near, up / far)
    high = torch.where(down > 0, down / near, down / far)
    behind = z + radius <= _NEAR
    return torch.where(behind, 1e9, low), torch.where(behind, -1e9, high)


def cast_rays_plainly(scene: Scene, camera: Camera, rows: tuple[int, int]) -> Hits:
    """The same hits by trying every ray on every rectangle and every ellipsoid of the city (the slow twin of `cast_rays`).

    It knows nothing of objects, rows, intervals or camera coordinates: world-space rays, planes and spheres only.
    """
    x, y = _pixel_grid(camera, rows)
    pose = camera.world_from_camera.double()
    best_w, best_item = [], []
    for rotation, eye in zip(pose[:, :3, :3], pose[:, :3, 3], strict=True):
        for y_row in y.double():
            ray = torch.stack([x.double(), y_row.expand_as(x), torch.ones_like(x, dtype=torch.float64)], 1)
            ray = ray @ rotation.T
            away = eye - scene.quad_centre.double()
            reach = (away * scene.quad_normal.double()).sum(1)
            depth = -reach / (ray @ scene.quad_normal.double().T)
            u = (away * scene.quad_u.double()).sum(1) + depth * (ray @ scene.quad_u.double().T)
            v = (away * scene.quad_v.double()).sum(1) + depth * (ray @ scene.quad_v.double().T)
            hit = (depth > 0) & (u.abs() <= 1) & (v.abs() <= 1) & (reach > 0)
            quad_depth = torch.where(hit, depth, torch.inf)

            apart = (eye - scene.leaf_centre.double()) * scene.leaf_inverse.double()
            ball = ray[:, None] * scene.leaf_inverse.double()
            a, b, c = (ball**2).sum(2), (ball * apart).sum(2), (apart**2).sum(1) - 1
            disc = b * b - a * c
            near = (-b - disc.clamp(min=0).sqrt()) / a
            leaf_depth = torch.where((disc >= 0) & (near > 0), near, torch.inf)

            ground = torch.where(ray[:, 2:] < 0, -eye[2] / ray[:, 2:], torch.inf)
            depths = torch.cat([ground, quad_depth, leaf_depth], 1)
            nearest, item = depths.min(1)
            item = torch.where(nearest < FAR, item - 1, -2)
            best_w.append(torch.where(nearest < FAR, 1.0 / nearest, 0.0).float())
            best_item.append(item)
    return Hits(torch.cat(best_w), torch.cat(best_item))
