"""The image is built by buildah (on Debian's Python where Docker Hub cannot be reached), and a job runs in it.

As root, with `apt-get install buildah debootstrap`. Takes some 12 GB of disk while it runs.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.s3_server import free_ports

pytestmark = [pytest.mark.cluster, pytest.mark.full, pytest.mark.timeout(2400)]

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "cluster" / "Dockerfile"
BASE, PYTHON = re.search(r"^FROM ((python):\S+)", DOCKERFILE.read_text(), re.M).groups()
NAME = "localhost/city-reconstruction:tried"
# Starts a head with the image's token settings, submits a job, and reads the result; it uses free ports.
JOB = """
set -e
test "$RAY_AUTH_MODE" = token && test "$(id -u)" = 1000 && ! test -w /opt/venv
export RAY_AUTH_TOKEN=0123456789abcdef0123456789abcdef RAY_ADDRESS=http://127.0.0.1:{dashboard}
ray start --head --block --node-ip-address=127.0.0.1 --port={port} --dashboard-port={dashboard} --num-cpus=4 \
  --dashboard-agent-listen-port={agent} --metrics-export-port={metrics} --object-store-memory=200000000 >log 2>&1 &
# not `ray stop`: it ends all of this user, outside of the image too
trap 'kill $!; wait' EXIT
for _ in $(seq 60); do ray job list >/dev/null 2>&1 && break; sleep 1; done
if RAY_AUTH_TOKEN=wrong-but-long-enough-to-be-one ray job list; then exit 3; fi
ray job submit -- python -m jobs.reconstruct --output /home/ray/out
ls /home/ray/out/*/poses.parquet /home/ray/out/*/manifest.json
"""


def buildah(store, *words, **options):
    where = ["buildah", "--root", str(store / "root"), "--runroot", str(store / "run"), "--storage-driver", "vfs"]
    env = {**os.environ, "BUILDAH_ISOLATION": "chroot"}
    return subprocess.run([*where, *words], env=env, capture_output=True, text=True, **options)


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """The store with the built image; it is removed after the tests."""
    if os.geteuid() != 0 or not shutil.which("buildah") or not shutil.which("debootstrap"):
        pytest.skip("as root, with buildah and debootstrap (apt-get install buildah debootstrap)")
    store = tmp_path_factory.mktemp("image")
    try:
        _stand_in_base(store)
        # where pip finds wheels on this machine, so that a build here uses torch for CPUs
        pip = store / "pip.conf"
        wheels = os.environ.get("PIP_FIND_LINKS")
        pip.write_text("[global]\n" + (f"find-links = {wheels}\n" if wheels else ""))
        words = ["--volume", f"{pip}:/etc/pip.conf:ro", "--volume", "/etc/ssl/certs:/etc/ssl/certs:ro"]
        if wheels:
            words += ["--volume", f"{wheels}:{wheels}:ro"]
        ignored = ["--ignorefile", str(DOCKERFILE) + ".dockerignore"]
        built = buildah(store, "bud", "--pull-never", *words, *ignored, "-f", str(DOCKERFILE), "-t", NAME, str(ROOT))
        assert built.returncode == 0, built.stdout[-3000:] + built.stderr[-3000:]
        yield store, built.stdout
    finally:
        buildah(store, "rm", "--all")
        shutil.rmtree(store, ignore_errors=True)


def _stand_in_base(store):
    """Debian's Python under the name of the base image that the Dockerfile names."""
    system = store / "base"
    packages = "python3,python3-venv,ca-certificates"
    release = BASE.rpartition("-")[2]
    words = ["debootstrap", "--variant=minbase", f"--include={packages}", release, str(system)]
    subprocess.run([*words, "http://deb.debian.org/debian"], check=True, capture_output=True)
    for name in ("python", "python3"):
        (system / "usr/local/bin" / name).symlink_to("/usr/bin/python3")
    made = buildah(store, "from", "scratch")
    container = made.stdout.strip()
    assert buildah(store, "copy", container, str(system), "/").returncode == 0
    assert buildah(store, "commit", "--rm", container, f"docker.io/library/{BASE}").returncode == 0
    shutil.rmtree(system)


def test_the_image_builds_and_its_head_runs_a_submitted_job_with_a_token_as_an_ordinary_user(image):
    store, said = image
    assert "No broken requirements found" in said
    container = buildah(store, "from", "--pull-never", NAME).stdout.strip()
    for program in ("wget", "ps", "rsync", "ssh", "tini"):
        assert buildah(store, "run", container, "--", "sh", "-c", f"command -v {program}").returncode == 0, program
    port, dashboard, agent, metrics = free_ports(4)
    script = JOB.format(port=port, dashboard=dashboard, agent=agent, metrics=metrics)
    done = buildah(store, "run", container, "--", "sh", "-c", script, timeout=900)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "succeeded" in done.stdout and "/poses.parquet" in done.stdout
