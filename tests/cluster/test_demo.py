"""The fleet demonstration runs as documented: a real S3 server, a real head with a token, jobs by `ray job submit`."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.cluster
@pytest.mark.full
@pytest.mark.timeout(600)
def test_submitted_jobs_reconstruct_six_drives_from_one_bucket_to_another(tmp_path):
    command = [sys.executable, "cluster/demo_fleet.py", "--frames", "14", "--height", "42", "--keep", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "as it should be" in done.stdout.splitlines()[-1]
    report = (tmp_path / "run.html").read_text()
    assert "test-secret-key" not in report + done.stdout
