"""Reads a drive's chunks in order: their cameras, the overlaps of neighbours, and the road in each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from pipeline.backend.chunk import Chunk
from pipeline.backend.config import BackendConfig
from pipeline.backend.outline import Outline
from pipeline.backend.overlap import Overlap, bridge_gap, measure_overlap
from pipeline.backend.road import Road, measure_road
from pipeline.backend.sim3 import Array
from pipeline.backend.stereo_poses import with_motions
from pipeline.backend.stereo_scale import StereoMotions
from pipeline.common.chunk_prediction import PosedDepth
from pipeline.errors import AlignmentError


class ReadChunk(Protocol):
    """Checks and converts a prediction, see `Chunk.read`."""

    def __call__(self, source: PosedDepth, *, pose_deviation: Array | None = None) -> Chunk: ...


@dataclass(frozen=True, eq=False)
class OwnChunks:
    """The chunks of a drive, and what is known of their steps. Arguments as in `join_chunks`."""

    chunks: Sequence[PosedDepth]
    read: ReadChunk
    motions: StereoMotions | None
    adjusted: Sequence[bool]
    deviations: Sequence[Array | None]

    def __getitem__(self, number: int) -> Chunk:
        deviation = self.deviations[number] if self.deviations else None
        chunk = self.read(self.chunks[number], pose_deviation=deviation)
        if self.motions is None or (self.adjusted and self.adjusted[number]):
            return chunk
        return with_motions(chunk, self.motions)

    def chain(
        self, config: BackendConfig, look_for_road: bool, road_of: Callable[[int, Road], Road] | None
    ) -> tuple[list[Outline], list[Overlap], list[int], list[Road]]:
        """Cameras of all chunks, overlaps of neighbours, how many usable frames each has, and the road in each chunk.

        Raises AlignmentError for no chunk, or chunks out of order.
        """
        count = len(self.chunks)
        if not count:
            raise AlignmentError("expected at least one chunk, got none")
        outlines: list[Outline] = []
        overlaps: list[Overlap] = []
        shared: list[int] = []
        roads: list[Road] = []
        dense: Road | None = None
        previous: Chunk | None = None
        for number in range(count):
            chunk = self[number]
            if previous is not None:
                before, now = previous.frame_index, chunk.frame_index
                if now[0] < before[0] or now[-1] <= before[-1]:
                    raise AlignmentError(
                        f"chunks must be in order of time: frames {chunk.frames} come after {previous.frames}"
                    )
                found = measure_overlap(previous, chunk, (number - 1, number), config)
                shared.append(len(found) if found else 0)
                overlaps.append(found or bridge_gap(previous, chunk, (number - 1, number)))
            outlines.append(
                Outline(chunk.frame_index, chunk.time, chunk.chunk_from_camera, chunk.offset, chunk.moment, chunk.ok)
            )
            if look_for_road:
                dense = measure_road(chunk, dense)
                roads.append(dense if road_of is None else road_of(number, dense))
            previous = chunk
        return outlines, overlaps, shared, roads
