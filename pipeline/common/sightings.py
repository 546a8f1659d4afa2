"""How long this machine has seen something unchanged, over all its processes: a process that is started again continues
the wait of the one before.

Each thing has one small file in a folder of this machine. Seconds count from the machine's start, so that a clock that
is set has no effect. A file from before the last start, or one that cannot be read, counts as a first look.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
import uuid
from pathlib import Path

_MOST_BYTES = 4096


class Sightings:
    """folder: where the files are, made when needed; boot: an id of this start of the machine."""

    def __init__(self, folder: Path, boot: str) -> None:
        self._folder, self._boot = folder, boot

    def unchanged_s(self, name: str, value: bytes) -> float:
        """Seconds since a thing of this name was first seen with this value, without another one in between."""
        now, path = time.monotonic(), self._path(name)
        said = f"{self._boot} {hashlib.sha256(value).hexdigest()}"
        with contextlib.suppress(OSError, ValueError):
            with open(path, "rb") as file:
                before, _, since = file.read(_MOST_BYTES).decode().rpartition(" ")
            if before == said and now - float(since) >= 0:
                return now - float(since)
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
            partial.write_text(f"{said} {now}")
            os.replace(partial, path)
        return 0.0

    def forget(self, name: str) -> None:
        """Forget a thing that is gone."""
        with contextlib.suppress(OSError):
            self._path(name).unlink()

    def _path(self, name: str) -> Path:
        return self._folder / hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:32]
