"""What a process loads before it works: torch only where the network runs, for it takes seconds and 200 MB."""

import subprocess
import sys
from pathlib import Path

import pytest

import models

ROOT = Path(__file__).resolve().parents[1]
# What the driver imports before it starts the network, and what the tasks beside the ranks import.
WITHOUT_TORCH = """
import sys
import jobs.evaluate, jobs.export, jobs.fuse, jobs.realign, jobs.reconstruct, jobs.report, jobs.status, jobs.verify
import pipeline.fleet.run, pipeline.finish, pipeline.ingest.frames, pipeline.ingest.scan, pipeline.refined_drive
found = {"torch", "scipy.stats"} & set(sys.modules)
assert not found, found
"""


def test_commands_and_the_tasks_beside_the_ranks_start_without_torch():
    subprocess.run([sys.executable, "-c", WITHOUT_TORCH], check=True, cwd=ROOT)


def test_a_name_that_a_package_does_not_have_is_an_attribute_error():
    import pipeline.synthetic

    for package in (models, pipeline.synthetic):
        with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
            package.nothing  # noqa: B018
        assert all(getattr(package, name) for name in package.__all__)
