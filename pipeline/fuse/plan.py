"""An estimate of a fuse run: exact counts, and time, memory and bytes by rates that were measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.forward.network import NetworkSpec
from pipeline.fuse.candidates import GROUND, Candidate
from pipeline.fuse.config import FuseConfig
from pipeline.fuse.evidence import Evidence
from pipeline.fuse.joint_link import network_kind
from pipeline.fuse.joint_windows import network_size
from pipeline.fuse.proposals import FACING, most_facing, most_on_ground
from pipeline.fuse.published_drives import FusibleDrive

# Core seconds and bytes, measured on rendered drives (336 x 168) and KITTI (1241 x 376), see README.md.
_COMPARE_S = 0.3  # to read and compare a pair of frames
_FACING_S, _ASIDE_S = 0.4, 0.08  # the same in opposite directions; to read the side views of a frame
_GROUND_S, _CHART_S = 0.5, 0.26  # to make two charts of the road and compare them; to make one
_CHUNK_S = 0.004  # for a chunk in the solution, all rounds
_POINT_S = 2.5e-6  # to transform, thin and write a point; COPC costs the same again
_CHANGE_S = 3e-6  # to compare a point with the next drive
_POINT_BYTES, _COPC_BYTES = 16, 14  # of a point in a tile
_KEPT = 0.6  # share of the drives' points that is left in the tiles
_CHUNK_FLOPS = 5e10  # floating point operations of a joint chunk that a core does in a second
_BASE, _DRIVE_POINT, _FRAME, _CHUNK = 300e6, 60.0, 900.0, 12e3  # bytes of memory: at least, a point, a frame, a chunk


@dataclass(frozen=True)
class Plan:
    """pairs: pairs of drives that went in the same direction; opposite: those that positions show in opposite ones;
    compared: pairs of frames in one direction, of which `known` were compared by earlier runs; joint: joint chunks, of
    which `joint_known` are known, and joint_core_seconds: of the network for the others; core_seconds (without those
    of the network and of opposite directions), memory_bytes, written_bytes: estimates that are right within a factor
    of two or three. Only the solution shows which frames face each other, or see one road in different directions:
    facing, side_views, facing_core_seconds: at most so many pairs of frames in opposite directions, frames whose side
    views are read, and core seconds for both; facing_known: such pairs that were compared by earlier runs, in addition.
    ground, ground_known: the same of pairs whose charts of the road are compared; charts: those that are made beside
    them, to find such pairs between parts of the city."""

    pairs: int
    opposite: int
    compared: int
    known: int
    chunks: int
    points: int
    core_seconds: float
    memory_bytes: float
    written_bytes: float
    joint: int = 0
    joint_known: int = 0
    joint_core_seconds: float = 0.0
    facing: int = 0
    facing_known: int = 0
    side_views: int = 0
    ground: int = 0
    ground_known: int = 0
    charts: int = 0

    @property
    def ground_core_seconds(self) -> float:
        """Core seconds for charts of the road, at most."""
        return _GROUND_S * self.ground + _CHART_S * self.charts

    @property
    def facing_core_seconds(self) -> float:
        """Core seconds for opposite directions, at most."""
        return _FACING_S * self.facing + _ASIDE_S * self.side_views

    def lines(self) -> list[str]:
        """The lines that jobs.fuse --plan prints."""
        lines = [
            f"  pairs    {self.pairs:,} of drives in the same direction, {self.opposite:,} in opposite ones",
            f"  compare  {self.compared - self.known:,} pairs of frames; {self.known:,} more were compared before",
            f"  facing   at most {self.facing:,} pairs of frames in opposite directions and side views of "
            f"{self.side_views:,} frames, {self.facing_core_seconds:,.0f} core seconds more; "
            f"{self.facing_known:,} more pairs were compared before",
            f"  road     at most {self.ground:,} pairs of charts of the road and {self.charts:,} charts to find them, "
            f"{self.ground_core_seconds:,.0f} core seconds more; {self.ground_known:,} more pairs were compared before",
            f"  solve    {self.chunks:,} chunks",
            f"  takes    about {self.core_seconds:,.0f} core seconds, {self.memory_bytes / 2**30:.1f} GiB of memory, "
            f"{self.written_bytes / 2**20:,.0f} MiB written",
        ]
        if self.joint:
            lines.insert(
                2,
                f"  network  {self.joint - self.joint_known:,} joint chunks, about {self.joint_core_seconds:,.0f} core "
                f"seconds more without GPUs; {self.joint_known:,} more were predicted before",
            )
        return lines


def plan_of(output: str, config: FuseConfig, drives: Sequence[FusibleDrive], candidates: Sequence[Candidate]) -> Plan:
    """The plan of these candidates, among them those that the solution of an earlier version proposed. Raises
    StorageError; with config.network also CheckpointError."""
    same = [one for one in candidates if not one.opposite and one.by != GROUND]
    evidence = Evidence(output, drives)
    ground, charts = most_on_ground(drives, candidates, config.budget)
    facing, side_views = most_facing(drives, candidates, config.budget)
    told = [one for one in candidates if one.by in FACING]
    facing_known = sum(evidence.known(one) is not None for one in told)
    by_road = [one for one in candidates if one.by == GROUND]
    ground_known = sum(evidence.known(one) is not None for one in by_road)
    known = sum(evidence.known(one) is not None for one in same)
    chunks = sum(len(drive.joined.world_from_chunk) for drive in drives)
    frames = sum(len(drive.frame_index) for drive in drives)
    counts = [drive.opened.manifest.counts.points for drive in drives]
    points = sum(counts)
    joint = (0, 0, 0.0)
    if config.network:
        kind = network_kind(config.model.network)
        predicted = sum(evidence.known(one, kind) is not None for one in same)
        joint = (len(same), predicted, (len(same) - predicted) * _chunk_seconds(config.model.network, drives))
    per_point = _POINT_S * (2 if config.copc else 1) + (_CHANGE_S if config.change else 0.0)
    return Plan(
        len({(one.first, one.second) for one in same}),
        sum(one.opposite and one.by == "positions" for one in candidates),
        len(same),
        known,
        chunks,
        points,
        _COMPARE_S * (len(same) - known) + _CHUNK_S * chunks + per_point * points,
        _BASE + _DRIVE_POINT * min(2e6, max(counts, default=0)) + _FRAME * frames + _CHUNK * chunks,
        _KEPT * points * (_POINT_BYTES + (_COPC_BYTES if config.copc else 0)),
        *joint,
        facing + len(told) - facing_known,
        facing_known,
        side_views,
        ground + len(by_road) - ground_known,
        ground_known,
        charts,
    )


def _chunk_seconds(spec: NetworkSpec, drives: Sequence[FusibleDrive]) -> float:
    """Core seconds of a joint chunk of the first drive's pictures, from the network's operations."""
    from models.benchmark.limits import flops_of_chunk

    model = spec.config()
    height, width = network_size(drives[0], model.image_size, model.patch_size)
    frames = max(model.chunk_size // 2, 1) * 2
    return sum(flops_of_chunk(model, frames, height, width, frames).values()) / _CHUNK_FLOPS
