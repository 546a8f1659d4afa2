"""A real S3 server fails while a city is written: the last version stays intact, and the next run continues."""

import shutil
import threading

import fsspec
import pytest

from pipeline import storage
from pipeline.errors import PipelineError
from pipeline.fuse import open_city
from pipeline.fuse.progress import read_fuse_run
from tests.fuse.test_run import fused, made, street  # noqa: F401
from tests.s3_proxy import S3Proxy
from tests.s3_server import S3Server, s3, s3_server  # noqa: F401

pytestmark = [pytest.mark.cluster, pytest.mark.full]


def test_a_store_that_refuses_tiles_poses_or_the_manifest_leaves_the_last_version_intact(
    made,  # noqa: F811
    s3,  # noqa: F811
    s3_server,  # noqa: F811
    tmp_path,
    monkeypatch,
):
    shutil.copytree(made[0], tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "_city" / "evidence")
    output = f"{s3}/city"
    for path in sorted((tmp_path / "out").rglob("*")):
        if path.is_file():
            storage.upload(path, storage.join(output, *path.relative_to(tmp_path / "out").parts))
    before = open_city(output).manifest
    proxy = S3Proxy(s3_server.ports[0])
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    writes = ("PUT", "POST")
    try:
        for number, name in enumerate(("_0.parquet", "poses.parquet", "/manifest.json")):
            proxy.fault = lambda method, path, name=name: (
                "403" if method in writes and "/_city/0" in path and path.split("?")[0].endswith(name) else None
            )
            proxy.hit = 0
            with pytest.raises(PipelineError):
                fused(output, voxel=0.3, images_from=None if number == 0 else "/nowhere")  # writes every tile
            assert proxy.hit > 0
            assert open_city(output).manifest == before
            assert open_city(output).points().num_rows == before.counts["points"]
            assert read_fuse_run(output, 0.0).state == "failed"
        proxy.fault = lambda method, path: None
        again = fused(output, voxel=0.3, images_from="/nowhere")  # verdicts from before the faults are used
        assert again.links == before.counts["links"] > 0 and again.manifest.version > before.version
        assert open_city(output).points().num_rows == again.manifest.counts["points"]
        kept = {before.version, again.manifest.version, "evidence", "run.json"}
        assert {path.split("/")[0] for path in storage.list_below(f"{output}/_city")} <= kept
    finally:
        proxy.stop()
        fsspec.get_filesystem_class("s3").clear_instance_cache()


@pytest.mark.parametrize("moment", ["poses.parquet", "/manifest.json"])
def test_a_store_that_is_killed_and_restarted_only_delays_the_run(made, tmp_path, monkeypatch, moment):  # noqa: F811
    (tmp_path / "s3").mkdir()
    server = S3Server(tmp_path / "s3")
    server.start()
    proxy = S3Proxy(server.ports[0])  # tells when the run writes
    for name, value in (server.environment | {"AWS_ENDPOINT_URL": proxy.endpoint}).items():
        monkeypatch.setenv(name, value)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    killed: list[str] = []

    def kill_once(method: str, path: str) -> None:
        if not killed and method in ("PUT", "POST") and moment in path and "/_city/" in path:
            killed.append(path)
            server.stop()
            threading.Timer(1, server.start).start()  # it takes seconds to start

    try:
        shutil.copytree(made[0], tmp_path / "out")
        shutil.rmtree(tmp_path / "out" / "_city")
        output = "s3://tests/city"
        for path in sorted((tmp_path / "out").rglob("*")):
            if path.is_file():
                storage.upload(path, storage.join(output, *path.relative_to(tmp_path / "out").parts))
        proxy.fault = kill_once
        found = fused(output, voxel=0.3)
        assert killed and found.links > 0
        assert open_city(output).points().num_rows == found.manifest.counts["points"] > 0
        assert read_fuse_run(output, 0.0).state == "finished"
    finally:
        proxy.stop()
        server.stop()
        fsspec.get_filesystem_class("s3").clear_instance_cache()
