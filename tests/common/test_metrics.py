"""The dashboard names existing metrics, ranks measure correctly, and a real head shows all metrics."""

import contextlib
import json
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from pipeline.common import metrics
from pipeline.common.metrics import METRICS
from pipeline.forward.memory_sync import LocalSync
from pipeline.forward.rank_meter import RankMeter
from tests.local_head import local_head

ROOT = Path(__file__).resolve().parents[2]
DASHBOARD = json.loads((ROOT / "cluster/dashboard.json").read_text())
RAYS_OWN = {"ray_node_mem_used", "ray_node_cpu_utilization", "ray_object_store_memory"}


def named(panel):
    return {name for target in panel["targets"] for name in re.findall(r"\bray_\w+", target["expr"])}


def test_every_panel_names_metrics_that_exist_and_labels_that_they_have():
    ours = {metric.exported: metric for metric in METRICS}
    for panel in DASHBOARD["panels"]:
        names = named(panel)
        assert names and names <= set(ours) | RAYS_OWN, panel["title"]
        for target in panel["targets"]:
            labels = set(re.findall(r"by \((\w+)\)|\{(\w+)=", target["expr"]))
            for label in filter(None, (a or b for a, b in labels)):
                assert all(label in ours[name].labels for name in names if name in ours), (panel["title"], label)


def test_every_metric_of_this_project_has_a_panel():
    assert {metric.exported for metric in METRICS} == set().union(*map(named, DASHBOARD["panels"])) - RAYS_OWN


def test_panels_do_not_overlap():
    cells = [
        (x, y)
        for panel in DASHBOARD["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells)) and max(x for x, _ in cells) < 24
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


@pytest.fixture
def counted(monkeypatch):
    """The counted values, by metric and labels."""
    sums = {}

    def add(metric, amount, **labels):
        key = (metric.name, *labels.values())
        sums[key] = sums.get(key, 0.0) + amount

    monkeypatch.setattr(metrics, "add", add)
    return sums


def test_a_rank_counts_the_time_that_it_waits_by_cause(counted):
    meter = RankMeter(3)

    def slow():
        for number in range(3):
            time.sleep(0.05)
            yield number

    assert list(meter.waiting(slow())) == [0, 1, 2]
    assert counted["city_input_wait_seconds_total", "3"] >= 0.15
    meter.begin()
    time.sleep(0.05)
    meter.progressed("frames")
    meter.progressed("loops")
    assert counted["city_phase_seconds_total", "frames", "3"] >= 0.05
    assert counted["city_phase_seconds_total", "loops", "3"] < 0.05
    meter.note_moved([("host", 10), ("scratch", 0)])
    meter.note_moved([("host", 25), ("scratch", 5)])
    assert counted["city_store_moved_bytes_total", "host", "3"] == 25
    assert counted["city_store_moved_bytes_total", "scratch", "3"] == 5


def test_a_timed_sync_gives_the_same_results_as_the_sync(counted):
    plain, timed = LocalSync(), RankMeter(0).timed(LocalSync())
    assert (timed.rank, timed.world_size) == (0, 1)
    assert timed.sum(None, failed=True, bad_frames=2) == plain.sum(None, failed=True, bad_frames=2)
    assert timed.broadcast("x") == "x"
    assert ("city_allreduce_seconds_total", "0") in counted


def test_without_ray_nothing_is_recorded_and_nothing_fails():
    code = "from pipeline.common import metrics as m; m.add(m.FRAMES, 1); m.put(m.DRIVES, 1, state='x')"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


# Acts as a driver and its rank on a real cluster until the metrics page was read.
SCRIPT = """
import sys, time
import ray
from pipeline.common import metrics
from pipeline.fleet.records.ledger import Ledger
from pipeline.fleet.status.run_metrics import metrics_of
from pipeline.forward.memory_sync import LocalSync
from pipeline.forward.rank_meter import RankMeter
from tests.fleet.runs import made_up_run

@ray.remote(runtime_env={"env_vars": {"PYTHONPATH": sys.argv[2]}})
def rank():
    meter = RankMeter(1)
    meter.begin()
    list(meter.waiting(range(3)))
    meter.timed(LocalSync()).sum(None, failed=False)
    meter.progressed("frames")
    meter.note_moved([("scratch", 7)])
    time.sleep(150)

ray.init()
run = made_up_run(40)
with Ledger(sys.argv[1], run.info) as ledger, metrics_of(ledger, every_s=0.5):
    ledger.add(run.rows.values())
    ray.get(rank.remote())
"""


@pytest.mark.cluster
@pytest.mark.slow
def test_a_real_head_shows_every_metric_of_the_dashboard(tmp_path):
    from tests.fleet.runs import made_up_run

    with local_head({"RAY_metrics_report_interval_ms": "1000"}) as head:  # of itself Ray reports every ten seconds
        environment = {**head.environment, "PYTHONPATH": str(ROOT), "RAY_ADDRESS": head.gcs}
        script = subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path), str(ROOT)], env=environment, cwd=ROOT)
        try:
            wanted = set().union(*map(named, DASHBOARD["panels"]))
            end, page = time.monotonic() + 120, ""
            while time.monotonic() < end and not all(re.search(rf"^{name}\{{", page, re.M) for name in wanted):
                time.sleep(2)
                with contextlib.suppress(OSError):  # the agent that serves the page starts last
                    page = urllib.request.urlopen(head.metrics, timeout=5).read().decode()
        finally:
            script.kill()
            script.wait()
    assert {name for name in wanted if not re.search(rf"^{name}\{{", page, re.M)} == set()
    counts = made_up_run(40).counts
    shown = re.search(r'^ray_city_drives\{[^}]*state="published"[^}]*\} ([\d.]+)', page, re.M)
    assert float(shown.group(1)) == counts["published"]
    token = head.environment["RAY_AUTH_TOKEN"]
    assert token not in page
