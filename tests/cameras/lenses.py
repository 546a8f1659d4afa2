"""Lenses that tests look through, and rays that those lenses see."""

import numpy as np

from pipeline.cameras.camera import Camera

SIZE = (640, 480)
LENSES = {
    "pinhole": Camera("pinhole", *SIZE, 420.0, 415.0, 322.5, 238.25),
    "radtan4": Camera("radtan", *SIZE, 420.0, 415.0, 322.5, 238.25, (-0.3, 0.09, 1e-3, -2e-3)),
    "radtan5": Camera("radtan", *SIZE, 420.0, 415.0, 322.5, 238.25, (-0.3, 0.1, 1e-3, -5e-4, -0.01)),
    "radtan8": Camera("radtan", *SIZE, 420.0, 415.0, 322.5, 238.25, (0.8, 0.2, 4e-4, -2e-4, 0.01, 1.1, 0.35, 0.03)),
    "fisheye": Camera("fisheye", *SIZE, 230.0, 228.0, 322.5, 238.25, (0.02, -0.01, 0.004, -0.001)),
    "eucm": Camera("eucm", *SIZE, 230.0, 228.0, 322.5, 238.25, (0.6, 1.1)),
    "equirectangular": Camera.equirectangular(*SIZE),
}


def rays(camera: Camera, count: int = 1000, seed: int = 0) -> np.ndarray:
    """Rays (count, 3), of any length, that land inside the image."""
    random = np.random.default_rng(seed)
    inside = np.empty((0, 3))
    while len(inside) < count:
        more = camera.unproject(random.uniform((0, 0), (camera.width, camera.height), (count, 2)))
        inside = np.concatenate([inside, more[np.isfinite(more).all(1)]])
    return inside[:count] * random.uniform(0.5, 80, (count, 1))
