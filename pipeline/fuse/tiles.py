"""Writes the point cloud of a city in square tiles, with one voxel filter over the points of all drives.

Points are first spooled to local files by tile, one drive after the other. Then each tile is thinned, sorted and
written. So memory holds one tile and one batch, whatever the size of the city.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline import storage
from pipeline.errors import DriveError
from pipeline.fuse.city_files import CityFile, FrameOf, Tile, city_uri
from pipeline.fuse.city_schema import POINTS
from pipeline.fuse.placement import PointMover
from pipeline.fuse.tasks import Tasks
from pipeline.fuse.tile_copc import write_copc_tile
from pipeline.publish.exports.earth import Earth
from pipeline.publish.files import publish_file
from pipeline.publish.morton import morton_order
from pipeline.publish.voxels import best_of_each, own_voxel_keys

_SPOOLED_ROWS = 2_000_000  # points in memory, about 60 MB, above which they are written to the local disk
_GROUP_ROWS = 65_536  # of a row group
_MOST_TILES, _FARTHEST = 100_000, 1_000_000  # tiles of a drive: a long one has some thousands; tiles from the origin
_FLOATS = ["x", "y", "z", "confidence"]

Place = tuple[str, int, int]
"""Coordinate frame, and number of a tile along its two horizontal axes."""


def level_axes(on_earth: bool) -> tuple[int, int]:
    """The horizontal axes of a frame: east and north on Earth, else x and z of a first camera."""
    return (0, 1) if on_earth else (0, 2)


@dataclass(frozen=True)
class Contribution:
    """A drive whose points go to tiles. index: its number in the version; only: tiles that are wanted, None for all."""

    index: int
    drive_id: str
    mover: PointMover
    only: frozenset[Place] | None


class Spooled(Protocol):
    """Points that were spooled, by tile and drive."""

    def drives_of(self, place: Place) -> tuple[int, ...]:
        """Numbers of the drives that have points in a tile."""
        ...

    def read(self, places: Iterable[Place], index: int) -> pa.Table | None:
        """Points (POINTS) of one drive in some tiles, at most one in each cube of each spooled file; None if there are
        none."""
        ...


@dataclass(frozen=True, eq=False)
class TilePoints:
    """Spooled points of some tiles in memory: for each tile the numbers of drives, with their points. A task gets
    them."""

    pieces: Mapping[Place, Sequence[tuple[int, pa.Table]]]

    def drives_of(self, place: Place) -> tuple[int, ...]:
        """As Spooled."""
        return tuple(sorted({index for index, _ in self.pieces.get(place, ())}))

    def read(self, places: Iterable[Place], index: int) -> pa.Table | None:
        """As Spooled."""
        parts = [table for place in places for number, table in self.pieces.get(place, ()) if number == index]
        return pa.concat_tables(parts).cast(POINTS) if parts else None


class TileWriter:
    """Spools contributions into the local folder `scratch`, then writes the tiles of a version.

    frames: of the city, by name; earth: place of the frame that is on Earth; copc: write every tile as COPC too.
    """

    def __init__(self, frames: Mapping[str, FrameOf], scratch: Path, earth: Earth | None, copc: bool) -> None:
        self._frames, self._scratch, self._earth, self._copc = frames, scratch, earth, copc
        self._held: dict[Place, list[pa.Table]] = defaultdict(list)
        self._rows = 0
        self._pieces: dict[Place, list[tuple[int, Path]]] = defaultdict(list)
        self._drives: dict[Place, dict[int, str]] = defaultdict(dict)
        self._count = 0

    @property
    def places(self) -> frozenset[Place]:
        """Tiles that have points."""
        return frozenset(self._drives)

    def add(self, one: Contribution) -> None:
        """Spool the wanted points of a drive. Raises DriveError if its files are damaged, or its points are in places
        that cannot be; StorageError."""
        frame = self._frames[one.mover.placement.frame]
        axes = level_axes(frame.on_earth)
        mine: set[Place] = set()
        for table in one.mover.batches():
            square = [np.floor(table["xyz"[axis]].to_numpy().astype(np.float64) / frame.tile) for axis in axes]
            if table.num_rows and not np.abs(square).max() <= _FARTHEST:
                raise DriveError(
                    f"drive {one.drive_id}: it has points more than {_FARTHEST:,} tiles from the origin of "
                    f"{frame.name}; its poses or depths are wrong: reconstruct it again (--overwrite)"
                )
            number = np.stack(square, -1).astype(np.int64)
            table = table.append_column("drive_index", pa.array(np.full(table.num_rows, one.index, np.int32)))
            for (x, y), rows in _groups(number):
                place = (frame.name, x, y)
                if one.only is not None and place not in one.only:
                    continue
                self._drives[place][one.index] = one.drive_id
                self._held[place].append(table.take(pa.array(rows)).select(POINTS.names))
                self._rows += len(rows)
            mine |= self._held.keys()
            if len(mine) > _MOST_TILES:
                raise DriveError(
                    f"drive {one.drive_id}: its points are in more than {_MOST_TILES:,} tiles; if --tile is no smaller "
                    "than usual, its poses or depths are wrong: reconstruct it again (--overwrite)"
                )
            if self._rows > _SPOOLED_ROWS:
                self._spool(one.index)
        self._spool(one.index)

    def _spool(self, index: int) -> None:
        for place, parts in self._held.items():
            path = self._scratch / f"piece-{self._count:08d}.arrow"
            self._count += 1
            thin = _thinned(pa.concat_tables(parts), self._frames[place[0]].voxel)
            with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, thin.schema) as writer:
                writer.write_table(thin)
            self._pieces[place].append((index, path))
        self._held.clear()
        self._rows = 0

    def drives_of(self, place: Place) -> tuple[int, ...]:
        """Numbers of the drives that have points in a tile."""
        return tuple(sorted({index for index, _ in self._pieces.get(place, ())}))

    def read(self, places: Iterable[Place], index: int) -> pa.Table | None:
        """Points (POINTS) of one drive in some tiles, at most one in each cube of each spooled file; None if there are
        none."""
        parts = [_spooled(path) for place in places for number, path in self._pieces.get(place, ()) if number == index]
        return pa.concat_tables(parts).cast(POINTS) if parts else None

    def part(self, places: Iterable[Place], drives: Iterable[int]) -> TilePoints:
        """The points of some drives in some tiles."""
        asked = set(drives)
        pieces = {
            place: [(index, _spooled(path)) for index, path in self._pieces[place] if index in asked]
            for place in places
            if place in self._pieces
        }
        return TilePoints(pieces)

    def write(
        self,
        output: str,
        version: str,
        wanted: Iterable[Place],
        done: Callable[[], None],
        tasks: Tasks | None = None,
    ) -> list[Tile]:
        """Write the tiles `wanted`; returns those that have points. done: is called after each tile; tasks: that write
        them; None: this process. Raises StorageError."""
        places = sorted(wanted)
        full = [place for place in places if self._pieces.get(place)]
        for _ in range(len(places) - len(full)):
            done()
        parts = (
            (
                output,
                version,
                place,
                self._frames[place[0]],
                [_spooled(path) for _, path in self._pieces[place]],
                {str(index): name for index, name in sorted(self._drives[place].items())},
                self._earth,
                self._copc,
            )
            for place in full
        )
        tiles: list[tuple[int, Tile]] = []
        written = enumerate(write_tile(*part) for part in parts) if tasks is None else tasks.each(write_tile, parts)
        for one in written:
            tiles.append(one)
            done()
        return [tile for _, tile in sorted(tiles, key=lambda one: one[0])]


def write_tile(
    output: str,
    version: str,
    place: Place,
    frame: FrameOf,
    pieces: Sequence[pa.Table],
    names: Mapping[str, str],
    earth: Earth | None,
    copc: bool,
) -> Tile:
    """Write a tile of a version. pieces: points of its drives; names: of the drives, by their number; earth, copc: as
    TileWriter. Raises StorageError."""
    table = _thinned(pa.concat_tables(pieces), frame.voxel)
    xyz = np.stack([table[axis].to_numpy() for axis in "xyz"])
    table = table.take(pa.array(morton_order(xyz))).cast(POINTS)
    low, high = xyz.min(axis=1).tolist(), xyz.max(axis=1).tolist()
    box = ((low[0], low[1], low[2]), (high[0], high[1], high[2]))
    stem = f"{version}/tiles/{place[0]}/{place[1]}_{place[2]}"
    with TemporaryDirectory(prefix="fuse-") as folder:
        local = Path(folder) / "tile"

        def published(name: str) -> CityFile:
            there = storage.join(city_uri(output), *name.split("/"))
            written = publish_file(local, there, name, rows=table.num_rows)
            return CityFile(name, written.size, written.sha256, written.rows, box)

        pq.write_table(
            table,
            local,
            row_group_size=_GROUP_ROWS,
            compression="zstd",
            compression_level=1,
            use_dictionary=[one for one in POINTS.names if one not in _FLOATS],
            column_encoding=dict.fromkeys(_FLOATS, "BYTE_STREAM_SPLIT"),
            write_page_checksum=True,
        )
        file, written = published(f"{stem}.parquet"), None
        if copc:
            write_copc_tile(table, names, frame.voxel, earth if frame.on_earth else None, local)
            written = published(f"{stem}.copc.laz")
    return Tile(place[0], place[1], place[2], file, tuple(sorted(names.values())), names, written)


def _spooled(path: Path) -> pa.Table:
    with pa.OSFile(str(path), "rb") as source:
        return pa.ipc.open_file(source).read_all()


def _groups(number: NDArray[np.int64]) -> Iterable[tuple[tuple[int, int], NDArray[np.int64]]]:
    """Numbers (n, 2) of tiles -> each tile and its rows."""
    if not len(number):
        return
    order = np.lexsort((number[:, 1], number[:, 0]))
    ordered = number[order]
    starts = np.nonzero(np.concatenate([[True], (np.diff(ordered, axis=0) != 0).any(1)]))[0]
    for rows in np.split(order, starts[1:]):
        yield (int(number[rows[0], 0]), int(number[rows[0], 1])), rows


def _thinned(table: pa.Table, voxel: float) -> pa.Table:
    """The most confident point of each cube, of whichever drive."""
    xyz = np.stack([table[axis].to_numpy() for axis in "xyz"])
    _, places = best_of_each(own_voxel_keys(xyz, voxel), table["confidence"].to_numpy())
    return table.take(pa.array(np.sort(places))).combine_chunks()


def around(places: Iterable[Place], rings: int = 1) -> frozenset[Place]:
    """These tiles and those around each of them: eight with one ring, 24 with two."""
    steps = range(-rings, rings + 1)
    return frozenset((f, x + i, y + j) for f, x, y in places for i in steps for j in steps)


def touched(before: Sequence[Tile], changed: frozenset[str]) -> frozenset[Place]:
    """Tiles of the last version for which one of the drives `changed` (changed or removed) was used."""
    return frozenset(tile.place for tile in before if changed & set(tile.drives))
