"""Repeats all stages after the network, for a drive whose predictions were kept."""

from __future__ import annotations

import contextlib
from dataclasses import replace

from pipeline import storage
from pipeline.common.progress import Reporter
from pipeline.common.run_id import new_run_id
from pipeline.config import RunConfig
from pipeline.errors import DriveError, StorageError
from pipeline.finish import Reconstruction, join_and_publish
from pipeline.leases import Leases
from pipeline.staged_drive import facts_with_positions, read_staged_drive, remove_staging


def realign(
    output: str, drive_id: str, config: RunConfig, reporter: Reporter, *, to: str | None = None, keep: bool = True
) -> Reconstruction:
    """Refine, join, judge and publish the drive again from the predictions that were kept in `output`.

    config: the settings for it. to: another output, where the result is published, and the one in `output` is not
    changed; None: the new result replaces the old one. keep: whether the predictions are kept.

    Raises DriveError where no predictions were kept or `to` is `output`, and HeldElsewhere where another run holds the
    drive.
    """
    output = storage.absolute(output)
    target = output if to is None else storage.absolute(to)
    if to is not None and target == output:
        raise DriveError(f"drive {drive_id}: --to names its own output {storage.redacted(output)}; choose another one")
    run_id = new_run_id()
    with contextlib.ExitStack() as held:
        guards = []
        for place in dict.fromkeys((output, target)):  # one has the predictions, the other gets the result
            held.enter_context(storage.held_root(place, make=place != output))
            leases = held.enter_context(Leases(place, run_id, config.fleet.lease_s))
            guards.append((leases, leases.take_when_free(drive_id)))

        def guard() -> None:
            for leases, lease in guards:
                leases.keep(lease)

        staged, _ = read_staged_drive(output, drive_id)  # now that no other run can replace them
        staged = replace(staged, facts=facts_with_positions(staged.facts, config.positions))
        result = join_and_publish(staged, replace(config, overwrite=True), output, reporter, guard, publish_to=target)
        if not keep:
            with contextlib.suppress(StorageError):  # the result is published all the same
                remove_staging(output, drive_id)
    return result
