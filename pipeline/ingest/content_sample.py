"""A hash of a few bytes of a drive's files. It tells apart drives whose files have the same names and sizes: files on a
disk have no etag, and uncompressed frames have equal sizes. Where the store has an etag for every file, nothing is
read.
"""

from __future__ import annotations

import hashlib

from pipeline import storage
from pipeline.errors import StorageError
from pipeline.ingest.drives import Drive

_BYTES = 256 * 1024  # at the beginning of a file: the first rows of an uncompressed frame
_FILES = 3
_PIECES = 4  # of a single file (a video): many recordings have the same beginning


def content_sample(drive: Drive) -> str | None:
    """64 hex digits of the first 256 KiB of the first, middle and last file (of a video: of places spread over it).

    None where the store has etags, or a file cannot be read now. Reads up to 1 MiB.
    """
    files = drive.listing
    names, sizes, etags = files.columns()
    if all(etags):
        return None
    digest = hashlib.sha256()
    try:
        if len(names) == 1:
            with storage.open_input(files.uri(0), readahead=False) as file:
                for piece in range(_PIECES):
                    file.seek(max(sizes[0] - _BYTES, 0) * piece // max(_PIECES - 1, 1))
                    digest.update(file.read(_BYTES))
        else:
            for index in sorted({len(names) * part // (_FILES - 1) for part in range(_FILES - 1)} | {len(names) - 1}):
                digest.update(storage.read_bytes(files.uri(index), _BYTES))
    except StorageError:
        return None
    return digest.hexdigest()
