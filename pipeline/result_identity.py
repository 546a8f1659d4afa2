"""The identity of a result, and the decision whether a drive's existing result has the wanted identity."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from pipeline import publish
from pipeline.config import RunConfig
from pipeline.ingest.content_sample import content_sample
from pipeline.ingest.drives import Drive
from pipeline.publish import Decision, DriveFacts, Source


def result_identity(drive: Drive | DriveFacts, weights_sha256: str | None, config: RunConfig) -> str:
    """The identity of a result of this drive, these weights and these settings."""
    return publish.drive_identity(drive.listing, weights_sha256, {**config.result_settings(), **drive.picture})


def decide(drive: Drive, weights_sha256: str, config: RunConfig, output: str, *, of_many: bool = False) -> Decision:
    """Whether a drive has to be made, by the files under its name: see pipeline.publish.existing_result."""

    def same() -> Iterator[str]:
        for settings in config.same_result_settings():
            yield publish.drive_identity(drive.listing, weights_sha256, {**settings, **drive.picture})

    source = Source(drive.source_uri, drive.listing, partial(content_sample, drive))
    identity = result_identity(drive, weights_sha256, config)
    return publish.decide(
        output, drive.drive_id, identity, source, overwrite=config.overwrite, of_many=of_many, same=same
    )
