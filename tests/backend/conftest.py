"""Scenarios: chunk predictions made from KITTI 00's true trajectory, at reduced size."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture(scope="session")
def drives(shared: Path) -> ModuleType:
    """The module that makes scenarios."""
    sys.path.insert(0, str(shared / "scenarios"))
    try:
        import chunked_drive
    finally:
        sys.path.pop(0)
    return chunked_drive


@pytest.fixture(scope="session")
def make(shared: Path, drives: ModuleType) -> Callable[..., Any]:
    """make(limit=..., seed=...) -> Scenario."""
    truth = str(shared / "data" / "trajectories" / "KITTI_00_gt.txt")
    return lambda **settings: drives.make_scenario(truth, **settings)
