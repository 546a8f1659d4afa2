"""Plain ray casting, every ray against every object: the twin with which pipeline.synthetic.render is compared."""

import torch

from pipeline.synthetic.render import FAR, Camera, Hits, Scene, pixel_grid


def plain_cast_rays(scene: Scene, camera: Camera, rows: tuple[int, int]) -> Hits:
    """The plain twin of `cast_rays`: tests every ray against every rectangle and every ellipsoid of the city.

    It uses no objects, rows, intervals or camera coordinates, but rays, planes and spheres in the world, in float64.
    """
    x, y = pixel_grid(camera, rows)
    pose = camera.world_from_camera.double()
    centre, normal = scene.quad_centre.T.double(), scene.quad_normal.T.double()
    edges = [(edge / (edge**2).sum(0)).T.double() for edge in (scene.quad_u, scene.quad_v)]
    leaf_centre, leaf_inverse = scene.leaf_centre.T.double(), scene.leaf_inverse.T.double()
    best_w, best_item = [], []
    for rotation, eye in zip(pose[:, :3, :3], pose[:, :3, 3], strict=True):
        for y_row in y.double():
            ray = torch.stack([x.double(), y_row.expand_as(x), torch.ones_like(x, dtype=torch.float64)], 1)
            ray = ray @ rotation.T
            away = eye - centre
            reach = (away * normal).sum(1)
            depth = -reach / (ray @ normal.T)
            u, v = ((away * edge).sum(1) + depth * (ray @ edge.T) for edge in edges)
            hit = (depth > 0) & (u.abs() <= 1) & (v.abs() <= 1) & (reach > 0)
            quad_depth = torch.where(hit, depth, torch.inf)

            apart = (eye - leaf_centre) * leaf_inverse
            ball = ray[:, None] * leaf_inverse
            a, b, c = (ball**2).sum(2), (ball * apart).sum(2), (apart**2).sum(1) - 1
            disc = b * b - a * c
            near = (-b - disc.clamp(min=0).sqrt()) / a
            leaf_depth = torch.where((disc >= 0) & (near > 0), near, torch.inf)

            ground = torch.where(ray[:, 2:] < 0, -eye[2] / ray[:, 2:], torch.inf)
            nearest, item = torch.cat([ground, quad_depth, leaf_depth], 1).min(1)
            best_item.append(torch.where(nearest < FAR, item - 1, -2))
            best_w.append(torch.where(nearest < FAR, 1.0 / nearest, 0.0).float())
    return Hits(torch.cat(best_w), torch.cat(best_item))
