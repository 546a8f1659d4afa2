"""The functions by which a run over many drives uses Ray, the network and the store."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import ray
from ray._private.state import state as cluster_state

from pipeline.common.ray_session import cluster_address, start_ray
from pipeline.config import RunConfig
from pipeline.fleet.plan.drive_plan import PlannedDrive, Planner, drive_config
from pipeline.fleet.records.failure_records import Failures
from pipeline.fleet.schedule.finisher import FinishDrive, finish_drive
from pipeline.fleet.schedule.group_size import GroupSize
from pipeline.forward.events import Event, Outcome
from pipeline.forward.gpus import check_gpus
from pipeline.forward.group import GroupSettings, Permit, run_forward
from pipeline.ingest.frames import DriveTask
from pipeline.prepare import make_task, worker_job

LoadDrive = Callable[[PlannedDrive, Planner], tuple[DriveTask, str]]
"""A planned drive -> the task of the group, and the identity of the files as they are now. Raises DriveError."""
RunWave = Callable[..., Mapping[str, Outcome]]
"""As pipeline.forward.group.run_forward, with the settings in place of the job."""


def _ray_is_there(config: RunConfig) -> None:
    check_gpus(config.device, cluster_address(config.address) is not None, config.ranks)
    start_ray(config.address, config.all_ranks)


def load_drive(planned: PlannedDrive, planner: Planner) -> tuple[DriveTask, str]:
    """List the drive again, scan it, and cut it into chunks."""
    config = drive_config(planner.config, planned.ref)
    drive = planner.find(config)
    return make_task(drive, config, planner.model), planner.identity_of(drive, config)


def run_wave(
    config: RunConfig,
    output: str,
    tasks: Sequence[DriveTask],
    settings: GroupSettings,
    on_event: Callable[[Event], None],
    permit: Permit,
) -> Mapping[str, Outcome]:
    """Pass some drives through the network in one start of a group. Raises GroupError."""
    job = worker_job(config, output)
    return run_forward(job, tasks, group=settings, on_event=on_event, permit=permit)


def cluster_nodes() -> tuple[set[str], set[str]]:
    """Ids of the cluster's nodes that are alive, and of those that are draining (spot nodes, for example)."""
    alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
    return alive, set(cluster_state.get_draining_nodes())


@dataclass(frozen=True)
class Runtime:
    """The functions by which a run uses Ray, the network and the store; a benchmark replaces them by simulations.

    ready: starts Ray, which load, run_wave and finish need; size is called after it.
    """

    ready: Callable[[RunConfig], None] = _ray_is_there
    size: Callable[[RunConfig], GroupSize] = GroupSize.of
    load: LoadDrive = load_drive
    run_wave: RunWave = run_wave
    finish: FinishDrive = finish_drive
    nodes: Callable[[], tuple[set[str], set[str]]] = cluster_nodes
    planner: Callable[[RunConfig, str, Failures], Planner] | None = None


DEFAULT_RUNTIME = Runtime()
