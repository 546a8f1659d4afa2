"""Settings of cameras."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.cameras.rectify import DEFAULT_FOV, SPHERE_VIEWS
from pipeline.common.settings import NEVER, setting


@dataclass(frozen=True)
class CameraConfig:
    """Calibrations, and how pictures of lenses are rectified."""

    file: str | None = setting(None, group="input", identity=NEVER)
    """Calibration of the drive, or of all drives of a run: KITTI calib.txt, COLMAP cameras.txt or .bin, OpenCV YAML or
    XML, ROS camera_info, Kalibr camchain, nerfstudio transforms.json, OpenSfM camera_models.json, the numbers
    fx,fy,cx,cy[,model,params] themselves, or equirectangular. FILE#NAME names one of several cameras. By default a
    calib.txt in the drive's folder or the data set's own calibration (KITTI raw, nuScenes, Argoverse 2, EuRoC), else
    the focal length in EXIF; "none" uses none of them, nor a data set's places of several cameras."""
    fov: float = setting(DEFAULT_FOV, expert=True, identity=NEVER)
    """Largest horizontal field of view, in degrees, of the rectified pictures of a calibrated lens."""
    views: str | None = setting(None, expert=True, identity=NEVER)
    """Views of equirectangular frames, some of front,left,right,rear. Each is a drive of its own, ID-front, ID-left
    ..., whose camera looks in that direction; with --rig views all are the cameras of one drive. By default one drive
    that looks to the front."""
    square_pixels: bool = setting(True, expert=True)
    """Assume that the pixels of an uncalibrated camera are square (fx = fy)."""

    height: float | None = setting(None, group="input")
    """Height of the camera above the road in metres. It makes a result metric if neither fixes nor speeds do."""

    def __post_init__(self) -> None:
        """Raises ValueError that names the field."""
        if self.height is not None and not 0.1 <= self.height <= 20:
            raise ValueError(f"--camera.height must be 0.1 to 20 metres, not {self.height:g}")
        if not 10 <= self.fov <= 150:
            raise ValueError(f"--camera.fov must be 10 to 150 degrees, not {self.fov:g}")
        if self.file == "":
            raise ValueError("--camera.file is empty; give a calibration file, fx,fy,cx,cy, or none")
        names = self.view_names
        if (
            not set(names) <= set(SPHERE_VIEWS)
            or len(set(names)) < len(names)
            or (self.views is not None and not names)
        ):
            raise ValueError(f"--camera.views takes some of {','.join(SPHERE_VIEWS)}, each once, not {self.views!r}")

    @property
    def view_names(self) -> tuple[str, ...]:
        """The names in `views`, empty without it."""
        return tuple(word.strip() for word in (self.views or "").split(",") if word.strip())
