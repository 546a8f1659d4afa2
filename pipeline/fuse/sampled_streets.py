"""Frames that represent the streets of each part of a city, so that work depends on the length of the streets and not
on the number of drives."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.fuse.candidates import Numbers
from pipeline.fuse.placement import Placement

_CELL_M = 10.0  # metres: side of the cubes that are places


def sampled(
    placements: Sequence[Placement], metres: Mapping[str, float], leads: Sequence[Numbers], of_a_place: int, most: int
) -> list[tuple[int, int]]:
    """Drives and frames (index of the drive's arrays) that represent each part of the city, in rising order.

    Args:
        placements: of the drives.
        metres: city units in a metre, by name of the frame.
        leads: of each drive the frames that may be used.
        of_a_place: most frames of a part in a cube of 10 m with one heading, each of another drive.
        most: frames of all parts together.
    """
    taken: dict[tuple[object, ...], int] = defaultdict(int)
    chosen: list[tuple[int, int]] = []
    for n, one in enumerate(placements):
        pose = one.city_from_camera[leads[n]]
        cell = np.floor(pose[:, :3, 3] / metres[one.frame] / _CELL_M).astype(np.int64)
        # Which axes are horizontal is not known: headings are viewing directions to half a unit of each component.
        ahead = np.round(2 * pose[:, :3, 2]).astype(np.int64)
        seen = set()
        for k, place in enumerate(leads[n].tolist()):
            name = (one.frame, *cell[k].tolist(), *ahead[k].tolist())
            if name not in seen and taken[name] < of_a_place:
                seen.add(name)
                taken[name] += 1
                chosen.append((n, place))
    if len(chosen) > most:
        chosen = [chosen[int(k)] for k in np.linspace(0, len(chosen) - 1, most)]
    return chosen


def most_sampled(frames: Sequence[int], most: int) -> int:
    """About how many frames `sampled` chooses at most. frames: of each drive's reference camera, one a metre as is
    usual."""
    return min(sum(-(-count // int(_CELL_M)) for count in frames), most)
