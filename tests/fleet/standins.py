"""A fleet without a network: drives that exist by name, groups that follow a script, publishing that writes a marker.

Planner, queue, lifecycle, ledger, leases and driver are the real ones.
"""

from __future__ import annotations

import hashlib
import threading
from collections import defaultdict
from dataclasses import dataclass, field
from types import SimpleNamespace

from models import ModelConfig
from pipeline import storage
from pipeline.common.progress import Reporter
from pipeline.config import RunConfig
from pipeline.errors import DriveError
from pipeline.fleet.discover.drive_ref import DriveRef, RefusedDrive
from pipeline.fleet.plan.drive_plan import Planner
from pipeline.fleet.run import run_fleet
from pipeline.fleet.schedule.finisher import Finished
from pipeline.fleet.schedule.group_size import GroupSize
from pipeline.fleet.schedule.runtime import Runtime
from pipeline.forward.events import Dropped, GroupLost, Outcome, Progress, RankUp, Staged
from pipeline.forward.group import GroupError
from pipeline.ingest.drives import Drive
from pipeline.publish import Counts, Manifest
from pipeline.publish.files import WrittenFile
from pipeline.schema import SCHEMA_VERSION
from pipeline.storage import Listing, UnreachableError


def made_up_drive(config, frames=10, size=100):
    uri = config.input
    names = tuple(f"{uri}/{n}.png" for n in range(frames))
    listing = Listing(uri, [f"{n}.png" for n in range(frames)], [size] * frames, ["etag"] * frames)
    return Drive(config.drive_id, uri, "images", names, frames, None, None, 64, 64, listing)


@dataclass
class World:
    """What happens to each drive. script: drive -> a word for each try (the last is repeated): ok, input, store, crash,
    node, die (the group cannot go on), bug. frames: drive -> its length (10). finish: drive -> an error a try."""

    script: dict = field(default_factory=dict)
    frames: dict = field(default_factory=dict)
    finish: dict = field(default_factory=dict)
    bad: dict = field(default_factory=dict)
    groups: int = 1
    gpus: int = 0
    rank_bytes: int = 10**12
    sizes: list = field(default_factory=list)
    tries: dict = field(default_factory=lambda: defaultdict(list))
    waves: list = field(default_factory=list)
    alive: set = field(default_factory=lambda: {"node-0"})
    draining: set = field(default_factory=set)
    on_go: object = None
    end_s: float = 0.0  # in which a group's processes end
    lock: object = field(default_factory=threading.Lock)
    marker: str = ""

    def find(self, config):
        error = self.bad.get(config.drive_id)
        if isinstance(error, list):  # of these tries; later tries succeed
            error = error.pop(0) if error else None
        if error is not None:
            raise error
        return made_up_drive(config, self.frames.get(config.drive_id, 10))

    def planner(self, config, output, failures):
        model = ModelConfig.city_tiny()
        return Planner(config.with_network_defaults(model), model, "sha", output, failures, find=self.find)

    def load(self, planned, planner):
        drive = self.find(SimpleNamespace(input=planned.ref.uri, drive_id=planned.drive_id))
        numbers = range(drive.frame_count)
        listing = SimpleNamespace(
            drive=drive,
            numbers=numbers,
            chunks=(numbers,),
            width=64,
            height=64,
            frame_count=len(numbers),
            network_camera=None,
        )
        return listing, planned.identity

    def run_wave(self, config, output, tasks, settings, on_event, permit):
        node = sorted(self.alive)[0]
        on_event(RankUp(0, node, 1))
        over = set()
        ids = [task.drive.drive_id for task in tasks]
        with self.lock:
            self.waves.append(ids)
            self.sizes.append(settings.workers)
        for drive_id in ids:
            while (answer := permit(drive_id)) is None:
                threading.Event().wait(0.01)
            if answer == "stop":
                return {}
            if answer == "skip" or drive_id in over:
                continue
            if self.on_go:
                self.on_go(drive_id)
            with self.lock:
                tries = self.tries[drive_id]
                words = self.script.get(drive_id, ["ok"])
                word = words[min(len(tries), len(words) - 1)]
                tries.append(word)
            on_event(Progress(drive_id, "layers 2/3", 1))
            if word == "ok":
                on_event(Staged(drive_id, f"try-{len(tries)}", 1))
            elif word == "input":
                on_event(Dropped(drive_id, 1, "other ranks failed", False))
                on_event(Dropped(drive_id, 0, f"drive {drive_id}: depth is not finite at frame 7", True))
            elif word == "store":
                on_event(Dropped(drive_id, 0, f"drive {drive_id}: no answer", True, lasting=False))
            elif word == "crash":
                on_event(GroupLost(drive_id))
            elif word == "node":
                self.alive.discard(node)
                on_event(GroupLost(drive_id))
                self.alive.add(node + "x")
                node += "x"
                on_event(RankUp(0, node, 2))
            elif word == "die":
                raise GroupError("the worker group failed", drive_id)
            elif word == "no start":
                raise GroupError("no such weights", None)
            elif word == "bug":
                raise RuntimeError("a bug")
        threading.Event().wait(self.end_s)
        return {drive_id: Outcome(drive_id, None, "") for drive_id in ids}

    def finished(self, staged, config, output, holder):
        drive_id = staged.facts.drive_id
        errors = self.finish.get(drive_id, [])
        if errors:
            error = errors.pop(0)
            if error is not None:
                raise error
        return Finished(staged.facts.frame_count, 1, 0, 5, 50, "pass", {"join": 0.1, "publish": 0.1})

    def run(self, output, names, reporter=None, **settings):
        """A whole run over drives of these names."""
        fleet = settings.pop("fleet", {})
        base = RunConfig(output=str(output), input="made-up", **settings)
        config = RunConfig(**{**base.__dict__, "fleet": type(base.fleet)(**{"retry_after_s": 0.0, **fleet})})
        size = GroupSize(self.groups, config.workers or 1, self.gpus, False, self.rank_bytes)
        parts = Runtime(
            ready=lambda config: None,
            size=lambda config: size,
            load=self.load,
            run_wave=self.run_wave,
            finish=self.finished,
            planner=self.planner,
            nodes=lambda: (set(self.alive), set(self.draining)),
        )
        refs = [name if isinstance(name, DriveRef | RefusedDrive) else DriveRef(name, f"in/{name}") for name in names]
        import io

        return run_fleet(config, refs, reporter or Reporter(io.StringIO()), parts, ["python", "-m", "jobs.reconstruct"])


__all__ = ["DriveError", "Outcome", "UnreachableError", "World", "storage"]


def states(run):
    """Drive -> its state."""
    return {drive_id: row.state for drive_id, row in run.rows.items()}


def manifest_of(output, drive_id, identity):
    """Write the parts of a result of this identity that a run reads."""
    counts = Counts(10, 10, 0, 0, 1, 0, 0, 5, 1.0)
    poses = WrittenFile("poses.parquet", 1, hashlib.sha256(b"x").hexdigest(), 10)
    made = "2026-11-29T12:00:00+00:00"
    manifest = Manifest(SCHEMA_VERSION, drive_id, identity, made, {}, None, {}, "", counts, {}, {}, (poses,))
    (output / drive_id).mkdir()
    (output / drive_id / "poses.parquet").write_bytes(b"x")
    (output / drive_id / "manifest.json").write_bytes(manifest.to_bytes())
