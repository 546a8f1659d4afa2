"""Which drives of an output become a city."""

import numpy as np
import pytest

from pipeline.backend.sim3 import Sim3
from pipeline.errors import DriveError
from tests.fuse.rendered_drives import Rendered, publish
from tests.fuse.test_run import fused


def test_a_drive_with_an_empty_table_of_places_is_said_to_have_none(tmp_path):
    nothing = np.zeros(0, np.int64), np.zeros((0, 64), np.float16)
    publish(tmp_path / "out", tmp_path / "a", "a", Rendered(range(2)), Sim3.identity(), places=nothing)
    (note,) = fused(tmp_path / "out", plan=True).notes
    assert "drive a has neither positions nor place descriptors" in note


def test_drives_far_from_the_city_are_left_out_with_their_distance(tmp_path):
    out, few = tmp_path / "out", Rendered(range(2))
    for name, origin in (("a", (48.1, 11.6, 0.0)), ("b", (-33.9, 151.2, 0.0)), ("c", (48.2, 11.7, 0.0))):
        publish(out, tmp_path / name, name, few, Sim3.identity(), origin=origin)
    result = fused(out, plan=True)
    (note,) = [note for note in result.notes if note.startswith("left out: 1 drive (b)")]
    assert result.drives == 2 and "km from the city's origin" in note
    publish(out, tmp_path / "d", "d", few, Sim3.identity(), origin=(-34.0, 151.2, 0.0))
    (note,) = [note for note in fused(out, plan=True).notes if "left out" in note]  # one for all of them
    assert "2 drives (b, d)" in note and "km and more" in note
    (out / "d" / "manifest.json").unlink()
    with pytest.raises(DriveError, match=r"left out: 1 drive \(b\)"):
        fused(out, plan=True, drive=("a", "b", "c"))
    assert "outside the area: 2 drives (b, c)" in fused(out, plan=True, area=(11.5, 48.0, 11.65, 48.2)).notes
