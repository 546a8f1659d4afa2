"""From a real S3 server to a real S3 server."""

import os

import pyarrow.fs as fs
import pyarrow.parquet as pq
import pytest
import ray

from pipeline import storage
from tests.jobs.conftest import FRAMES, folder_of_images
from tests.jobs.test_reconstruct import error_of, no_result_in, run
from tests.s3_server import s3, s3_server  # noqa: F401

pytestmark = pytest.mark.cluster


@pytest.fixture
def ray_with_keys(s3):  # noqa: F811
    """Ray's workers read the keys from the environment that the driver has."""
    os.environ["RAY_AUTH_MODE"] = "disabled"
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield s3
    ray.shutdown()


def test_a_drive_goes_from_bucket_to_bucket_and_missing_buckets_are_named(
    ray_with_keys, weights, tmp_path, capsys
):
    bucket = ray_with_keys
    for path in folder_of_images(tmp_path / "s3-drive").iterdir():
        storage.upload(path, storage.join(bucket, "in", "s3-drive", path.name))
    arguments = ("--input", f"{bucket}/in/s3-drive", "--output", f"{bucket}/out", "--weights", weights)
    assert run(*arguments) == 0
    s3fs = fs.S3FileSystem(
        endpoint_override=os.environ["AWS_ENDPOINT_URL"].removeprefix("http://"), scheme="http"
    )
    poses = pq.read_table("tests/out/s3-drive/poses.parquet", filesystem=s3fs)
    assert poses.num_rows == FRAMES
    assert poses["uri"][0].as_py() == "s3://tests/in/s3-drive/frame0.png"
    manifest = storage.read_bytes(f"{bucket}/out/s3-drive/manifest.json").decode()
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in manifest
    left = s3fs.get_file_info(fs.FileSelector("tests/out/_staging", recursive=True, allow_not_found=True))
    assert [info.path for info in left if info.type == fs.FileType.File] == []  # SeaweedFS keeps empty folders
    capsys.readouterr()
    assert run(*arguments) == 0
    assert "nothing to do" in capsys.readouterr().out
    nowhere = ("--output", tmp_path / "out", "--weights", weights)
    assert "no-such-bucket" in error_of(capsys, "--input", "s3://no-such-bucket/x", *nowhere)
    assert no_result_in(tmp_path / "out")
