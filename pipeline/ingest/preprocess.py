"""One image: from bytes to the network's input, and pixel coordinates back to the source image. Uses PIL, OpenCV,
NumPy.

Geometry (Scal3R, method section "Frames"): resize (bicubic) until the target is covered, then cut out the centre. Pixel
centres are at +0.5, so that resizing only scales pixel coordinates. Images are upright: the orientation of EXIF (or
`turn`) is applied, and poses and intrinsics refer to the upright pixels.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.cameras.camera import Camera
from pipeline.cameras.exif import exif_camera
from pipeline.cameras.orientation import UPRIGHT, is_on_its_side, orientation_of, upright
from pipeline.cameras.rectify import LensPicture, View, remap_of
from pipeline.errors import DecodeError

# The limit at which PIL warns (256 MiB as RGB); a panorama of 12,000 x 6,000 is below it.
MAX_PIXELS = 89_478_485
LEAST_SIDE = 28  # two patches of the network
MOST_ASPECT = 10
WHITE = 65535  # value of white in pictures of more than 8 bits, by default
_ONE_COLOUR = 2  # largest difference of grey values in a picture of one colour: compression causes small ones
# Formats that cameras and exporters write. Others are not read, because some run interpreters (EPS) or open other
# files.
FORMATS: tuple[str, ...] = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "PPM")
SUFFIXES: tuple[str, ...] = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".bmp", ".tif", ".tiff", ".ppm")
SUFFIXES += (".pgm", ".pnm")
_HEIC = (".heic", ".heif", ".hif")
with contextlib.suppress(ImportError):  # the extra `heic`: its wheel is GPL-2, so it is never required
    import pillow_heif

    pillow_heif.register_heif_opener()
    FORMATS += ("HEIF",)
    SUFFIXES += _HEIC
_CONVERT = "pictures of this kind are not read; convert them to JPEG or PNG"
UNREAD: dict[str, str] = {
    **dict.fromkeys((".avif", ".jp2", ".j2k", ".jxl", ".exr", ".hdr", ".npy", ".svg", ".psd", ".tga"), _CONVERT),
    **dict.fromkeys((".cr2", ".cr3", ".nef", ".arw", ".dng", ".raf", ".orf", ".rw2", ".raw", ".gpr"), _CONVERT),
    ".gif": "animated pictures are not read; convert them to a video",
    **dict.fromkeys(
        () if "HEIF" in FORMATS else _HEIC,
        "HEIC pictures need the extra heic: pip install 'city-reconstruction[heic]', or convert them to JPEG",
    ),
}
"""Endings of pictures that are not read -> why, and what to do."""


@dataclass(frozen=True)
class FrameGeometry:
    """How a source image becomes the network's: scaled to resized_width x resized_height, then cropped at left, top."""

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
    """How a source image is resized to cover (height, width) and cropped to its centre."""
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
    """Resize an image to cover (height, width), and cut out the centre: uint8 (height, width, 3).

    Grey, palette, CMYK and 16-bit images become 8-bit RGB (16 bit by their full range); transparent pixels become
    white.

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


class LensPictures:
    """Pictures taken through a lens, to be rectified. The last one is kept, which the next view may have in common."""

    def __init__(self) -> None:
        self._last: tuple[Image.Image, LensPicture] | None = None

    def of(self, image: Image.Image) -> LensPicture:
        """The picture in RGB. Raises DecodeError as `prepare_image` does."""
        if self._last is None or self._last[0] is not image:
            self._last = image, LensPicture(_as_rgb(image))
        return self._last[1]


def rectified_image(image: Image.Image | LensPicture, view: View) -> NDArray[np.uint8]:
    """A picture taken through a lens, as the pinhole camera of `view` sees it, uint8 (height, width, 3). Raises
    DecodeError as `prepare_image` does."""
    return remap_of(view).apply(image if isinstance(image, LensPicture) else _as_rgb(image))


def thumbnail(image: Image.Image, width: int, height: int) -> NDArray[np.uint8]:
    """A small grey picture uint8 (height, width) of the whole image, by averaging; the aspect ratio may change.

    Raises:
        DecodeError: as `prepare_image` does.
    """
    return np.asarray(_as_grey(image).resize((width, height), Image.Resampling.BOX), dtype=np.uint8)


def grey_picture(image: Image.Image) -> NDArray[np.uint8]:
    """The whole image in grey, uint8 (h, w). Raises DecodeError as `prepare_image` does."""
    return np.asarray(_as_grey(image), dtype=np.uint8)


def grey_view(image: Image.Image | LensPicture, view: View) -> NDArray[np.uint8]:
    """`rectified_image` in grey, uint8 (h, w)."""
    return np.asarray(Image.fromarray(rectified_image(image, view)).convert("L"), dtype=np.uint8)


@dataclass(frozen=True)
class ImageHeader:
    """The header of an image: upright size (width, height), EXIF orientation (1 to 8), and the camera by EXIF's focal
    length, None without one."""

    size: tuple[int, int]
    orientation: int
    camera: Camera | None
    is_deep: bool = False
    """More than 8 bits for each value; the range that is used is known only from the pixels."""


def read_header(data: bytes, turn: int | None = None) -> ImageHeader:
    """Read the header of an image; the first kilobytes of a file are usually enough.

    turn: degrees to the right by which stored pixels are turned, instead of the orientation in the file.

    Raises:
        DecodeError: no bytes, or no header of a known format.
    """
    image = _opened(data, MAX_PIXELS)
    is_deep = _is_deep(image)  # before EXIF is read, which unpacks some formats
    orientation = orientation_of(image, turn)
    size = image.size[::-1] if is_on_its_side(orientation) else image.size
    return ImageHeader(size, orientation, exif_camera(image, *size), is_deep)


def opened(data: bytes) -> Image.Image:
    """An opened image, of which only the header was read. Raises DecodeError as `read_header` does."""
    return _opened(data, MAX_PIXELS)


def image_size(data: bytes) -> tuple[int, int]:
    """Upright size (width, height) of an image, from its header. Raises DecodeError as `read_header` does."""
    return read_header(data).size


def decode_image(
    data: bytes,
    *,
    expected_size: tuple[int, int] | None = None,
    max_pixels: int = MAX_PIXELS,
    draft: tuple[int, int] | None = None,
    turn: int | None = None,
    white: int = WHITE,
) -> Image.Image:
    """Decode a whole image, upright. Its header is checked before pixels are decoded.

    Args:
        data: the file's bytes.
        expected_size: (width, height) of the drive's first frame; another size is refused.
        max_pixels: more are refused as a decompression bomb (at most MAX_PIXELS).
        draft: decode only the grey values of a JPEG, at the smallest of its scales that is not smaller than this.
        turn: degrees to the right by which stored pixels are turned, instead of the orientation in EXIF.
        white: the value of white in pictures of more than 8 bits (`white_of`).

    Raises:
        DecodeError: no bytes, unknown format, too many pixels, another size, truncated or corrupt data.
    """
    image = _opened(data, max_pixels)
    is_deep = _is_deep(image)
    orientation = orientation_of(image, turn)
    aside = is_on_its_side(orientation)
    size = image.size[::-1] if aside else image.size
    if expected_size is not None and size != expected_size:
        mixed = "; portrait and landscape frames are mixed" if size == expected_size[::-1] else ""
        raise DecodeError(
            f"expected {expected_size[0]}x{expected_size[1]} pixels as in the drive's first frame, "
            f"got {size[0]}x{size[1]}{mixed}"
        )
    try:
        if draft is not None:
            image.draft("L", draft[::-1] if aside else draft)  # does nothing to other formats
        image.load()
    except Exception as error:  # decoders raise many types of errors for corrupt data
        raise DecodeError(f"corrupt or truncated {image.format} image: {_first_line(error)}") from None
    if is_deep:
        image = Image.fromarray(_scaled(_deep_values(image, data), white))
    return image if orientation == UPRIGHT else upright(image, orientation)


def white_of(pictures: Iterable[bytes]) -> int:
    """The value of white in a drive's pictures of more than 8 bits. Cameras of 10, 12 or 14 bits store their values
    unscaled in files of 16 bits, so it is the upper end of the smallest such range that contains the brightest value.

    pictures: contents of some files of the drive; those that cannot be read are ignored.
    """
    brightest = 0
    for data in pictures:
        try:
            image = _opened(data, MAX_PIXELS)
            image.load()
            brightest = max(brightest, int(_deep_values(image, data).max(initial=0)))
        except Exception:  # as in decode_image; the error is reported when the frame is decoded
            continue
    return next((2**bits - 1 for bits in (8, 10, 12, 14) if brightest < 2**bits), WHITE) if brightest else WHITE


def shows_nothing(picture: NDArray[np.uint8]) -> bool:
    """Whether a picture has only one colour: a covered lens or a lost signal."""
    return int(picture.max(initial=0)) - int(picture.min(initial=255)) <= _ONE_COLOUR


def check_size(width: int, height: int) -> None:
    """Raises DecodeError for frames of a size that the network cannot use; it says which sizes are possible."""
    if min(width, height) < LEAST_SIDE or max(width, height) > MOST_ASPECT * min(width, height):
        raise DecodeError(
            f"frames of {width}x{height} pixels cannot be used: expected at least {LEAST_SIDE} pixels a side, and one "
            f"side at most {MOST_ASPECT} times the other"
        )


def _is_deep(image: Image.Image) -> bool:
    """Whether values of more than 8 bits are stored. Of such colours PIL silently drops half of the bits."""
    tiles = getattr(image, "tile", None)  # not every format has it, and it is removed once pixels are decoded
    raw = str(tiles[0][3]) if tiles else ""
    return image.mode.startswith("I") or (image.mode in ("RGB", "RGBA") and ";16" in raw)


def _deep_values(image: Image.Image, data: bytes) -> NDArray[np.integer]:
    """Values (h, w) or (h, w, 3) of a loaded image of more than 8 bits."""
    if image.mode.startswith("I"):
        return np.asarray(image)
    flags = cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION
    values = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if values is None or values.dtype != np.uint16 or values.ndim != 3:
        raise DecodeError(f"expected colours of 16 bits, which this {image.format} image promises")
    return np.ascontiguousarray(values[:, :, 2::-1])


def _scaled(values: NDArray[np.integer], white: int) -> NDArray[np.uint8]:
    """Values of more than 8 bits as 8 bits: 0 to `white` becomes 0 to 255."""
    if values.size and (int(values.max()) > WHITE or int(values.min()) < 0):
        raise DecodeError(f"expected 8 or 16 bits a pixel, got integers up to {int(values.max())}")
    # PIL's conversion would clip all values above 255 to white
    return np.minimum((values.astype(np.uint32) * 255 + white // 2) // white, 255).astype(np.uint8)


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
    except Exception:  # as in decode_image; messages of PIL contain memory addresses
        raise DecodeError(f"not an image of a known format, begins with {data[:8]!r}") from None
    if image.width * image.height > max_pixels:
        raise DecodeError(
            f"{image.width}x{image.height} is more than {max_pixels} pixels: refused as a decompression bomb"
        )
    return image


def _as_grey(image: Image.Image) -> Image.Image:
    return image if image.mode == "L" else _as_rgb(image).convert("L")


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I"):
        return Image.fromarray(_scaled(np.asarray(image), WHITE)).convert("RGB")
    if image.mode == "F":
        raise DecodeError("expected 8 or 16 bits a pixel, got floating point")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, (255, 255, 255, 255)), rgba).convert("RGB")
    return image.convert("RGB")


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0][:120] or type(error).__name__
