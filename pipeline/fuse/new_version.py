"""Writes a version of a city: tiles whose drives changed, changed objects, tables, and the manifest last."""

from __future__ import annotations

import io
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline import storage
from pipeline.common.code_version import code_version
from pipeline.common.hashing import sha256_of
from pipeline.common.progress import Reporter
from pipeline.fuse import city_tables
from pipeline.fuse.change_tiles import Changed, ChangeFinder, ChangePictures, changed_in_tiles, reach
from pipeline.fuse.city import PublishedCity
from pipeline.fuse.city_files import (
    CityFile,
    CityManifest,
    FrameOf,
    Tile,
    city_uri,
    next_version,
    publish_version,
    with_seconds,
)
from pipeline.fuse.city_schema import CITY_SCHEMA_VERSION
from pipeline.fuse.config import FuseConfig
from pipeline.fuse.evidence import Verified
from pipeline.fuse.lost_drives import lost_if_unreadable
from pipeline.fuse.placement import Placement, PointMover
from pipeline.fuse.published_drives import FusibleDrive
from pipeline.fuse.solve import City
from pipeline.fuse.tasks import Tasks
from pipeline.fuse.tiles import Contribution, Place, TileWriter, touched
from pipeline.leases import Guard
from pipeline.publish.exports.earth import Earth
from pipeline.publish.manifest import now
from pipeline.storage.retry import patiently

EARTH = "earth"
_SQUARE = 4  # tiles along the side of a square that a task compares
_COMPARED = "compared"  # name of a count of the manifest: 1 if tiles were compared for change, else 0
_MOST_PICTURES = 200  # of a version; the largest objects have them


@dataclass(frozen=True, eq=False)
class Standing:
    """Poses of the drives in a new version. frames: coordinate frames of the city, by name; placements: of each drive;
    fresh: names of drives whose points must be written again, because they are new, were reconstructed again, or
    moved."""

    frames: Mapping[str, FrameOf]
    placements: Sequence[Placement]
    fresh: frozenset[str]


def placed(
    drives: Sequence[FusibleDrive], city: City, config: FuseConfig, before: CityManifest | None, output: str
) -> Standing:
    """Coordinate frames of the city and the placement of each drive. A drive that moved by less than config.tolerance
    keeps its placement of the version `before`. Raises DamagedCityError, StorageError if that one cannot be read."""
    frames: dict[str, FrameOf] = {}
    placements, fresh = [], set()
    known = {} if before is None else {frame.name: frame for frame in before.frames}
    standing = {} if before is None else PublishedCity(output, before).placements()
    for drive, fused in zip(drives, city.drives, strict=True):
        leader = drives[fused.component]
        name = EARTH if fused.on_earth else f"of-{leader.drive_id}"
        if name not in frames:
            step = 1.0
            if not fused.on_earth and leader.opened.manifest.metric is None:
                step = usual_step(leader.joined.world_from_camera[:, :3, 3])
            made = FrameOf(name, fused.on_earth, config.tile * step, config.voxel * step)
            old = known.get(name)
            same = old is not None and np.isclose(old.tile, made.tile) and np.isclose(old.voxel, made.voxel)
            frames[name] = old if same and old is not None else made
        now_at = Placement(name, drive.frame_index, *drive.rig.placed(fused.city_from_camera, fused.depth_scale))
        was_at = standing.get(drive.drive_id)
        stays = (
            before is not None
            and was_at is not None
            and before.keys.get(drive.drive_id) == drive.key
            and frames[name] == known.get(name)
            and now_at.moved_from(was_at, drive.rig.count) < config.tolerance * frames[name].voxel
        )
        placements.append(was_at if stays and was_at is not None else now_at)
        if not stays:
            fresh.add(drive.drive_id)
    return Standing(frames, placements, frozenset(fresh))


def usual_step(place: NDArray[np.float64]) -> float:
    """The length of a drive's usual step between frames, which stands for a metre where none is known: half of the way
    along the positions (N, 3) is made in shorter steps. So the small steps of a car that stands do not count. 1 for a
    drive that does not move."""
    steps = np.sort(np.linalg.norm(np.diff(place, axis=0), axis=1))
    way = np.cumsum(steps)
    if not len(steps) or not way[-1] > 0:
        return 1.0
    return float(steps[np.searchsorted(way, way[-1] / 2)])


def write_version(
    output: str,
    config: FuseConfig,
    drives: Sequence[FusibleDrive],
    verified: Sequence[Verified],
    city: City,
    standing: Standing,
    before: CityManifest | None,
    newest: CityManifest | None,
    notes: Sequence[str],
    guard: Guard,
    reporter: Reporter,
    tasks: Tasks | None = None,
) -> tuple[CityManifest, int]:
    """Write what differs from the version `before`, and the manifest. Returns it and the number of tiles written.

    before: the last version, or None if there is none or its schema is older; newest: the last version, which stays
    readable; guard: raises if the lease is lost; tasks: that write and compare tiles; None: this process. Raises
    LostDriveError (a drive's points are damaged or gone), DamagedCityError (tables of `before`), LeaseLostError,
    StorageError.
    """
    version = next_version(output)
    names = {drive.drive_id for drive in drives}
    gone = frozenset() if before is None else frozenset(before.keys) - names
    old_frames = {} if before is None else {frame.name: frame for frame in before.frames}
    kept = () if before is None else before.tiles
    kept = tuple(tile for tile in kept if standing.frames.get(tile.frame) == old_frames.get(tile.frame))
    with tempfile.TemporaryDirectory(prefix="fuse-") as folder:
        writer = TileWriter(standing.frames, Path(folder), _earth(drives, city), bool(config.copc))

        def add(number: int, only: frozenset[Place] | None) -> None:
            guard()
            drive = drives[number]
            mover = PointMover(drive.opened, standing.placements[number])
            with lost_if_unreadable(drive.opened):
                writer.add(Contribution(number, drive.drive_id, mover, only))
            reporter.advance("points", 1, len(drives), "drives")

        for number, drive in enumerate(drives):
            if drive.drive_id in standing.fresh:
                add(number, None)
        wanted = writer.places | touched(kept, standing.fresh | gone)
        wanted |= frozenset(tile.place for tile in kept if (tile.copc is None) == bool(config.copc))
        if config.change and before is not None and not before.counts.get(_COMPARED, 1):
            wanted |= frozenset(tile.place for tile in kept)  # the version before was written with --no-change
        others = {name for tile in kept if tile.place in wanted for name in tile.drives} - standing.fresh
        needed = reach(wanted, config.tile) if config.change else wanted
        for number, drive in enumerate(drives):
            if drive.drive_id in others:
                add(number, needed)
        tiles = writer.write(output, version, wanted, _each("tiles", len(wanted), "tiles", guard, reporter), tasks)
        tiles += [tile for tile in kept if tile.place not in wanted]
        changed, pictures = _change(
            output, version, config, drives, standing, before, kept, wanted, writer, guard, reporter, tasks
        )
        tables = {
            **city_tables.tables_of(drives, verified, city, standing.placements),
            "change": changed.points,
            "changes": changed.objects,
        }
        files = [city_tables.write_table(output, version, name, table, Path(folder)) for name, table in tables.items()]
    manifest = _manifest(
        version, drives, verified, city, standing, tiles, [*files, *pictures], notes, changed, config.change
    )
    manifest = with_seconds(manifest, reporter.seconds)
    patiently(lambda: publish_version(output, manifest, newest, guard))
    return manifest, manifest.counts["tiles_written"]


def _change(
    output: str,
    version: str,
    config: FuseConfig,
    drives: Sequence[FusibleDrive],
    standing: Standing,
    before: CityManifest | None,
    kept: Sequence[Tile],
    wanted: frozenset[Place],
    writer: TileWriter,
    guard: Guard,
    reporter: Reporter,
    tasks: Tasks | None,
) -> tuple[Changed, list[CityFile]]:
    """Changed objects of all tiles, and files of their pictures. Tiles in `wanted` are compared again; objects of the
    others are those of the version `before`."""
    if not config.change:
        return Changed.joined([]), []
    parts: list[Changed] = []
    files: list[CityFile] = []
    if before is not None and kept:
        opened = PublishedCity(output, before)
        old = Changed(opened.change_points, opened.changes)
        parts.append(old.without({tile.place for tile in before.tiles} - {t.place for t in kept} | set(wanted)))
        still = set(parts[0].objects["picture"].to_pylist())
        files = [file for file in before.files if file.path in still]
    shared = [place for place in sorted(wanted) if len(writer.drives_of(place)) > 1]
    done = _each("change", len(shared), "tiles", guard, reporter)
    fresh: list[tuple[Place, Changed]] = []
    for one in _compared(shared, drives, standing, writer, config.tile, tasks):
        fresh.append(one)
        done()
    new = Changed.joined([changed for _, changed in sorted(fresh, key=lambda one: one[0])])
    drawn, more = _drawn(output, version, new, ChangePictures(drives, standing.placements), guard)
    return Changed.joined([*parts, drawn]), [*files, *more]


def _compared(
    places: Sequence[Place],
    drives: Sequence[FusibleDrive],
    standing: Standing,
    writer: TileWriter,
    tile_m: float,
    tasks: Tasks | None,
) -> Iterator[tuple[Place, Changed]]:
    """What changed in each of these tiles, as they are done: in one square of tiles after the other, so that few range
    images are made twice. A task compares a square."""
    squares: dict[Place, list[Place]] = defaultdict(list)
    for frame, x, y in places:
        squares[frame, x // _SQUARE, y // _SQUARE].append((frame, x, y))
    asked = list(squares.values())
    if tasks is None:
        finder = ChangeFinder(
            dict(enumerate(drives)), dict(enumerate(standing.placements)), standing.frames, writer, tile_m
        )
        yield from ((place, finder.in_tile(place)) for some in asked for place in some)
        return
    of = [sorted({n for place in some for n in writer.drives_of(place)}) for some in asked]
    kept = {n: tasks.keep((n, drives[n].unread, standing.placements[n])) for n in sorted(set().union(*of))}
    frames = tasks.keep(standing.frames)
    parts = (
        (frames, tile_m, some, writer.part(reach(some, tile_m), mine), *(kept[n] for n in mine))
        for some, mine in zip(asked, of, strict=True)
    )
    for number, changed in tasks.each(changed_in_tiles, parts):
        yield from zip(asked[number], changed, strict=True)


def _drawn(
    output: str, version: str, new: Changed, pictures: ChangePictures, guard: Guard
) -> tuple[Changed, list[CityFile]]:
    """The objects with the paths of their pictures, which are written for the largest ones; and these files."""
    rows = new.objects.to_pylist()
    owner = np.array(new.points["object"].to_pylist(), dtype=object)
    xyz = np.stack([new.points[axis].to_numpy() for axis in "xyz"], -1)
    files = []
    for row in sorted(rows, key=lambda one: (-one["points"], one["object"]))[:_MOST_PICTURES]:
        guard()
        data = pictures.jpeg(row, xyz[owner == row["object"]])
        if data is not None:
            row["picture"] = f"{version}/change/{row['object']}.jpg"
            place = storage.join(city_uri(output), *row["picture"].split("/"))
            patiently(partial(storage.write_bytes_atomically, place, data))
            files.append(CityFile(row["picture"], len(data), sha256_of(io.BytesIO(data)), 0))
    return replace(new, objects=pa.Table.from_pylist(rows, schema=new.objects.schema)), files


def _each(name: str, total: int, unit: str, guard: Guard, reporter: Reporter) -> Callable[[], None]:
    def done() -> None:
        guard()
        reporter.advance(name, 1, total, unit)

    return done


def _earth(drives: Sequence[FusibleDrive], city: City) -> Earth | None:
    """The place of the frame `earth` on Earth; the vertical datum is that of the first drive which has one."""
    if city.origin is None:
        return None
    known = [drive.opened.manifest.georeference for drive in drives]
    datum = next((str(one["vertical_datum"]) for one in known if one and one.get("vertical_datum")), "WGS 84 ellipsoid")
    return Earth(city.origin, datum)


def _manifest(
    version: str,
    drives: Sequence[FusibleDrive],
    verified: Sequence[Verified],
    city: City,
    standing: Standing,
    tiles: Sequence[Tile],
    files: Sequence[CityFile],
    notes: Sequence[str],
    changed: Changed,
    compared: bool,
) -> CityManifest:
    return CityManifest(
        CITY_SCHEMA_VERSION,
        version,
        now(),
        code_version(),
        city.origin,
        tuple(sorted(standing.frames.values(), key=lambda frame: frame.name)),
        {drive.drive_id: drive.key for drive in drives},
        tuple(files),
        tuple(sorted(tiles, key=lambda tile: tile.place)),
        (*notes, *(_named(alarm, drives) for alarm in city.alarms)),
        {
            "drives": len(drives),
            "candidates": len(verified),
            "links": sum(one.link is not None for one in verified),
            "accepted": int(city.accepted.sum()),
            "tiles": len(tiles),
            "tiles_written": sum(tile.file.path.startswith(f"{version}/") for tile in tiles),
            "points": sum(tile.file.rows for tile in tiles),
            "changes": changed.objects.num_rows,
            _COMPARED: int(compared),
        },
        {},
    )


def _named(alarm: str, drives: Sequence[FusibleDrive]) -> str:
    """An alarm of the solution, with the names of drives instead of their numbers."""
    words = alarm.split()
    return " ".join(
        drives[int(word.rstrip(":"))].drive_id + word[len(word.rstrip(":")) :]
        if n and words[n - 1] == "drive" and word.rstrip(":").isdigit()
        else word
        for n, word in enumerate(words)
    )
