"""KITTI 00, whole, with fixes of a made-up receiver: the table of pipeline/georeference/README.md."""

import sys

import numpy as np
import pytest

from pipeline.backend import Fixes, join_chunks
from pipeline.common.geodesy import enu_from_geodetic

SEEDS = range(5)
HARD = {"burst_share": 0.1, "outages": [(150, 210), (330, 390)], "offset": 0.35}
# noise of the chunks, whether loops are known, fixes -> horizontal error at most (metres, mean of the seeds)
MUST = {
    (1, False, "clean"): 1.60,
    (1, False, "hard"): 1.70,
    (1, True, "clean"): 1.30,
    (1, True, "hard"): 1.32,
    (4, False, "clean"): 1.90,
    (4, False, "hard"): 2.60,
    (4, True, "clean"): 1.65,
    (4, True, "hard"): 1.70,
}
VERTICAL_M, OFFSET_S = 2.2, 0.05


@pytest.mark.full
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("case", MUST, ids=str)
def test_a_whole_drive_with_fixes_is_in_its_place(drives, shared, case):
    sys.path.insert(0, str(shared / "scenarios"))
    try:
        import gnss
    finally:
        sys.path.pop(0)

    noise, with_loops, kind = case
    receiver = HARD if kind == "hard" else {}
    errors = []
    for seed in SEEDS:
        truth = str(shared / "data" / "trajectories" / "KITTI_00_gt.txt")
        scenario = drives.make_scenario(truth, seed=seed, noise=noise)
        poses = np.asarray(scenario.world_from_cam)
        time_s = np.arange(len(poses)) * 0.1
        made = gnss.make_gnss(poses, time_s, seed=seed, **receiver)
        loops = {"loop_chunks": scenario.loop_chunks, "loop_pairs": scenario.loop_pairs} if with_loops else {}
        fixes = Fixes(made.time, made.latitude, made.longitude, made.altitude, made.accuracy)
        found = join_chunks(scenario.chunks, frame_time_s=time_s, fixes=fixes, **loops).georeference
        place = enu_from_geodetic(*found.geodetic(), made.origin)
        errors.append(gnss.position_error(place, made, poses))
        assert abs(found.clock_offset_s - receiver.get("offset", 0.0)) <= OFFSET_S
    horizontal, vertical = np.mean(errors, axis=0)
    print(f"{case}: horizontal {horizontal:.3f} m, vertical {vertical:.3f} m")
    assert horizontal <= MUST[case] and vertical <= VERTICAL_M
