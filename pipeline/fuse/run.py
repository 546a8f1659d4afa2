"""READ FIRST for jobs.fuse. Published drives -> a version of the city: candidates, verification, solution, tiles.

One process does it, under the lease of the city; everything is written below a new version's folder, its manifest last.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from pipeline import storage
from pipeline.common.code_version import code_version
from pipeline.common.geodesy import ecef_from_enu_rotation, ecef_from_geodetic, geodetic_from_enu
from pipeline.common.progress import Reporter
from pipeline.common.run_id import new_run_id
from pipeline.errors import DriveError, PipelineError, StorageError
from pipeline.fuse import city_tables
from pipeline.fuse.candidates import Candidate, Track, by_descriptors, by_positions, within_budget
from pipeline.fuse.city import PublishedCity
from pipeline.fuse.city_files import (
    CityManifest,
    FrameOf,
    earlier_version,
    newest_version,
    next_version,
    publish_version,
    remove_leftovers,
    with_seconds,
)
from pipeline.fuse.city_schema import CITY_SCHEMA_VERSION
from pipeline.fuse.config import FuseConfig
from pipeline.fuse.link import Link
from pipeline.fuse.placement import Placement, PointMover
from pipeline.fuse.positions import Origin
from pipeline.fuse.published_drives import FusibleDrive, read_drive
from pipeline.fuse.solve import City, solve
from pipeline.fuse.tiles import Contribution, Place, TileWriter, touched
from pipeline.fuse.verification import Verified, Verifier
from pipeline.leases import Guard, Leases
from pipeline.publish import open_drive
from pipeline.publish.manifest import now

CITY_LEASE = "city"
EARTH = "earth"


@dataclass(frozen=True)
class Fused:
    """What a run gave: the version's manifest (None where nothing was to be done or only planned), and what it did."""

    manifest: CityManifest | None
    drives: int
    candidates: int
    links: int
    accepted: int
    tiles_written: int
    notes: tuple[str, ...]


def run_fuse(config: FuseConfig, reporter: Reporter) -> Fused:
    """Fuse the drives of an output. A drive that cannot be read is left out with a note; it never ends a run.

    Raises DriveError where no drive is there or a city of a newer schema is; LeaseLostError; StorageError.
    """
    output = storage.absolute(config.output)
    if not storage.exists(output):
        raise DriveError(f"no output at {storage.redacted(output)}; check --output")
    if config.plan:
        with reporter.timed("read"):
            drives, notes = _read_drives(output, config, reporter)
        candidates, more = _candidates(drives, config)
        return Fused(None, len(drives), len(candidates), 0, 0, 0, (*notes, *more))
    with storage.held_root(output, make=False), Leases(output, new_run_id(), config.lease_s) as leases:
        lease = leases.take_when_free(CITY_LEASE)
        return _fuse(output, config, reporter, partial(leases.keep, lease))


def _fuse(output: str, config: FuseConfig, reporter: Reporter, guard: Guard) -> Fused:
    with reporter.timed("read"):
        drives, notes = _read_drives(output, config, reporter)
        before = newest_version(output)
        guard()
        remove_leftovers(output, before, *earlier_version(output, before))  # of runs that died
    with reporter.timed("candidates"):
        candidates, more = _candidates(drives, config)
        notes = (*notes, *more)
    for note in notes:
        reporter.say(note)
    with reporter.timed("verify"):
        verifier = Verifier(drives)
        verified = verifier.verify_all(
            candidates, lambda: reporter.advance("verify", 1, len(candidates), "pairs of frames")
        )
    with reporter.timed("solve"):
        links = [one.link for one in verified if one.link is not None]
        city = _solved(drives, links, None if before is None else before.origin)
        frames, placements = _placed(drives, city, config, before, output)
    with reporter.timed("tiles"):
        manifest, written = _published(
            output, config, drives, verified, city, frames, placements, before, notes, guard, reporter
        )
    return Fused(manifest, len(drives), len(candidates), len(links), int(city.accepted.sum()), written, manifest.notes)


def _read_drives(output: str, config: FuseConfig, reporter: Reporter) -> tuple[list[FusibleDrive], tuple[str, ...]]:
    names = list(config.drive) or [one for one in storage.list_folders(output) if not one.startswith((".", "_"))]
    drives, notes = [], []
    for name in sorted(names):
        reporter.advance("read", 1, len(names), "drives")
        try:
            if not storage.exists(storage.join(output, storage.check_drive_id(name), "manifest.json")):
                if config.drive:
                    raise DriveError(f"no finished drive {name} in {storage.redacted(output)}")
                continue
            images = None if config.images_from is None else storage.join(storage.absolute(config.images_from), name)
            opened = open_drive(output, name, images_from=images)
            if config.area is None or _comes_into(opened.origin, opened.cameras.world_from_camera, config.area):
                drives.append(read_drive(opened))
        except StorageError:
            raise
        except PipelineError as error:
            if config.drive:
                raise
            notes.append(f"drive {name} is left out: {' '.join(str(error).split())}")
    if not drives:
        where = "" if config.area is None else " in the area"
        raise DriveError(f"no published drive{where} in {storage.redacted(output)}; reconstruct some first")
    return drives, tuple(notes)


def _comes_into(origin: Origin | None, pose: np.ndarray, area: tuple[float, float, float, float]) -> bool:
    if origin is None:
        return False
    latitude, longitude, _ = geodetic_from_enu(pose[:, :3, 3], origin)
    west, south, east, north = area
    return bool(((longitude >= west) & (longitude <= east) & (latitude >= south) & (latitude <= north)).any())


def _candidates(drives: Sequence[FusibleDrive], config: FuseConfig) -> tuple[list[Candidate], tuple[str, ...]]:
    """By positions between drives on Earth; by descriptors between all others. Notes: drives that neither speaks of."""
    notes: list[str] = []
    located = [n for n, drive in enumerate(drives) if drive.opened.origin is not None]
    made = by_positions(_tracks(drives, located), config.cell, config.per_pair, config.budget)
    rows, of, frame, blind = city_tables.place_rows(drives)
    alike = by_descriptors(rows, of, frame, config.similarity, config.per_pair, config.budget)
    on_earth = set(located)
    made += [one for one in alike if not {one.first, one.second} <= on_earth]
    for n in sorted(blind - on_earth):
        notes.append(
            f"drive {drives[n].drive_id} has neither positions nor place descriptors: nothing is compared with it; "
            "reconstruct it again with loops on (--overwrite)"
        )
    return within_budget(made, config.budget), tuple(notes)


def _tracks(drives: Sequence[FusibleDrive], located: Sequence[int]) -> list[Track]:
    """Drives about the origin of the first of them."""
    tracks: list[Track] = []
    if not located:
        return tracks
    origin = drives[located[0]].opened.origin
    assert origin is not None
    for n in located:
        own, pose = drives[n].opened.origin, drives[n].joined.world_from_camera
        assert own is not None
        turn = ecef_from_enu_rotation(origin[0], origin[1]).T @ ecef_from_enu_rotation(own[0], own[1])
        shift = ecef_from_enu_rotation(origin[0], origin[1]).T @ (
            ecef_from_geodetic(*own) - ecef_from_geodetic(*origin)
        )
        frame = np.arange(len(pose), dtype=np.int64)
        tracks.append(Track(n, frame, pose[:, :3, 3] @ turn.T + shift, pose[:, :3, 2] @ turn.T))
    return tracks


def _solved(drives: Sequence[FusibleDrive], links: Sequence[Link], origin: Origin | None) -> City:
    fixes = {n: drive.fixes for n, drive in enumerate(drives) if drive.fixes is not None}
    times = {n: drive.time_s for n, drive in enumerate(drives) if drive.fixes is not None and drive.time_s is not None}
    return solve([drive.joined for drive in drives], links, fixes=fixes, frame_time_s=times, origin=origin)


def _placed(
    drives: Sequence[FusibleDrive], city: City, config: FuseConfig, before: CityManifest | None, output: str
) -> tuple[dict[str, FrameOf], list[Placement]]:
    """Frames of the city and where each drive stands; as before where that differs by less than can be seen."""
    frames: dict[str, FrameOf] = {}
    placements = []
    known = {} if before is None else {frame.name: frame for frame in before.frames}
    standing = {} if before is None else PublishedCity(output, before).placements()
    for drive, fused in zip(drives, city.drives, strict=True):
        leader = drives[fused.component]
        name = EARTH if fused.on_earth else f"of-{leader.drive_id}"
        if name not in frames:
            step = 1.0
            if not fused.on_earth and leader.opened.manifest.metric is None:
                place = leader.joined.world_from_camera[:, :3, 3]
                steps = np.linalg.norm(np.diff(place, axis=0), axis=1)
                step = float(np.median(steps[steps > 0])) if (steps > 0).any() else 1.0
            made = FrameOf(name, fused.on_earth, config.tile * step, config.voxel * step)
            old = known.get(name)
            same = old is not None and np.isclose(old.tile, made.tile) and np.isclose(old.voxel, made.voxel)
            frames[name] = old if same and old is not None else made
        now_at = Placement(name, drive.joined.frame_index, fused.city_from_camera, fused.depth_scale)
        was_at = standing.get(drive.drive_id)
        if (
            before is not None
            and was_at is not None
            and before.keys.get(drive.drive_id) == drive.key
            and frames[name] == known.get(name)
            and now_at.moved_from(was_at) < config.tolerance * frames[name].voxel
        ):
            now_at = was_at
        placements.append(now_at)
    return frames, placements


def _published(
    output: str,
    config: FuseConfig,
    drives: Sequence[FusibleDrive],
    verified: Sequence[Verified],
    city: City,
    frames: Mapping[str, FrameOf],
    placements: Sequence[Placement],
    before: CityManifest | None,
    notes: tuple[str, ...],
    guard: Guard,
    reporter: Reporter,
) -> tuple[CityManifest, int]:
    """Write the tiles that changed, the tables and the manifest; what is there already stays."""
    version = next_version(output)
    standing = {} if before is None else PublishedCity(output, before).placements()
    fresh = {
        drive.drive_id
        for drive, placement in zip(drives, placements, strict=True)
        if before is None
        or before.keys.get(drive.drive_id) != drive.key
        or (placement is not standing.get(drive.drive_id) and not _same(placement, standing.get(drive.drive_id)))
    }
    gone = set() if before is None else set(before.keys) - {drive.drive_id for drive in drives}
    stale = [] if before is None else [tile for tile in before.tiles if _unlike(tile.frame, frames, before)]
    with tempfile.TemporaryDirectory(prefix="fuse-") as folder:
        writer = TileWriter(frames, Path(folder))

        def add(number: int, only: frozenset[Place] | None) -> None:
            guard()
            drive = drives[number]
            writer.add(Contribution(number, drive.drive_id, PointMover(drive.opened, placements[number]), only))
            reporter.advance("points", 1, len(drives), "drives")

        for number, drive in enumerate(drives):
            if drive.drive_id in fresh:
                add(number, None)
        kept = () if before is None else tuple(tile for tile in before.tiles if tile not in stale)
        wanted = writer.places | touched(kept, frozenset(fresh | gone))
        others = {name for tile in kept if (tile.frame, tile.x, tile.y) in wanted for name in tile.drives}
        for number, drive in enumerate(drives):
            if drive.drive_id in others and drive.drive_id not in fresh:
                add(number, wanted)
        guard()
        tiles = writer.write(output, version, wanted, lambda: reporter.advance("tiles", 1, len(wanted), "tiles"))
        tiles += [tile for tile in kept if (tile.frame, tile.x, tile.y) not in wanted]
        tables = city_tables.tables_of(drives, verified, city, placements)
        files = [city_tables.write_table(output, version, name, table, Path(folder)) for name, table in tables.items()]
    written = sum(tile.file.path.startswith(f"{version}/") for tile in tiles)
    manifest = CityManifest(
        CITY_SCHEMA_VERSION,
        version,
        now(),
        code_version(),
        city.origin,
        tuple(sorted(frames.values(), key=lambda frame: frame.name)),
        {drive.drive_id: drive.key for drive in drives},
        tuple(files),
        tuple(sorted(tiles, key=lambda tile: (tile.frame, tile.x, tile.y))),
        (*notes, *(_named(alarm, drives) for alarm in city.alarms)),
        {
            "drives": len(drives),
            "candidates": len(verified),
            "links": sum(one.link is not None for one in verified),
            "accepted": int(city.accepted.sum()),
            "tiles": len(tiles),
            "tiles_written": written,
            "points": sum(tile.file.rows for tile in tiles),
        },
        {},
    )
    manifest = with_seconds(manifest, reporter.seconds)
    publish_version(output, manifest, before, guard)
    return manifest, written


def _same(a: Placement, b: Placement | None) -> bool:
    return b is not None and a.frame == b.frame and a.moved_from(b) == 0.0


def _unlike(name: str, frames: Mapping[str, FrameOf], before: CityManifest) -> bool:
    """Whether tiles of a frame are of no use any more: it is gone, or is cut otherwise now."""
    old = next((frame for frame in before.frames if frame.name == name), None)
    return frames.get(name) != old


def _named(alarm: str, drives: Sequence[FusibleDrive]) -> str:
    """An alarm of the solution with the drive's name for its number."""
    words = alarm.split()
    return " ".join(
        drives[int(word.rstrip(":"))].drive_id + word[len(word.rstrip(":")) :]
        if n and words[n - 1] == "drive" and word.rstrip(":").isdigit()
        else word
        for n, word in enumerate(words)
    )
