"""What several tests need: the shared folder of reference data, or a clear reason to skip."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: as jobs/__init__.py does, and says why

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference data beside the checkout (golden numbers, a KITTI clip, scenarios)."""
    if not SHARED.is_dir():
        pytest.skip(f"reference data absent: {SHARED} is not there")
    return SHARED
