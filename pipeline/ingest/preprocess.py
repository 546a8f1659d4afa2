"""One image: from bytes to what the network sees, and pixels back again. PIL and NumPy only.

Geometry (Scal3R, method section "Frames"): resize (bicubic) until the target is covered, then cut out the
centre. Pixel centres lie at +0.5, so that resizing is a plain scaling of pixel coordinates. Images are upright here:
the orientation that EXIF notes (or `turn` says) is applied, and poses and intrinsics speak of the upright pixels.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.cameras.camera import Camera
from pipeline.cameras.exif import exif_camera
from pipeline.cameras.orientation import UPRIGHT, is_on_its_side, orientation_of, upright
from pipeline.errors import DecodeError

# Where PIL itself begins to warn (256 MiB as RGB); a panorama of 12,000 x 6,000 passes.
MAX_PIXELS = 89_478_485
# What cameras and exporters write. An allow-list, because others run interpreters (EPS) or read other files.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "PPM")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")


@dataclass(frozen=True)
class FrameGeometry:
    """How a source image becomes the network's: scaled to `resized`, then cut at `left`, `top` (pixels)."""

    resized_width: int
    resized_height: int
    left: int
    top: int


def target_size(source_width: int, source_height: int, width: int, patch: int = 14) -> tuple[int, int]:
    """Size (height, width) of the network's image for a source image: KITTI 1226 x 370 -> (154, 518).

    Height is int(h / w * width) rounded down to a multiple of the patch, at least one patch.

    Raises:
        ValueError: a size that is not positive, or a width that is no multiple of the patch.
    """
    if source_width < 1 or source_height < 1:
        raise ValueError(f"a source image has at least one pixel, got {source_width}x{source_height}")
    if patch < 1 or width < patch or width % patch:
        raise ValueError(f"the network's width must be a positive multiple of its patch {patch}, got {width}")
    height = int(source_height / source_width * width) // patch * patch
    return max(height, patch), width


def frame_geometry(source_width: int, source_height: int, height: int, width: int) -> FrameGeometry:
    """How a source image is resized to cover (height, width) before its centre is cut out."""
    scale = max(width / source_width, height / source_height)
    resized_width = max(round(source_width * scale), width)
    resized_height = max(round(source_height * scale), height)
    return FrameGeometry(resized_width, resized_height, (resized_width - width) // 2, (resized_height - height) // 2)


def source_intrinsics(
    fx: float,
    fy: float,
    cx: float,
    cy: float,
    *,
    source_width: int,
    source_height: int,
    height: int,
    width: int,
) -> tuple[float, float, float, float]:
    """Intrinsics in pixels of the network's image -> (fx, fy, cx, cy) in pixels of the source image."""
    geometry = frame_geometry(source_width, source_height, height, width)
    scale_x = source_width / geometry.resized_width
    scale_y = source_height / geometry.resized_height
    return fx * scale_x, fy * scale_y, (cx + geometry.left) * scale_x, (cy + geometry.top) * scale_y


def prepare_image(image: Image.Image, height: int, width: int) -> NDArray[np.uint8]:
    """Resize an image to cover (height, width), cut out the centre: uint8 (height, width, 3).

    Grey, palette, CMYK and 16-bit images become 8-bit RGB (16 bit by their full range); what is transparent
    becomes white.

    Raises:
        DecodeError: pixels whose range is unknown (32-bit integers above 65535, floating point).
    """
    rgb = _as_rgb(image)
    geometry = frame_geometry(rgb.width, rgb.height, height, width)
    size = (geometry.resized_width, geometry.resized_height)
    if rgb.size != size:
        rgb = rgb.resize(size, Image.Resampling.BICUBIC)
    left, top = geometry.left, geometry.top
    return np.asarray(rgb.crop((left, top, left + width, top + height)), dtype=np.uint8).copy()


def thumbnail(image: Image.Image, width: int, height: int) -> NDArray[np.uint8]:
    """A small grey picture uint8 (height, width) of the whole image, which may be squeezed; means over areas.

    Raises:
        DecodeError: as `prepare_image`.
    """
    grey = image if image.mode == "L" else _as_rgb(image).convert("L")
    return np.asarray(grey.resize((width, height), Image.Resampling.BOX), dtype=np.uint8)


@dataclass(frozen=True)
class ImageHeader:
    """What an image says before its pixels: size (width, height) once it is upright, its orientation (EXIF's 1 to 8),
    and the camera that EXIF's focal length makes, None without one."""

    size: tuple[int, int]
    orientation: int
    camera: Camera | None


def read_header(data: bytes, turn: int | None = None) -> ImageHeader:
    """An image's header; the first kilobytes of a file usually do.

    turn: degrees to the right that stored pixels are turned by, instead of what the file says.

    Raises:
        DecodeError: no bytes, or no header of a known format.
    """
    image = _opened(data, MAX_PIXELS)
    orientation = orientation_of(image, turn)
    size = image.size[::-1] if is_on_its_side(orientation) else image.size
    return ImageHeader(size, orientation, exif_camera(image, *size))


def image_size(data: bytes) -> tuple[int, int]:
    """Size (width, height) of an image, upright, from its header. Raises DecodeError as `read_header`."""
    return read_header(data).size


def decode_image(
    data: bytes,
    *,
    expected_size: tuple[int, int] | None = None,
    max_pixels: int = MAX_PIXELS,
    draft: tuple[int, int] | None = None,
    turn: int | None = None,
) -> Image.Image:
    """Decode a whole image, upright; its header is checked before any pixel is unpacked.

    Args:
        data: the file's bytes.
        expected_size: (width, height) of the drive's first frame; another size is refused.
        max_pixels: more are refused as a decompression bomb (at most MAX_PIXELS).
        draft: of a JPEG decode grey alone, at the smallest of its inner sizes that is no smaller than this.
        turn: degrees to the right that stored pixels are turned by, instead of what EXIF says.

    Raises:
        DecodeError: no bytes, unknown format, too many pixels, another size, truncated or corrupt data.
    """
    image = _opened(data, max_pixels)
    orientation = orientation_of(image, turn)
    aside = is_on_its_side(orientation)
    size = image.size[::-1] if aside else image.size
    if expected_size is not None and size != expected_size:
        raise DecodeError(
            f"expected {expected_size[0]}x{expected_size[1]} pixels as in the drive's first frame, "
            f"got {size[0]}x{size[1]}"
        )
    try:
        if draft is not None:
            image.draft("L", draft[::-1] if aside else draft)  # does nothing to other formats
        image.load()
    except Exception as error:  # format plugins raise whatever broken bytes lead them to
        raise DecodeError(f"corrupt or truncated {image.format} image: {_first_line(error)}") from None
    return image if orientation == UPRIGHT else upright(image, orientation)


def _opened(data: bytes, max_pixels: int) -> Image.Image:
    if not data:
        raise DecodeError("the file has no bytes")
    max_pixels = min(max_pixels, MAX_PIXELS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise DecodeError(f"more than {max_pixels} pixels: refused as a decompression bomb") from None
    except Exception:  # as in decode_image; PIL's own words hold memory addresses
        raise DecodeError(f"not an image of a known format, begins with {data[:8]!r}") from None
    if image.width * image.height > max_pixels:
        raise DecodeError(
            f"{image.width}x{image.height} is more than {max_pixels} pixels: refused as a decompression bomb"
        )
    return image


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.size and (int(values.max()) > 65535 or int(values.min()) < 0):
            raise DecodeError(f"expected 8 or 16 bits a pixel, got integers up to {int(values.max())}")
        # PIL's own conversion clips everything above 255 to white.
        scaled = (values.astype(np.uint32) * 255 + 32767) // 65535
        return Image.fromarray(scaled.astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise DecodeError("expected 8 or 16 bits a pixel, got floating point")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, (255, 255, 255, 255)), rgba).convert("RGB")
    return image.convert("RGB")


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0][:120] or type(error).__name__
