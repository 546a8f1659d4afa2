"""The project is installed as a wheel and used from an empty folder: every file that it reads must be in the wheel."""

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
NOT_SHIPPED = {"models/weights/.gitkeep"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy: no build folder is left in the checkout, and an existing one is not used."""
    place = tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if name.split("/")[0] in ("models", "pipeline", "jobs", "pyproject.toml", "README.md", "LICENSE"):
            source, target = ROOT / name, place / "source" / name
            if source.is_file():
                target.parent.mkdir(parents=True, exist_ok=True)
                os.link(source, target) if source.stat().st_dev == place.stat().st_dev else target.write_bytes(
                    source.read_bytes()
                )
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", str(place)]
    subprocess.run([*command, str(place / "source")], check=True)
    return next(place.glob("*.whl"))


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """The Python of a fresh environment that contains the wheel and uses the libraries of the running environment."""
    place = tmp_path_factory.mktemp("fresh")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place)], check=True)
    python = place / "bin" / "python"
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps", str(wheel)], check=True
    )
    packages = next(place.glob("lib/python*/site-packages"))
    # a plain path: .pth files in that folder, which may name a checkout, are not read
    (packages / "borrowed.pth").write_text("\n".join({sysconfig.get_path(name) for name in ("purelib", "platlib")}))
    return str(python)


def test_every_file_beside_the_code_is_in_the_wheel(wheel):
    """Files of every kind: a tracked file in a package is assumed to be read by it."""
    listed = subprocess.run(
        ["git", "ls-files", "models", "pipeline", "jobs"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    wanted = {name for name in listed.stdout.splitlines() if not name.endswith(".md")} - NOT_SHIPPED
    missing = wanted - set(zipfile.ZipFile(wheel).namelist())
    assert not missing


EVERY_JOB = """
import sys
from pathlib import Path
import pipeline
from jobs import export, reconstruct, report, status, verify
from pipeline.common.ray_session import start_ray

assert Path(sys.prefix) in Path(pipeline.__file__).parents, pipeline.__file__  # the installed package, not the checkout
start_ray()  # one for all of them, which no job ends


def run(job, *arguments):
    print("##", job.__name__, *arguments, flush=True)
    assert job.main(list(arguments)) == 0, (job.__name__, arguments)


run(reconstruct)
city = next(Path("out").glob("*/manifest.json")).parent
run(reconstruct, "--input", "drives", "--output", "many", "--chunk-size", "6", "--overlap", "2", "--plan")
run(reconstruct, "--input", "drives", "--output", "many", "--chunk-size", "6", "--overlap", "2")
run(status, "--output", "many", "--report", "status.html")
run(export, "--output", "out", "--drive", city.name, "--format", "tum", "ply", "--to", "exported")
run(report, "--output", "many", "--site", "site")
run(verify, "--output", "many")
"""


@pytest.mark.cluster
@pytest.mark.timeout(600)
def test_every_job_runs_from_an_empty_folder(python, tmp_path):
    """All jobs run in one process with one Ray; the test is whether every file that they read is in the wheel."""
    for name in ("d1", "d2"):
        folder = tmp_path / "drives" / name
        folder.mkdir(parents=True)
        for number in range(7):
            x, y = np.meshgrid(np.arange(96), np.arange(64))
            grey = 128 + 100 * np.sin((x + 5 * number) / 7) * np.cos(y / 5)
            Image.fromarray(grey.astype(np.uint8)).save(folder / f"{number:03d}.png")
    own = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "RAY_ADDRESS")}
    done = subprocess.run([python, "-c", EVERY_JOB], cwd=tmp_path, env=own, capture_output=True, text=True, timeout=550)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-2000:]
    assert "2 published" in done.stdout and "2 of 2 drives" in done.stdout and "finished" in done.stdout
    assert (tmp_path / "site" / "index.html").stat().st_size > 0
    assert list((tmp_path / "exported").rglob("*.ply")) and (tmp_path / "status.html").stat().st_size > 1000


@pytest.mark.full  # takes some minutes on a busy machine
@pytest.mark.cluster
@pytest.mark.timeout(3000)
def test_the_jobs_run_from_an_empty_folder(python, tmp_path):
    here = tmp_path / "empty"
    here.mkdir()
    own = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "RAY_ADDRESS")}

    def job(name, *arguments):
        done = subprocess.run(
            [python, "-m", f"jobs.{name}", *map(str, arguments)],
            cwd=here,
            env=own,
            capture_output=True,
            text=True,
            timeout=1500,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    where = "import pipeline; print(pipeline.__file__)"
    found = subprocess.run([python, "-c", where], cwd=here, env=own, capture_output=True, text=True, check=True)
    assert str(Path(python).parents[1]) in found.stdout  # the installed package, not the checkout

    assert "drive city: done" in job("reconstruct")
    inputs = here / "drives"
    inputs.mkdir()
    sample = Path(own.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "city-reconstruction"
    frames = sorted(sample.glob("sample-*/sequences/city/image_0/*.jpg"))[:12]
    for name in ("d1", "d2"):
        (inputs / name).mkdir()
        for frame in frames:
            (inputs / name / frame.name).write_bytes(frame.read_bytes())
    many = ("--input", inputs, "--output", here / "many", "--chunk-size", 6, "--overlap", 2)
    planned = job("reconstruct", *many, "--plan")
    assert "drives    2 " in planned and "cores a CPU rank beside the network" in planned
    assert "2 published" in job("reconstruct", *many)
    assert "finished" in job("status", "--output", here / "many", "--report", here / "status.html")
    assert "exported" in job(
        "export", "--output", here / "out", "--drive", "city", "--format", "tum", "ply", "--to", here / "exported"
    )
    job("report", "--output", here / "many", "--site", here / "site")
    assert (here / "site" / "index.html").stat().st_size > 0
    assert "2 of 2 drives" in job("verify", "--output", here / "many")
