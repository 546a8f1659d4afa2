"""The objects that all groups of a run share."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pipeline.config import RunConfig
from pipeline.fleet.plan.drive_plan import Planner
from pipeline.fleet.schedule.drive_lifecycle import DriveLifecycle
from pipeline.fleet.schedule.finisher import Finisher
from pipeline.fleet.schedule.group_size import GroupSize
from pipeline.fleet.schedule.queue import DriveQueue
from pipeline.fleet.schedule.runtime import Runtime
from pipeline.fleet.schedule.slots import Slots


@dataclass(frozen=True)
class RunContext:
    """config: resolved settings; slots: ranks that can run at a time; loaders: threads that list drives for groups."""

    config: RunConfig
    planner: Planner
    lifecycle: DriveLifecycle
    queue: DriveQueue
    finisher: Finisher
    size: GroupSize
    runtime: Runtime
    slots: Slots
    loaders: ThreadPoolExecutor
