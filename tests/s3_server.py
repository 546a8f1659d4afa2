"""A real S3 server (SeaweedFS) for tests, on ports of its own, with keys of its own.

Import the fixtures where they are needed: `from tests.s3_server import s3, s3_server  # noqa: F401`.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ACCESS_KEY, SECRET_KEY = "test-access-key", "test-secret-key-0123456789"


def free_ports(count: int) -> list[int]:
    """Free ports whose gRPC ports (SeaweedFS uses the number + 10000) are free as well.

    Up to four pytest workers have a range each: between the look and the server's start another could take a port.
    """
    first = 21000 + 2400 * (int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 4)
    found: list[int] = []
    sockets: list[socket.socket] = []
    try:
        for port in range(first + os.getpid() % 1800, first + 2400):
            pair = []
            try:
                for number in (port, port + 10000):
                    one = socket.socket()
                    pair.append(one)
                    one.bind(("127.0.0.1", number))
            except OSError:
                for one in pair:
                    one.close()
                continue
            sockets += pair
            found.append(port)
            if len(found) == count:
                return found
    finally:
        for one in sockets:
            one.close()
    raise RuntimeError("no free ports")


@dataclass
class S3Server:
    """One `weed server` process and how to reach it."""

    folder: Path
    ports: list[int] = field(default_factory=lambda: free_ports(4))
    process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.ports[0]}"

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables that a user would export; storage.py reads nothing else."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def start(self) -> None:
        """Start the server and wait until it takes a write (its volumes come up after its port)."""
        config = self.folder / "s3.json"
        identity = {
            "name": "tests",
            "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        config.write_text(json.dumps({"identities": [identity]}))
        weed = shutil.which("weed") or str(Path(sys.executable).with_name("weed"))
        s3, master, volume, filer = self.ports
        log = open(self.folder / "weed.log", "ab")  # noqa: SIM115  (the process keeps it)
        command = [weed, "server", f"-dir={self.folder}", "-ip=127.0.0.1", "-s3", f"-s3.config={config}"]
        command += [f"-s3.port={s3}", f"-master.port={master}"]
        command += [f"-volume.port={volume}", f"-filer.port={filer}"]
        command += ["-volume.max=20", "-master.volumeSizeLimitMB=64", "-s3.autoCreateBucket=false"]
        # Turns off services with fixed ports that no test uses, and the report to SeaweedFS's makers.
        command += ["-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false"]
        self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        log.close()
        self._wait()

    def stop(self) -> None:
        """Kill the server, as when a machine fails; its data stay."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()

    def client(self):
        """A plain botocore client, so that storage.py is not tested with itself."""
        import botocore.session
        from botocore.config import Config

        return botocore.session.get_session().create_client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            region_name="us-east-1",
            config=Config(connect_timeout=2, read_timeout=10, retries={"total_max_attempts": 1}),
        )

    def _wait(self, deadline_s: float = 60) -> None:
        import botocore.exceptions

        client = self.client()
        end = time.monotonic() + deadline_s
        while True:
            try:
                buckets = {bucket["Name"] for bucket in client.list_buckets().get("Buckets", [])}
                if "tests" not in buckets:
                    client.create_bucket(Bucket="tests")
                client.put_object(Bucket="tests", Key=".ready", Body=b"yes")
                return
            except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError):
                assert self.process is not None
                if self.process.poll() is not None or time.monotonic() > end:
                    self.stop()
                    log = (self.folder / "weed.log").read_text(errors="replace")[-2000:]
                    raise RuntimeError(f"the S3 server did not come up:\n{log}") from None
                time.sleep(0.2)


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A running server for the whole session; has a bucket "tests"."""
    server = S3Server(tmp_path_factory.mktemp("s3"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def s3(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """URI of the bucket, with endpoint and keys in the environment of this test."""
    import fsspec

    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    # s3fs caches clients by their options; the environment in which they were made is not one of these.
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    return "s3://tests"
