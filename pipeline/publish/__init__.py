"""Writes a joined drive as Parquet to storage, and reads it.

In: chunk predictions, the joined trajectory, facts of drive and run. Out: <output>/<drive_id>/ as defined in
pipeline.schema, with the manifest last (publish_drive); a reader for it (open_drive). Knows neither Ray nor torch.
"""

from pipeline.publish.cameras import Cameras
from pipeline.publish.config import PublishConfig
from pipeline.publish.drive import publish_drive
from pipeline.publish.drive_facts import DriveFacts, RunFacts
from pipeline.publish.existing_result import Decision, NameTakenError, Source, decide, is_whole
from pipeline.publish.manifest import Counts, Manifest, drive_identity, find_manifest, is_published, read_manifest
from pipeline.publish.results import PublishedDrive, open_drive
from pipeline.publish.selection import Selection
from pipeline.publish.versions import is_settled, settle

__all__ = [
    "Cameras",
    "Counts",
    "Decision",
    "DriveFacts",
    "Manifest",
    "NameTakenError",
    "PublishConfig",
    "PublishedDrive",
    "RunFacts",
    "Selection",
    "Source",
    "decide",
    "drive_identity",
    "find_manifest",
    "is_published",
    "is_settled",
    "is_whole",
    "open_drive",
    "publish_drive",
    "read_manifest",
    "settle",
]
