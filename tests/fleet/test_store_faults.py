"""A run whose output store fails: a real S3 server, behind a proxy or killed, with the real ledger and leases."""

import threading
import time

import fsspec
import pytest

from pipeline.fleet.records.ledger import list_runs, read_run
from tests.fleet.standins import World
from tests.fleet.test_run import states
from tests.s3_proxy import S3Proxy
from tests.s3_server import S3Server, s3, s3_server  # noqa: F401

pytestmark = pytest.mark.cluster

NAMES = [f"d{n}" for n in range(12)]


@pytest.fixture
def proxy(s3, s3_server, monkeypatch):  # noqa: F811
    """The bucket through a proxy."""
    one = S3Proxy(s3_server.ports[0])
    monkeypatch.setenv("AWS_ENDPOINT_URL", one.endpoint)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    yield one
    one.stop()
    fsspec.get_filesystem_class("s3").clear_instance_cache()


def whole(run, output):
    """Assert that all drives are published and that the stored ledger equals the run's state."""
    assert set(states(run).values()) == {"published"}
    stored = read_run(output, run.info.run_id)
    assert stored.rows == run.rows and stored.info.state == "finished"


def test_a_slow_store_that_sometimes_answers_503_loses_no_drive(proxy):
    count = [0]

    def now_and_then(method, path):
        count[0] += 1
        return "503" if count[0] % 4 == 0 else 0.02

    proxy.fault = now_and_then
    output = "s3://tests/sometimes"
    whole(World(groups=2).run(output, NAMES, fleet={"lease_s": 20, "max_attempts": 8}), output)
    assert proxy.hit > 50


def test_one_refused_key_fails_only_its_drive(proxy):
    proxy.fault = lambda method, path: "403" if "_leases/d3.json" in path else None
    output = "s3://tests/refused"
    run = World().run(output, NAMES)
    assert states(run) == dict.fromkeys(NAMES, "published") | {"d3": "failed"}
    assert "d3.json" in run.rows["d3"].reason and "tried 3 times" in run.rows["d3"].reason
    assert read_run(output).rows == run.rows
    proxy.fault = lambda method, path: None
    assert states(World().run(output, NAMES, retry_failed=True)) == {"d3": "published"}


@pytest.mark.full  # forty seconds; CI has the faults above
def test_a_store_that_is_killed_and_restarted_only_delays_the_run(tmp_path, monkeypatch):
    server = S3Server(tmp_path / "s3")
    (tmp_path / "s3").mkdir()
    server.start()
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    output = "s3://tests/out"
    world, killed = World(), []

    def on_go(drive_id):
        if drive_id == "d4":
            killed.append(time.monotonic())
            server.stop()
            threading.Timer(5, server.start).start()
        time.sleep(0.1)

    world.on_go = on_go
    try:
        run = world.run(output, NAMES, fleet={"retry_after_s": 8.0, "lease_s": 60, "max_attempts": 4})
        whole(run, output)
        assert list_runs(output) == [run.info.run_id] and len(killed) == 1
    finally:
        server.stop()
        fsspec.get_filesystem_class("s3").clear_instance_cache()
