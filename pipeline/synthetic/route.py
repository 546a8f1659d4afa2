"""The route of a car: right-hand lanes, arcs at crossings, lane changes, traffic lights, loops around blocks.

`plan_path` makes a path in the plane, sampled every 0.1 m. `drive_route` adds the speed along it and the camera's pose,
with some motion of the suspension. 10 frames per second.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.synthetic.layout import CityLayout
from pipeline.synthetic.solids import FloatArray
from pipeline.synthetic.streets import LANE_WIDTH, PARKING_WIDTH

FRAME_SECONDS = 0.1
MAX_SPEED = 1.4  # metres per frame
_STEP = 0.1  # metres between samples of a path
_ACCELERATION, _BRAKING = 0.022, 0.032  # metres per frame and frame: 2.2 and 3.2 m/s^2
_SMOOTH = 1.3  # metres; sigma of a Gaussian along the path, so that curvature changes gradually


@dataclass(frozen=True)
class Route:
    """A driven route: `world_from_camera` (F, 4, 4), OpenCV axes, metres; `timestamps_s` (F,); `speed` (F,), metres per
    frame."""

    world_from_camera: FloatArray
    timestamps_s: FloatArray
    speed: FloatArray


def drive_route(
    city: CityLayout, frames: int, seed: int, *, streets: int | None = None, opposite: bool = False
) -> Route:
    """A drive of `frames` frames through the city. Equal arguments give equal routes.

    streets: drives of the same number go through the same streets, each with its own start, place in the lane and
    speed; opposite: this one the other way, in the other lane. Raises ValueError if frames < 1.
    """
    if frames < 1:
        raise ValueError(f"a drive needs at least 1 frame, got {frames}")
    rng = np.random.default_rng([seed, 2])
    if streets is None:
        path, stops = plan_path(city, frames * MAX_SPEED + 60.0, rng)
    else:
        path, stops = _along_streets(city, frames, rng, streets, opposite)
    speed, travelled = _speed_along(path, stops, frames, rng)
    where = np.arange(len(path)) * _STEP
    x, y = np.interp(travelled, where, path[:, 0]), np.interp(travelled, where, path[:, 1])
    tangent = np.gradient(path, axis=0)
    yaw = np.interp(travelled, where, np.unwrap(np.arctan2(tangent[:, 1], tangent[:, 0])))
    smooth = [_smooth_noise(rng, frames, length) for length in (4.0, 6.0, 5.0, 12.0)]
    moving = np.minimum(speed / 0.3, 1.0)
    nod = np.convolve(np.gradient(np.pad(speed, 3, mode="edge")), np.ones(7) / 7, "valid") if frames > 1 else 0.0
    pitch = np.radians(rng.uniform(-2.5, 0.5) + 0.25 * smooth[0] * moving) + 0.25 * nod
    roll = np.radians(rng.normal(0, 0.3) + 0.3 * smooth[1] * moving)
    height = rng.uniform(1.45, 1.75) + 0.012 * smooth[2] * moving
    poses = _poses(np.stack([x, y, height], 1), yaw + np.radians(0.15) * smooth[3] * moving, pitch, roll)
    return Route(poses, np.arange(frames, dtype=np.float64) * FRAME_SECONDS, speed)


def common_path(city: CityLayout, frames: int, streets: int) -> FloatArray:
    """The path (P, 2) that drives of `frames` frames through the same streets share, a sample every 0.1 m."""
    return plan_path(city, frames * MAX_SPEED + 60.0, np.random.default_rng([streets, 8]))[0]


def _along_streets(
    city: CityLayout, frames: int, rng: np.random.Generator, streets: int, opposite: bool
) -> tuple[FloatArray, FloatArray]:
    path = common_path(city, frames, streets)
    if opposite:  # the part that drives in the other direction get to
        path = path[: int(0.6 * frames / _STEP)][::-1]
    tangent = np.gradient(path, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    right = np.stack([tangent[:, 1], -tangent[:, 0]], 1)
    aside = rng.uniform(-0.4, 0.4) + (LANE_WIDTH if opposite else 0.0)
    start = int(rng.uniform(0, 20.0) / _STEP)
    shifted = _resample(_smoothed(path + aside * right))[start:]
    light = rng.uniform(0.2, 0.8) * len(shifted) * _STEP
    return shifted, np.array([light] if rng.random() < 0.5 else [])


def _poses(position: FloatArray, yaw: FloatArray, pitch: FloatArray, roll: FloatArray) -> FloatArray:
    """world_from_camera (F, 4, 4). Angles in radians: yaw from the x axis (east), pitch upwards, roll clockwise as the
    driver sees it."""
    zero, one = np.zeros_like(yaw), np.ones_like(yaw)
    level = np.stack(
        [
            np.stack([np.sin(yaw), zero, np.cos(yaw)], 1),
            np.stack([-np.cos(yaw), zero, np.sin(yaw)], 1),
            np.stack([zero, -one, zero], 1),
        ],
        1,
    )
    poses = np.tile(np.eye(4), (len(yaw), 1, 1))
    poses[:, :3, :3] = level @ small_rotation(zero, pitch, roll)
    poses[:, :3, 3] = position
    return poses


def small_rotation(yaw: FloatArray, pitch: FloatArray, roll: FloatArray) -> FloatArray:
    """Rotations (F, 3, 3) in camera axes (x right, y down, z forward): first roll about z, then pitch, then yaw.

    Angles in radians: yaw to the right, pitch upwards, roll clockwise.
    """
    cy, sy, cp, sp, cr, sr = (
        np.cos(yaw),
        np.sin(yaw),
        np.cos(pitch),
        np.sin(pitch),
        np.cos(roll),
        np.sin(roll),
    )
    zero, one = np.zeros_like(cy), np.ones_like(cy)
    about_y = np.stack([cy, zero, sy, zero, one, zero, -sy, zero, cy], 1).reshape(-1, 3, 3)
    about_x = np.stack([one, zero, zero, zero, cp, -sp, zero, sp, cp], 1).reshape(-1, 3, 3)
    about_z = np.stack([cr, -sr, zero, sr, cr, zero, zero, zero, one], 1).reshape(-1, 3, 3)
    return about_y @ about_x @ about_z


def _smooth_noise(rng: np.random.Generator, count: int, length: float) -> FloatArray:
    """Gaussian noise (count,) of unit variance, correlated over about `length` samples."""
    sigma = length / 2
    reach = int(np.ceil(3 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    kernel /= np.linalg.norm(kernel)
    return np.convolve(rng.normal(size=count + 2 * reach), kernel, "valid")


def perturbed_motion(
    rng: np.random.Generator,
    world_from_camera: FloatArray,
    *,
    yaw_degrees: float = 8.0,
    pitch_degrees: float = 2.0,
    roll_degrees: float = 1.5,
    correlation_frames: float = 5.0,
    shift_metres: float = 0.0,
) -> FloatArray:
    """New poses (F, 4, 4) with smooth random motion of the camera added, so that training sees more rotation.

    The angles are standard deviations; `correlation_frames`: about how long one swing lasts; `shift_metres`: standard
    deviation of the camera's sideways shift, half of it upwards (below 0.5, or the camera may enter a parked car).
    """
    count = len(world_from_camera)
    swing = [_smooth_noise(rng, count, correlation_frames) for _ in range(5)]
    poses = np.array(world_from_camera, np.float64)
    turned = small_rotation(
        np.radians(yaw_degrees) * swing[0],
        np.radians(pitch_degrees) * swing[1],
        np.radians(roll_degrees) * swing[2],
    )
    offset = np.stack([shift_metres * swing[3], 0.5 * shift_metres * swing[4], np.zeros(count)], 1)
    poses[:, :3, 3] += np.einsum("nij,nj->ni", poses[:, :3, :3], offset)
    poses[:, :3, :3] = poses[:, :3, :3] @ turned
    return poses


def plan_path(city: CityLayout, length: float, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """A path (P, 2) in the lanes, at least `length` metres long with a sample every 0.1 m, and the positions of red
    lights on it (L,), metres.

    The path goes from crossing to crossing inside the outermost streets. At first, and often later, it goes around a
    block, so that a long drive comes back to a street it has seen, in the same direction.
    """
    count_x, count_y = len(city.streets_x), len(city.streets_y)
    at = np.array([rng.integers(1, count_x - 1), rng.integers(1, count_y - 1)])
    heading = np.array([(1, 0), (0, 1), (-1, 0), (0, -1)][rng.integers(4)])
    if not _inside(at + heading, count_x, count_y):
        heading = -heading
    pieces: list[FloatArray] = []
    stops: list[float] = []
    total = 0.0
    lane = _lane_offset(city, at, heading, rng)
    here = _crossing(city, at) + heading * (rng.uniform(12, 16)) + _right(heading) * lane
    plan = _loop_plan(at + heading, heading, count_x, count_y, rng)
    if rng.random() < 0.5 and _inside(at + 2 * heading, count_x, count_y):
        plan = [0] + _loop_plan(at + 2 * heading, heading, count_x, count_y, rng)
    while total < length:
        at = at + heading
        turn = plan.pop(0) if plan else _random_turn(at, heading, count_x, count_y, rng)
        after = _turned(heading, turn)
        if not plan and rng.random() < 0.25:
            plan = _loop_plan(at + after, after, count_x, count_y, rng)
        target = _lane_offset(city, at, heading, rng, towards=turn)
        next_lane = _lane_offset(city, at, after, rng) if turn else target
        corner = _crossing(city, at) + _right(heading) * target
        if turn:
            corner = corner + _right(after) * next_lane
        radius = float(rng.uniform(6.0, 7.5) if turn > 0 else rng.uniform(9.0, 12.0)) if turn else 0.0
        straight = _straight(here, corner - heading * radius, heading, rng)
        pieces.append(straight)
        total += len(straight) * _STEP
        street = city.half_y[at[1]] if heading[0] == 0 else city.half_x[at[0]]
        light = total - max(float(street) + 6.0 - radius, 0.0)
        if rng.random() < 0.25:
            stops.append(light)
        if turn:
            pieces.append(_arc(corner - heading * radius, heading, after, radius))
            total += len(pieces[-1]) * _STEP
        here = corner + after * radius
        heading, lane = after, next_lane
    return _resample(_smoothed(np.concatenate(pieces))), np.array(stops)


def _inside(at: FloatArray, count_x: int, count_y: int) -> bool:
    return bool(1 <= at[0] <= count_x - 2 and 1 <= at[1] <= count_y - 2)


def _crossing(city: CityLayout, at: FloatArray) -> FloatArray:
    return np.array([city.streets_x[at[0]], city.streets_y[at[1]]])


def _right(heading: FloatArray) -> FloatArray:
    return np.array([heading[1], -heading[0]])


def _turned(heading: FloatArray, turn: int) -> FloatArray:
    """Heading after a turn: +1 right, -1 left, 0 straight on."""
    return heading if turn == 0 else turn * _right(heading)


def _lane_offset(
    city: CityLayout,
    at: FloatArray,
    heading: FloatArray,
    rng: np.random.Generator,
    towards: int | None = None,
) -> float:
    """Distance of a lane from the street's centre line. On an avenue it is the outer lane before a right turn and the
    inner one before a left turn."""
    half = city.half_x[at[0]] if heading[0] == 0 else city.half_y[at[1]]
    lanes = round(float(half - PARKING_WIDTH) / LANE_WIDTH)
    lane = int(rng.integers(lanes))
    if towards:
        lane = lanes - 1 if towards > 0 else 0
    return (lane + 0.5) * LANE_WIDTH


def _loop_plan(at: FloatArray, heading: FloatArray, count_x: int, count_y: int, rng: np.random.Generator) -> list[int]:
    """The turns that lead around one block, from the crossing `at`, entered with `heading`, and on along the first
    street; empty if no block fits."""
    for side in rng.permutation([-1, 1]):
        place, direction, fits = np.array(at), np.array(heading), _inside(at, count_x, count_y)
        for _ in range(3):
            direction = _turned(direction, int(side))
            place = place + direction
            fits = fits and _inside(place, count_x, count_y)
        if fits:
            return [int(side)] * 4
    return []


def _random_turn(at: FloatArray, heading: FloatArray, count_x: int, count_y: int, rng: np.random.Generator) -> int:
    options = [t for t in (-1, 0, 1) if _inside(at + _turned(heading, t), count_x, count_y)]
    weight = np.array([0.45 if t == 0 else 0.275 for t in options])
    return int(rng.choice(options, p=weight / weight.sum()))


def _straight(start: FloatArray, end: FloatArray, heading: FloatArray, rng: np.random.Generator) -> FloatArray:
    """From start to end along a heading. A lateral difference becomes a lane change; a small sine is added, since no
    driver keeps a lane exactly."""
    side = _right(heading)
    run, shift = float((end - start) @ heading), float((end - start) @ side)
    run = max(run, _STEP)
    s = np.arange(0.0, run, _STEP)
    ease = 8.0 * (1 - np.exp(-run / 20.0))  # the manoeuvre keeps clear of both crossings
    middle = float(np.clip(rng.uniform(0.35, 0.65) * run, ease, run))
    width = max(min(rng.uniform(24.0, 34.0), run - 2 * ease), 6.0)
    q = np.clip((s - middle) / width + 0.5, 0.0, 1.0)
    lateral = shift * q * q * q * (10 - 15 * q + 6 * q * q)
    envelope = np.sin(np.pi * np.clip(s / run, 0, 1)) ** 2
    sway = np.sin(2 * np.pi * (s / rng.uniform(22.0, 45.0) + rng.random())) * rng.uniform(0.05, 0.35)
    return start + s[:, None] * heading + (lateral + envelope * sway)[:, None] * side


def _arc(start: FloatArray, heading: FloatArray, after: FloatArray, radius: float) -> FloatArray:
    angle = np.arange(0.0, np.pi / 2, _STEP / radius)[:, None]
    return start + radius * (np.sin(angle) * heading + (1 - np.cos(angle)) * after)


def _smoothed(path: FloatArray) -> FloatArray:
    reach = int(3 * _SMOOTH / _STEP)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) * _STEP / _SMOOTH) ** 2)
    kernel /= kernel.sum()
    padded = np.concatenate(
        [
            path[0] + (np.arange(-reach, 0)[:, None]) * (path[1] - path[0]),
            path,
            path[-1] + (np.arange(1, reach + 1)[:, None]) * (path[-1] - path[-2]),
        ]
    )
    return np.stack([np.convolve(padded[:, k], kernel, "valid") for k in range(2)], 1)


def _resample(path: FloatArray) -> FloatArray:
    length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1))])
    s = np.arange(0.0, length[-1], _STEP)
    return np.stack([np.interp(s, length, path[:, k]) for k in range(2)], 1)


def _speed_along(
    path: FloatArray, stops: FloatArray, frames: int, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    """Speed (F,), metres per frame, and distance travelled (F,), metres, limited by curvature, traffic and lights."""
    count = len(path)
    tangent = np.gradient(path, axis=0)
    yaw = np.unwrap(np.arctan2(tangent[:, 1], tangent[:, 0]))
    curvature = np.abs(np.gradient(yaw)) / _STEP
    cruise = float(rng.uniform(0.75, 1.2))
    wish = cruise * (1 + 0.18 * np.interp(np.arange(count) * _STEP, *_speed_variation(rng, count * _STEP)))
    # 0.024 m per frame squared is a lateral acceleration of 2.4 m/s^2: a brisk turn in a city
    limit = np.clip(np.minimum(wish, np.sqrt(0.024 / np.maximum(curvature, 1e-4))), 0.4, MAX_SPEED)
    for stop in stops:
        k = int(stop / _STEP)
        if 0 < k < count:
            limit[k] = 0.0
    limit = _brake_for(limit)
    speeds, places = np.empty(frames), np.empty(frames)
    place, waiting, held = 2.0, 0, -1
    speed = float(limit[int(place / _STEP)]) if frames else 0.0
    for f in range(frames):
        speeds[f], places[f] = 0.0, place
        if waiting > 0:
            waiting -= 1
            continue
        k = int(place / _STEP)
        allowed = float(limit[min(k, count - 1)])
        if allowed < 0.05 and k > held:  # a red light: wait, then pass it
            waiting, speed = int(rng.integers(6, 18)), 0.0
            held = k + 30
            continue
        speed = min(speed + _ACCELERATION, allowed if k > held else max(allowed, speed + _ACCELERATION))
        speed = float(np.clip(speed, 0.02, MAX_SPEED))
        speeds[f] = speed
        place += speed
    return speeds, places


def _brake_for(limit: FloatArray) -> FloatArray:
    """Limits that can be kept by braking in time: v^2 <= v_next^2 + 2 b s."""
    squared = limit**2
    ahead = 2 * _BRAKING * _STEP
    ramp = np.arange(len(squared)) * ahead
    # the minimum over k >= i of squared[k] + (k - i) * ahead, for all i at once
    lowest = np.minimum.accumulate((squared + ramp)[::-1])[::-1]
    return np.sqrt(np.maximum(lowest - ramp, 0.0))


def _speed_variation(rng: np.random.Generator, length: float) -> tuple[FloatArray, FloatArray]:
    """Positions every 20 m, and random relative speeds there."""
    knots = np.arange(0.0, length + 40.0, 20.0)
    return knots, rng.normal(size=len(knots)).clip(-2, 2)
