"""Memory is bounded by the size of a shard, whatever the length of the drive."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

MEASURED = """
import resource, sys
sys.path.insert(0, {root!r})
from tests.publish.test_drive import PublishConfig, publish, small_drive
options = PublishConfig(shard_rows=131072, row_group_rows=32768, confidence_share=0.0, voxel_size={voxel})
def drive(frames):
    return small_drive(frames, drive_id=f"d{{frames}}", height=60, width=160, size=20)
publish({output!r}, drive(60), options)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
made = publish({output!r}, drive({frames}), options)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024, made.counts.points)
"""


@pytest.mark.parametrize("voxel", [pytest.param(None, marks=pytest.mark.full), 0.5])
def test_memory_does_not_grow_with_the_length_of_the_drive(tmp_path, voxel):
    code = MEASURED.format(root=str(ROOT), output=str(tmp_path), frames=300, voxel=voxel)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    grown, points = map(int, done.stdout.split())
    if voxel is None:
        assert points == 300 * 60 * 160
    # a drive of 60 frames before, then one of 300: its points alone are 27 bytes each, 78 MB
    assert grown < 25e6, f"{grown / 1e6:.0f} MB more for {points} points"
