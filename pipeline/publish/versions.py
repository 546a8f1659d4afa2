"""A new version of a published drive takes the place of the old one while both are whole.

The documented names (`<drive_id>/poses.parquet` ...) hold the current version, so that any Parquet reader and any glob
finds it. A drive's first version is written there at once: without a manifest nobody reads it. A later one goes
    1. into a folder of its own below the drive's: `_version-<12 hex digits>/`
    2. the manifest that names that folder's files takes the place of the old one: now the new version is the drive
    3. its files are copied to the documented names (by the store itself; a link on a disk), and a manifest that
       names those is written; the folder goes
A kill before 2 leaves the old version, a kill after it the new one; `settle` repeats 3.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from dataclasses import replace

from pipeline import storage
from pipeline.publish.manifest import MANIFEST, Manifest, read_manifest

Guard = Callable[[], None]
"""Asked before every step that others see; raises where this process may not publish the drive any more."""

# What a publish writes, and what is left under another name where it was killed while writing that.
_NAMES = r"(?:manifest\.json|(?:poses|chunks|loops|part-\d{5,})\.parquet)"
_OURS = re.compile(rf"{_NAMES}|\.{_NAMES}\.[0-9a-f]+\.tmp")
_FOLDER = re.compile(r"_version-[0-9a-f]{12}")


def new_version_folder() -> str:
    """A name below the drive's folder that nobody else uses."""
    return f"_version-{uuid.uuid4().hex[:12]}"


def is_settled(manifest: Manifest) -> bool:
    """Whether the files of a drive have their documented names; not so where a publish was killed just before."""
    return not any(_FOLDER.fullmatch(file.path.split("/")[0]) for file in manifest.files)


def settle(output: str, drive_id: str, guard: Guard) -> Manifest:
    """Bring a published drive's files to their documented names and remove what its manifest does not name.

    Returns the manifest, which names only those. Files that are not ours by name are left alone. Raises DriveError,
    StorageError; repeat it then.
    """
    drive_uri = storage.join(output, storage.check_drive_id(drive_id))
    manifest = read_manifest(output, drive_id)
    if not is_settled(manifest):
        files = []
        for file in manifest.files:
            name = file.path.split("/", 1)[1]
            guard()
            storage.copy(storage.join(drive_uri, *file.path.split("/")), storage.join(drive_uri, *name.split("/")))
            files.append(replace(file, path=name))
        manifest = replace(manifest, files=tuple(files))
        guard()
        storage.write_bytes_atomically(storage.join(drive_uri, MANIFEST), manifest.to_bytes())
    remove_unnamed(drive_uri, {MANIFEST, *(file.path for file in manifest.files)})
    return manifest


def remove_unnamed(drive_uri: str, named: set[str]) -> None:
    """Remove files and version folders of ours that are not among `named` (paths below the drive's folder)."""
    for prefix in ("", "points/"):
        folder = storage.join(drive_uri, "points") if prefix else drive_uri
        if prefix and not storage.exists(folder):
            continue
        for file in storage.list_files(folder):
            if _OURS.fullmatch(file.name) and prefix + file.name not in named:
                storage.remove_file(file.uri)
    for name in storage.list_folders(drive_uri):
        if _FOLDER.fullmatch(name) and not any(path.startswith(name + "/") for path in named):
            storage.remove_tree(storage.join(drive_uri, name))
