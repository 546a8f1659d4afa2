"""Checks the values of a calibration file one by one. An error is one line that names the file and the field."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pipeline.cameras.camera import Camera
from pipeline.errors import DriveError


class CalibrationError(DriveError):
    """A calibration that cannot be used; the text names the file, the field and what was expected."""


# Lists in lists in lists may be short in a file of YAML, where one names another, and endless when written out.
_SHOWN = reprlib.Repr()
_SHOWN.maxlevel, _SHOWN.maxstring, _SHOWN.maxother = 3, 60, 60


@dataclass(frozen=True)
class Fields:
    """Named values of a file, or of a part of it (`where`, such as "cam0.")."""

    file: str
    values: Mapping[str, object]
    where: str = ""

    def error(self, name: str, expected: str, got: object) -> CalibrationError:
        """The error for one field."""
        try:
            shown = _SHOWN.repr(got)
        except ValueError:  # Python prints no whole number of more than 4,300 digits
            shown = "a number of thousands of digits"
        return CalibrationError(f"{self.file}: {self.where}{name}: expected {expected}, got {shown[:60]}")

    def there(self, name: str) -> bool:
        """Whether the field has a value."""
        return self.values.get(name) is not None

    def value(self, name: str) -> object:
        """The field as it is."""
        if not self.there(name):
            raise CalibrationError(f"{self.file}: {self.where}{name} is missing; {_complete(self.values)}")
        return self.values[name]

    def number(self, name: str, default: float | None = None) -> float:
        """A finite number."""
        if default is not None and not self.there(name):
            return default
        return self._number(name, self.value(name))

    def focal(self, name: str) -> float:
        """A number above zero."""
        value = self.number(name)
        if value <= 0:
            raise self.error(name, "a number above zero", self.values[name])
        return value

    def size(self, name: str) -> int:
        """A whole number above zero."""
        value = self.number(name)
        if value < 1 or value != int(value):
            raise self.error(name, "a whole number of pixels above zero", self.values[name])
        return int(value)

    def text(self, name: str) -> str:
        """A text."""
        value = self.value(name)
        if not isinstance(value, str):
            raise self.error(name, "a text", value)
        return value

    def numbers(self, name: str, count: int | None = None) -> list[float]:
        """A list of finite numbers, `count` of them."""
        value = self.value(name)
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise self.error(name, "a list of numbers", value)
        if count is not None and len(value) != count:
            raise self.error(name, f"{count} numbers", len(value))
        return [self._number(f"{name}[{i}]", one) for i, one in enumerate(value)]

    def part(self, name: str) -> Fields:
        """A field that holds fields."""
        value = self.value(name)
        if not isinstance(value, Mapping):
            raise self.error(name, "a block of fields", value)
        return Fields(self.file, value, f"{self.where}{name}.")

    def _number(self, name: str, value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise self.error(name, "a number", value)
        try:
            number = float(value)  # YAML leaves 1e-3 a text
        except (ValueError, OverflowError):
            raise self.error(name, "a finite number", value) from None
        if not math.isfinite(number):
            raise self.error(name, "a finite number", value)
        return number

    def all_or_none(self, *names: str) -> bool:
        """Whether these fields, which belong together, are there. Raises CalibrationError where only some are."""
        there = [name for name in names if self.there(name)]
        if there and len(there) < len(names):
            self.value(next(name for name in names if not self.there(name)))  # says which one is missing
        return bool(there)

    def camera(self, make: Callable[[], Camera], centre: tuple[str, str] = ("cx", "cy")) -> Camera:
        """The camera that `make` makes of checked values. Its errors are given the file's name.

        centre: the names of the principal point's fields in the file. The point must lie inside the picture: zero, or
        the principal point of a larger picture, is a mistake.
        """
        try:
            camera = make()
        except CalibrationError:  # names file and field already
            raise
        except ValueError as error:
            raise CalibrationError(f"{self.file}: {self.where}{error}") from None
        for name, value, most in zip(centre, (camera.cx, camera.cy), (camera.width, camera.height), strict=True):
            if not 0.5 < value < most:  # formats count from 0 or from +0.5: a zero is either
                size = f"{camera.width}x{camera.height}"
                expected = f"a principal point inside the picture of {size} pixels"
                raise self.error(name, expected, f"{value:g}, with pixel centres at +0.5")
        return camera


def _complete(values: Mapping[str, object]) -> str:
    shown = ", ".join(str(name) for name in list(values)[:8])
    return f"the file has {shown}" if shown else "the file has no fields"
