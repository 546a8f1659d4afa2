"""jobs.reconstruct from one real S3 bucket to another; its workers find the keys in their environment."""

import os
import subprocess
import sys
from pathlib import Path

import pyarrow.fs as fs
import pyarrow.parquet as pq
import pytest

from pipeline import storage
from tests.jobs.conftest import FRAMES, folder_of_images
from tests.s3_server import s3, s3_server  # noqa: F401

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments):
    command = [sys.executable, "-m", "jobs.reconstruct", *(str(a) for a in arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=250)


def test_a_drive_in_one_bucket_is_published_in_another(s3, weights, tmp_path):  # noqa: F811
    for path in folder_of_images(tmp_path / "s3-drive").iterdir():
        storage.upload(path, storage.join(s3, "in", "s3-drive", path.name))
    arguments = ("--input", f"{s3}/in/s3-drive", "--output", f"{s3}/out", "--weights", weights)
    done = run(*arguments)
    assert done.returncode == 0, done.stderr[-2000:]
    store = fs.S3FileSystem(endpoint_override=os.environ["AWS_ENDPOINT_URL"].removeprefix("http://"), scheme="http")
    poses = pq.read_table("tests/out/s3-drive/poses.parquet", filesystem=store)
    assert poses.num_rows == FRAMES
    assert poses["uri"][0].as_py() == "s3://tests/in/s3-drive/frame0.png"
    manifest = storage.read_bytes(f"{s3}/out/s3-drive/manifest.json").decode()
    secret = os.environ["AWS_SECRET_ACCESS_KEY"]
    assert secret not in manifest + done.stdout + done.stderr
    left = store.get_file_info(fs.FileSelector("tests/out/_staging", recursive=True, allow_not_found=True))
    assert [info.path for info in left if info.type == fs.FileType.File] == []  # SeaweedFS keeps empty folders
    assert "nothing to do" in run(*arguments).stdout


def test_a_missing_bucket_is_named_in_the_error(s3, weights, tmp_path):  # noqa: F811
    done = run("--input", "s3://no-such-bucket/x", "--output", tmp_path / "out", "--weights", weights)
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(lines) == 1 and "no-such-bucket" in lines[0]
    assert not (tmp_path / "out").exists()
