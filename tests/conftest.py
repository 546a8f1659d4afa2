"""What several tests need: the shared folder of reference data, or a clear reason to skip."""

import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: as jobs/__init__.py does, and says why

os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # Ray instances of tests, which are thrown away, need no token

# with Ray's default of 15, workers starve for minutes under other load
os.environ.setdefault("RAY_worker_niceness", "0")

# Hypothesis' deadline of 200 ms per example fails tests on a busy machine.
hypothesis.settings.register_profile("any load", deadline=None)
hypothesis.settings.load_profile("any load")

SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with the most slow tests begin first: a worker that starts such a file last works on alone, for minutes.

    `make check` tells xdist (--no-loadscope-reorder) to keep this order.
    """
    slow = Counter(item.path for item in items if item.get_closest_marker("slow") or item.get_closest_marker("cluster"))
    items.sort(key=lambda item: -slow[item.path])  # the sort is stable: tests of one file stay together


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference data beside the checkout (golden numbers, a KITTI clip, scenarios)."""
    if not SHARED.is_dir():
        pytest.skip(f"reference data absent: {SHARED} is not there")
    return SHARED


@pytest.fixture(scope="session")
def one_ray() -> Iterator[None]:
    """The one Ray of the whole session. Jobs do not stop a Ray that they did not start.

    Never a second one in the same process: its task ids would be those of the first, and what the first left to the
    garbage collector then deletes the second one's streams (seen: a stream of frames that never gave a block).
    """
    import ray

    ray.init(address="local", num_cpus=6, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(autouse=True)
def float32_products_stay_as_they_were() -> Iterator[None]:
    """A bfloat16 network allows TF32 for its whole process; that would round float32 products of later tests too."""
    if "torch" not in sys.modules:
        yield
        return
    import torch

    before = torch.get_float32_matmul_precision()
    convolutions = torch.backends.cudnn.allow_tf32
    yield
    torch.set_float32_matmul_precision(before)
    torch.backends.cudnn.allow_tf32 = convolutions


class StillClock:
    """Stands for the module `time`: its seconds pass only in `sleep`, whatever else the machine does."""

    def __init__(self) -> None:
        self.now = time.time()

    def time(self) -> float:
        return self.now

    monotonic = time

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> StillClock:
    """The clock of leases, and of what this machine has seen of them."""
    from pipeline import leases
    from pipeline.common import sightings

    clock = StillClock()
    monkeypatch.setattr(leases, "time", clock)
    monkeypatch.setattr(sightings, "time", clock)
    return clock


@pytest.fixture
def without_a_compiler():
    """torch.compile finds no C++ compiler and no kernels compiled before.

    This uses torch's own patch function: torch's settings are not in the module's __dict__, so pytest's monkeypatch
    (since 9.2) believes they did not exist and deletes them for all later tests of the process.
    """
    import torch
    import torch._inductor.config as inductor

    torch._dynamo.reset()
    with inductor.patch({"cpp.cxx": ("no-such-compiler",), "fx_graph_cache": False}):
        yield
    torch._dynamo.reset()
