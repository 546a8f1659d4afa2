"""Makes stored pixels an upright picture. Rotations of pictures and of videos are given as EXIF orientations."""

from __future__ import annotations

from PIL import Image

UPRIGHT = 1
EXIF_ORIENTATION = 0x0112
# EXIF 2.32, tag 274: the operation that makes the stored picture upright.
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,  # PIL rotates to the left
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_INVERSE = {6: 8, 8: 6}  # each of the others is its own inverse
_OF_TURN = {0: UPRIGHT, 90: 6, 180: 3, 270: 8}  # by degrees to the right


def orientation_of(image: Image.Image, turn: int | None = None) -> int:
    """The orientation (1 to 8) of decoded pixels: that of the file, or, if `turn` is given, that of a rotation to the
    right by so many degrees. Upright where the file has none or an invalid one."""
    try:
        asked = image.getexif().get(EXIF_ORIENTATION, UPRIGHT)
    except Exception:  # PIL raises many kinds of errors for a damaged EXIF block
        asked = UPRIGHT
    asked = asked if asked in _TRANSPOSE else UPRIGHT
    if image.format == "TIFF":  # PIL rotates these itself
        return UPRIGHT if turn is None else _composed(_INVERSE.get(asked, asked), orientation_of_turn(turn))
    return asked if turn is None else orientation_of_turn(turn)


def orientation_of_turn(degrees: float) -> int:
    """The orientation of a rotation to the right, rounded to a multiple of 90 degrees."""
    return _OF_TURN[round(degrees / 90) * 90 % 360]


def is_on_its_side(orientation: int) -> bool:
    """Whether width and height change places."""
    return orientation >= 5


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """The picture as it should be seen."""
    return image.transpose(_TRANSPOSE[orientation]) if orientation in _TRANSPOSE else image


def stored(image: Image.Image, orientation: int) -> Image.Image:
    """The upright picture as it is stored by a camera whose files have this orientation."""
    return upright(image, _INVERSE.get(orientation, orientation))


def _composed(first: int, then: int) -> int:
    """The one orientation that equals two of them one after the other."""
    corners = Image.frombytes("L", (2, 2), bytes((0, 1, 2, 3)))
    wanted = upright(upright(corners, first), then).tobytes()
    return next(one for one in range(1, 9) if upright(corners, one).tobytes() == wanted)
