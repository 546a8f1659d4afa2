"""Small data sets in exactly the layouts of the benchmarks' unpacked archives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from scipy.spatial.transform import Rotation

SIZE = (48, 32)  # width, height
FOCAL = 30.0
WALL = 6.0  # metres in front of every camera


def poses(count: int, step: float = 0.5) -> np.ndarray:
    """A path (count, 4, 4) forward, with a bend."""
    every = np.tile(np.eye(4), (count, 1, 1))
    for i in range(count):
        every[i, :3, :3] = Rotation.from_euler("y", 2.0 * i, degrees=True).as_matrix()
        every[i, :3, 3] = (0.02 * i * i, 0.01 * i, step * i)
    return every


def picture(number: int, size: tuple[int, int] = SIZE) -> Image.Image:
    """A textured image that moves with its number."""
    base = np.random.default_rng(1).integers(0, 256, (size[1], size[0] + 200, 3), dtype=np.uint8)
    return Image.fromarray(np.ascontiguousarray(base[:, 3 * number : 3 * number + size[0]]))


def kitti(root: Path, count: int = 12, name: str = "04") -> np.ndarray:
    """sequences/04/image_2, calib.txt, times.txt, poses/04.txt."""
    way = poses(count)
    sequence = root / "sequences" / name
    (sequence / "image_2").mkdir(parents=True)
    (root / "poses").mkdir(exist_ok=True)
    for i in range(count):
        picture(i).save(sequence / "image_2" / f"{i:06d}.png")
    projection = f"{FOCAL} 0 {SIZE[0] / 2 - 0.5} 0 0 {FOCAL} {SIZE[1] / 2 - 0.5} 0 0 0 1 0"
    (sequence / "calib.txt").write_text("".join(f"P{camera}: {projection}\n" for camera in range(4)))
    (sequence / "times.txt").write_text("".join(f"{0.1 * i:e}\n" for i in range(count)))
    np.savetxt(root / "poses" / f"{name}.txt", way[:, :3].reshape(-1, 12))
    return way


def virtual_kitti(root: Path, count: int = 12, scene: str = "Scene01", apart: bool = False) -> np.ndarray:
    """Scene01/clone with two cameras; apart: the three archives are unpacked into separate folders."""
    way = poses(count)
    rgb, depth, text = (
        (root / f"vkitti_2.0.3_{part}" if apart else root) / scene / "clone" for part in ("rgb", "depth", "textgt")
    )
    text.mkdir(parents=True, exist_ok=True)
    extrinsic = ["frame cameraID r1,1 r1,2 r1,3 t1 r2,1 r2,2 r2,3 t2 r3,1 r3,2 r3,3 t3 0 0 0 1"]
    intrinsic = ["frame cameraID K[0,0] K[1,1] K[0,2] K[1,2]"]
    for camera in (0, 1):
        for folder in (rgb / "frames" / "rgb", depth / "frames" / "depth"):
            (folder / f"Camera_{camera}").mkdir(parents=True)
    for i in range(count):
        for camera in (0, 1):
            moved = way[i].copy()
            moved[:3, 3] += 0.5 * camera * moved[:3, 0]
            matrix = np.linalg.inv(moved)
            extrinsic.append(f"{i} {camera} " + " ".join(f"{v:.9f}" for v in matrix.ravel()))
            intrinsic.append(f"{i} {camera} {FOCAL} {FOCAL} {(SIZE[0] - 1) / 2} {(SIZE[1] - 1) / 2}")
            picture(i).save(rgb / "frames" / "rgb" / f"Camera_{camera}" / f"rgb_{i:05d}.jpg", quality=95)
            values = np.full((SIZE[1], SIZE[0]), int(WALL * 100), np.uint16)
            values[:4] = 65535  # sky
            Image.fromarray(values).save(depth / "frames" / "depth" / f"Camera_{camera}" / f"depth_{i:05d}.png")
    (text / "extrinsic.txt").write_text("\n".join(extrinsic) + "\n")
    (text / "intrinsic.txt").write_text("\n".join(intrinsic) + "\n")
    return way


def write_ply(path: Path, points: np.ndarray) -> None:
    """Write a binary file with colours, like a laser scanner's."""
    kind = np.dtype([*((a, "<f4") for a in "xyz"), *((c, "u1") for c in ("red", "green", "blue"))])
    rows = np.zeros(len(points), kind)
    for i, axis in enumerate("xyz"):
        rows[axis] = points[:, i]
    names = "".join(f"property float {a}\n" for a in "xyz")
    names += "".join(f"property uchar {c}\n" for c in ("red", "green", "blue"))
    head = f"ply\nformat binary_little_endian 1.0\ncomment a scan\nelement vertex {len(points)}\n{names}end_header\n"
    path.write_bytes(head.encode() + rows.tobytes())


def wall(count: int = 2000, seed: int = 0) -> np.ndarray:
    """Points (count, 3) on a plane ahead."""
    return np.random.default_rng(seed).uniform((-6, -3, WALL), (6, 3, WALL + 0.01), (count, 3))


def eth3d(root: Path, count: int = 8, scene: str = "courtyard") -> tuple[np.ndarray, np.ndarray]:
    """Write a scene with photographs, calibration and a scan with its own coordinates; returns poses and cloud."""
    way = poses(count)
    folder = root / scene
    images = folder / "images" / "dslr_images_undistorted"
    calibration, scans = folder / "dslr_calibration_undistorted", folder / "dslr_scan_eval"
    for one in (images, calibration, scans):
        one.mkdir(parents=True)
    lines = ["# Image list with two lines of data per image:"]
    lines += ["# IMAGE_ID, QW, QX, QY, QZ, TX, TY, TZ, CAMERA_ID, NAME"]
    for i in range(count):
        name = f"DSC_{286 + i:04d}.JPG"
        picture(i).save(images / name, format="JPEG")
        back = np.linalg.inv(way[i])
        x, y, z, w = Rotation.from_matrix(back[:3, :3]).as_quat()
        numbers = " ".join(f"{v:.12f}" for v in (w, x, y, z, *back[:3, 3]))
        lines += [f"{i + 1} {numbers} 0 dslr_images_undistorted/{name}", "1.5 2.5 -1 3.5 4.5 7" if i % 2 else ""]
    (calibration / "images.txt").write_text("\n".join(lines) + "\n")
    (calibration / "cameras.txt").write_text(f"0 PINHOLE {SIZE[0]} {SIZE[1]} {FOCAL} {FOCAL} 24 16\n")
    world = np.eye(4)
    world[:3, :3] = Rotation.from_euler("xyz", (10, 20, 30), degrees=True).as_matrix()
    world[:3, 3] = (1, 2, 3)
    cloud = wall()
    write_ply(scans / "scan1.ply", (cloud - world[:3, 3]) @ world[:3, :3])
    rows = "\n".join(" ".join(f"{v:.12f}" for v in row) + " " for row in world)
    (scans / "scan_alignment.mlp").write_text(
        "<!DOCTYPE MeshLabDocument>\n<MeshLabProject>\n <MeshGroup>\n  "
        f'<MLMesh label="scan1.ply" filename="scan1.ply">\n   <MLMatrix44>\n{rows}\n</MLMatrix44>\n  </MLMesh>\n'
        " </MeshGroup>\n <RasterGroup/>\n</MeshLabProject>\n"
    )
    return way, cloud


def tum(root: Path, count: int = 12, name: str = "rgbd_dataset_freiburg1_desk") -> np.ndarray:
    """A sequence at 30 Hz with truth at 100 Hz that begins a little later."""
    folder = root / name
    (folder / "rgb").mkdir(parents=True)
    way = poses(count)
    lines, listed = ["# ground truth trajectory", "# timestamp tx ty tz qx qy qz qw"], ["# color images"]
    for i in range(count):
        time = 1305031452.791720 + i / 30
        picture(i).save(folder / "rgb" / f"{time:.6f}.png")
        listed.append(f"{time:.6f} rgb/{time:.6f}.png")
        if i:
            q = Rotation.from_matrix(way[i, :3, :3]).as_quat()
            lines.append(f"{time + 0.004:.4f} " + " ".join(f"{v:.9f}" for v in (*way[i, :3, 3], *q)))
    (folder / "groundtruth.txt").write_text("\n".join(lines) + "\n")
    (folder / "rgb.txt").write_text("\n".join(listed) + "\n")
    return way


def write_pcd(path: Path, points: np.ndarray) -> None:
    """Write a binary file with padding and colour, as PCL does."""
    kind = np.dtype([*((a, "<f4") for a in "xyz"), ("_", "u1", (4,)), ("rgb", "<f4")])
    rows = np.zeros(len(points), kind)
    for i, axis in enumerate("xyz"):
        rows[axis] = points[:, i]
    head = (
        "# .PCD v0.7 - Point Cloud Data file format\nVERSION 0.7\nFIELDS x y z _ rgb\nSIZE 4 4 4 1 4\nTYPE F F F U F\n"
        f"COUNT 1 1 1 4 1\nWIDTH {len(points)}\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS {len(points)}\nDATA binary\n"
    )
    path.write_bytes(head.encode() + rows.tobytes())


FISHEYE = {"fx": 20.0, "fy": 20.5, "cx": 23.0, "cy": 16.2, "k": (0.05, -0.02, 0.003, -0.0005)}


def oxford_spires(root: Path, count: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Write a walk of the rig; returns the camera's poses in the scan's world, and the scan."""
    name = "2024-03-12-keble-college-02"
    folder = root / "sequences" / name
    (folder / "raw" / "cam0").mkdir(parents=True)
    (folder / "processed" / "trajectory").mkdir(parents=True)
    (root / "calibration").mkdir()
    site = root / "ground_truth_map" / "keble-college"
    site.mkdir(parents=True)
    k = FISHEYE
    (root / "calibration" / "cam0.yaml").write_text(
        f"image_width: {SIZE[0]}\nimage_height: {SIZE[1]}\ncamera_name: cam0\ncamera_matrix:\n  rows: 3\n  cols: 3\n"
        f"  data: [{k['fx']}, 0.0, {k['cx']}, 0.0, {k['fy']}, {k['cy']}, 0.0, 0.0, 1.0]\n"
        "distortion_model: equidistant\ndistortion_coefficients:\n  rows: 1\n  cols: 4\n"
        f"  data: [{', '.join(map(str, k['k']))}]\n"
    )
    camera_from_lidar = np.eye(4)
    camera_from_lidar[:3, :3] = np.array([[0, -1, 0], [0, 0, -1], [1, 0, 0]])
    camera_from_lidar[:3, 3] = (0.01, 0.06, -0.03)
    rows = "\n".join(f"  - [{', '.join(f'{v:.6f}' for v in row)}]" for row in camera_from_lidar)
    (root / "calibration" / "cam-lidar-imu.yaml").write_text(f"cam0:\n  T_cam_lidar:\n{rows}\n")
    base_from_lidar = np.diag([-1.0, -1.0, 1.0, 1.0])
    base_from_lidar[2, 3] = 0.124
    way = poses(count)
    lines = ["# timestamp tx ty tz qx qy qz qw"]
    start = 1710338098.943278592
    for i in range(count):
        picture(i).save(folder / "raw" / "cam0" / f"{start + 0.05 * i:.9f}.jpg", quality=95)
        base = way[i] @ camera_from_lidar @ np.linalg.inv(base_from_lidar)
        q = Rotation.from_matrix(base[:3, :3]).as_quat()
        lines.append(f"{start + 0.05 * i:.9f} " + " ".join(f"{v:.9f}" for v in (*base[:3, 3], *q)))
    (folder / "processed" / "trajectory" / "gt-tum.txt").write_text("\n".join(lines) + "\n")
    scan = np.concatenate([wall(), wall(500, seed=2) + (0, 0, 900.0)])  # a part far from the walk
    write_pcd(site / "merged-cloud-5cm.pcd", scan)
    return way, scan
