"""Runs over many drives on disks that really fill up (small file systems), or with a node that is really removed."""

import shutil
import subprocess
import sys
import time

import pytest

from pipeline.fleet.records.ledger import read_run
from tests.jobs.conftest import folder_of_images, image
from tests.jobs.runs import PLAIN, ROOT, command, environment, left_over, results, run, states

pytestmark = [pytest.mark.cluster, pytest.mark.full, pytest.mark.timeout(600)]


def in_small_disk(folder, size, *arguments):
    """Run the command in a new mount namespace with a file system of this many bytes at `folder`: exit code, output,
    and the files in the folder at the end (copied beside it)."""
    folder.mkdir()
    script = 'mount -t tmpfs -o size="$1" small "$2" || exit 99; shift 2; "$@"; code=$?; '
    script += 'cp -r "$FOLDER" "$COPY"; exit $code'
    copy = folder.with_name(folder.name + "-copy")
    words = ["unshare", "--map-root-user", "--mount", "sh", "-c", script, "sh", str(size), str(folder)]
    env = environment(FOLDER=str(folder), COPY=str(copy))
    words += command(*arguments)
    done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, timeout=250)
    if done.returncode == 99 or "unshare" in done.stderr:
        pytest.skip(f"no mounts here: {done.stderr[-200:]}")
    return done.returncode, done.stdout + done.stderr, copy


@pytest.fixture
def long_and_short(tmp_path):
    """Two drives: the data of one fill a small disk, the data of the other do not."""
    fleet = tmp_path / "fleet"
    folder_of_images(fleet / "short", 5)
    (fleet / "long").mkdir()
    for number in range(60):
        image(number % 40).save(fleet / "long" / f"frame{number}.png")
    return fleet


def test_a_full_scratch_disk_fails_the_drive_that_fills_it(tmp_path, weights, long_and_short):
    out, scratch = tmp_path / "out", tmp_path / "scratch"
    code, said, _ = in_small_disk(
        scratch,
        200_000,
        "--input",
        long_and_short,
        "--output",
        out,
        "--weights",
        weights,
        *PLAIN,
        "--host-memory",
        "100kB",
        "--scratch",
        "1GB",
        "--scratch-folder",
        scratch,
    )
    assert code == 1, said
    assert states(out) == {"long": "failed", "short": "published"}, said
    reason = read_run(str(out)).rows["long"].reason
    assert "full" in reason and "--scratch" in reason, reason
    assert sorted(results(out)) == ["short"] and not left_over(out)
    # this does not count as a failure of the drive
    assert run("--input", long_and_short, "--output", out, "--weights", weights, "--plan") == 0


def test_a_full_output_disk_fails_the_drive_that_does_not_fit_without_incomplete_files(
    tmp_path, weights, long_and_short
):
    out = tmp_path / "out"
    code, said, copy = in_small_disk(
        out,
        1_300_000,
        "--input",
        long_and_short,
        "--output",
        out,
        "--weights",
        weights,
        *PLAIN,
    )
    assert code == 1 and "Traceback" not in said, said
    assert states(copy) == {"long": "failed", "short": "published"}, said
    reason = read_run(str(copy)).rows["long"].reason
    assert "disk is full" in reason and "free space" in reason, reason
    assert sorted(results(copy)) == ["short"] and not (copy / "long" / "manifest.json").exists()
    shutil.rmtree(out)
    shutil.copytree(copy, out)  # a larger disk
    assert run("--input", long_and_short, "--output", out, "--weights", weights, *PLAIN) == 0
    assert states(out) == {"long": "published", "short": "skipped"} and not left_over(out)


NODES = """
import sys
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
first = cluster.add_node(num_cpus=4)
cluster.wait_for_nodes()
print(cluster.address, flush=True)
sys.stdin.readline()
cluster.remove_node(first, allow_graceful=False)  # before the other starts: on a busy machine that takes a minute
print("removed", flush=True)
cluster.add_node(num_cpus=4)
sys.stdin.readline()
cluster.shutdown()
"""


@pytest.mark.timeout(900)
def test_a_lost_node_costs_its_drive_one_try_and_does_not_count_as_a_death(tmp_path, weights):
    fleet, out = tmp_path / "fleet", tmp_path / "out"
    for name, count in (("a", 90), ("b", 12)):
        (fleet / name).mkdir(parents=True)
        for number in range(count):
            image(number % 40).save(fleet / name / f"frame{number}.png")
    nodes = subprocess.Popen(
        [sys.executable, "-c", NODES], env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        address = next(line.strip() for line in nodes.stdout if line.strip().count(":") == 1)
        arguments = ("--input", fleet, "--output", out, "--weights", weights, *PLAIN)
        job = subprocess.Popen(
            # two ranks: the head has a slot for one process, so both run on the node that is removed
            command(*arguments, "--address", address, "--workers", 2, "--groups", 1),
            cwd=ROOT,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        while not (list(out.glob("_runs/*/run.json")) and read_run(str(out)).in_state("running")):
            assert job.poll() is None, job.stdout.read()
            time.sleep(0.2)
        nodes.stdin.write("remove\n")
        nodes.stdin.flush()
        assert "removed" in nodes.stdout.readline()
        at = time.monotonic()
        said = job.communicate(timeout=600)[0]
        assert job.returncode == 0, said
        rows = read_run(str(out)).rows
        assert {row.state for row in rows.values()} == {"published"}, said
        assert rows["a"].attempts == 2 and "node that worked on it was lost" in said + str(rows["a"])
        assert not left_over(out) and not list(out.glob("_failed/*"))
        print(f"\nnode lost: both drives were published {time.monotonic() - at:.0f} s later")
    finally:
        nodes.communicate("end\n", timeout=60)
