"""jobs.train: a short run learns, a killed run continues, and bad input gives one line."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from jobs.train import main
from models import ModelConfig, open_checkpoint
from models.config import WEIGHTS_FOLDER
from pipeline.training.metrics import read_metrics
from pipeline.training.pool import PoolSettings, render_drive

ROOT = Path(__file__).resolve().parents[2]
TRAIN = [sys.executable, "-m", "jobs.train"]
SMALL_BATCH = [
    "--batch.frames",
    "8",
    "--batch.longest",
    "4",
    "--city.clip-frames",
    "4",
    "--renderers",
    "0",
    "--optimizer.warmup",
    "5",
    "--optimizer.backbone-rate",
    "1e-3",
    "--optimizer.memory-rate",
    "1e-3",
]


@pytest.fixture(scope="session")
def pool(tmp_path_factory):
    """Two rendered drives of few, short clips."""
    folder = tmp_path_factory.mktemp("pool")
    for seed in (100_000, 100_001):
        render_drive(folder, seed, PoolSettings(clips=3, clip_frames=4, fine=0.0))
    return folder


def _command(output, *words):
    """Arguments of a training run without validation; `words` come last, so they take precedence."""
    return ["--output", str(output), "--validation.drives", "0", *words]


def _small(output, pool, *words):
    """The same on the rendered drives of `pool`, with small steps."""
    return _command(output, "--pool", str(pool), *SMALL_BATCH, *words)


def _steps(output):
    return [row["step"] for row in read_metrics(output / "metrics.jsonl") if row["kind"] == "train"]


@pytest.mark.cluster
@pytest.mark.usefixtures("one_ray")
def test_a_short_run_of_two_workers_learns_and_writes_weights_metrics_and_a_picture(tmp_path, pool, capsys):
    arguments = [
        "--output",
        str(tmp_path),
        "--pool",
        str(pool),
        "--workers",
        "2",
        "--steps",
        "40",
        "--log-every",
        "5",
        "--validation.drives",
        "1",
        "--validation.frames",
        "12",
        "--validation.every",
        "40",
        "--validation.chunk",
        "6",
        "--validation.overlap",
        "3",
        *SMALL_BATCH,
    ]
    assert main(arguments) == 0
    assert "final.safetensors" in capsys.readouterr().out
    rows = read_metrics(tmp_path / "metrics.jsonl")
    losses = [row["loss"] for row in rows if row["kind"] == "train"]
    assert losses[-1] < 0.8 * losses[0]
    assert _steps(tmp_path) == list(range(5, 41, 5))  # no step is written by both workers
    assert {row["scope"] for row in rows if row["kind"] == "validation"} == {"full", "without GCS", "without GCM"}
    assert open_checkpoint(tmp_path / "final.safetensors").config == ModelConfig.city_tiny()
    assert (tmp_path / "metrics.png").stat().st_size > 1000
    assert json.loads((tmp_path / "config.json").read_text())["steps"] == 40


@pytest.mark.full
def test_a_short_version_of_the_command_in_city_tiny_md_learns(tmp_path):
    """The command of models/weights/city_tiny.md with fewer and smaller steps."""
    card = WEIGHTS_FOLDER / "city_tiny.md"
    (command,) = re.findall(r"^    python -m jobs\.train ((?:.*\\\n)*.*)$", card.read_text(), re.MULTILINE)
    arguments = shlex.split(command.replace("\\\n", " "))
    changes = {
        "--output": str(tmp_path),
        "--weights": str(WEIGHTS_FOLDER / "city_tiny.safetensors"),
        "--steps": "16",
        "--log-every": "4",
        "--pool-drives": "2",
        "--city.clips": "3",
        "--city.fine": "0",
        "--minutes": "60",
        "--batch.frames": "24",
        "--optimizer.warmup": "2",
        "--validation.drives": "0",
    }
    assert {"--output", "--steps"} <= {a for a in arguments if a.startswith("--")}
    assert main([*arguments, *(word for change in changes.items() for word in change)]) == 0
    losses = [row["loss"] for row in read_metrics(tmp_path / "metrics.jsonl") if row["kind"] == "train"]
    assert len(losses) == 4 and losses[-1] < 0.9 * losses[0]


@pytest.mark.slow
def test_a_run_killed_with_sigkill_continues_from_its_last_checkpoint(tmp_path, pool):
    command = [*TRAIN, *_small(tmp_path, pool, "--log-every", "1", "--save-every", "2")]
    process = subprocess.Popen([*command, "--steps", "100000"], cwd=ROOT, stderr=subprocess.PIPE)
    checkpoints = tmp_path / "checkpoints"
    deadline = time.monotonic() + 200
    while not list(checkpoints.glob("step-*.safetensors")):
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    saved = max(int(p.name[5:13]) for p in checkpoints.glob("step-*.safetensors"))
    subprocess.run([*command, "--steps", str(saved + 4)], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    assert _steps(tmp_path) == list(range(1, saved + 5))  # no step twice: those after the checkpoint were made again
    assert (tmp_path / "final.safetensors").exists()


@pytest.mark.slow
def test_renderers_end_when_their_training_ends(tmp_path):
    few = ["--city.clips", "1", "--city.clip-frames", "4", "--batch.longest", "4"]
    command = [*TRAIN, *_command(tmp_path, "--pool-drives", "5000", *few)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _wait(lambda: len(list((tmp_path / "pool").glob("01*"))) >= 1)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    counts = []

    def at_rest():
        counts.append(len(list((tmp_path / "pool").iterdir())))
        time.sleep(1.5)
        return len(counts) > 2 and len(set(counts[-3:])) == 1

    _wait(at_rest)
    assert counts[-1] < 5000


def _wait(condition, seconds=200):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_full_disk_gives_one_line_and_written_files_are_kept(tmp_path, pool):
    script = (
        "import resource, signal, sys; from jobs.train import main; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (900, 900)); sys.exit(main(sys.argv[1:]))"
    )  # the kernel refuses to write past 900 bytes of any file: config.json is longer
    arguments = _small(tmp_path, pool, "--steps", "2")
    done = subprocess.run([sys.executable, "-c", script, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: training into {tmp_path} stopped") and done.stderr.count("\n") == 1
    assert "File too large" in done.stderr and not list(tmp_path.glob("**/step-*"))


def test_a_run_of_another_network_in_the_output_folder_gives_a_one_line_error(tmp_path, pool, capsys):
    arguments = _small(tmp_path, pool, "--steps", "1")
    assert main(arguments) == 0
    before = (tmp_path / "final.safetensors").read_bytes()
    assert main([*arguments, "--preset", "vit_small"]) == 1
    error = capsys.readouterr().err
    assert "is of another network: " in error and "choose another output folder" in error and error.count("\n") == 1
    assert (tmp_path / "final.safetensors").read_bytes() == before


def test_a_drive_without_poses_is_refused_in_one_line(tmp_path, capsys):
    folder = tmp_path / "drives" / "sequences" / "07" / "image_0"
    folder.mkdir(parents=True)
    Image.new("RGB", (64, 32)).save(folder / "000000.jpg")
    assert main(["--output", str(tmp_path / "run"), "--data", str(tmp_path / "drives")]) == 1
    error = capsys.readouterr().err
    assert "training needs poses" in error and error.count("\n") == 1


def test_a_loss_that_is_not_finite_stops_with_the_step_and_the_batch(tmp_path, pool, capsys):
    arguments = [
        "--output",
        str(tmp_path),
        "--pool",
        str(pool),
        "--steps",
        "30",
        "--validation.drives",
        "0",
        *SMALL_BATCH,
        "--optimizer.backbone-rate",
        "1e30",
    ]
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: loss is not finite at step") and error.count("\n") == 1
    (kept,) = tmp_path.glob("not-finite-step-*-rank-0.pt")
    saved = torch.load(kept, weights_only=True)
    assert saved["batch"]["images"].ndim == 5 and f"step {saved['step']}:" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "huge"], "no preset 'huge'; there are city_tiny, scal3r, vit_small"),
        (["--steps", "0"], "steps must be at least 1, got 0"),
        (["--weights", "nowhere.safetensors"], "no weights file at nowhere.safetensors"),
        (["--data", "/nowhere/at/all"], "nowhere"),
    ],
)
def test_bad_input_gives_a_one_line_error(tmp_path, arguments, message, capsys):
    assert main(["--output", str(tmp_path / "run"), "--renderers", "0", *arguments]) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_settings_of_a_part_that_do_not_fit_are_a_usage_error(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--output", str(tmp_path), "--batch.longest", "40"])
    assert stopped.value.code == 2
    assert "must hold one chunk of longest" in " ".join(capsys.readouterr().err.split())
