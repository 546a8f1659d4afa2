import errno
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from jobs.command import run_command, settings_from
from models import CheckpointError
from pipeline.config import RunConfig
from pipeline.errors import DecodeError

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("kind", [DecodeError, CheckpointError, ValueError])
def test_an_error_in_the_input_gives_one_line_and_exit_code_1(kind, capsys):
    def action():
        raise kind("drive 7: frame 3 is\n  broken")

    assert run_command(action) == 1
    assert capsys.readouterr().err == "error: drive 7: frame 3 is broken\n"


def test_a_bug_is_printed_with_its_traceback(capsys):
    def action():
        raise KeyError("oops")

    assert run_command(action) == 1
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert "bug of the program" in err


def test_a_full_local_disk_is_one_line_that_names_the_folder(capsys):
    def full():
        raise OSError(errno.ENOSPC, "No space left on device")

    assert run_command(full) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and tempfile.gettempdir() in said and "TMPDIR" in said


def test_letters_of_paths_are_kept_with_an_ascii_locale(tmp_path):
    folder = tmp_path / "Straße_東京"
    folder.mkdir()
    ascii_only = {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    words = [sys.executable, "-m", "jobs.status", "--output", str(folder)]
    said = subprocess.run(
        words, cwd=ROOT, env={**os.environ, **ascii_only}, capture_output=True, text=True, timeout=100
    )
    assert str(folder) in said.stdout + said.stderr and "\\udc" not in said.stdout + said.stderr


def test_characters_that_the_terminal_cannot_show_are_escaped(tmp_path):
    words = [sys.executable, "-m", "jobs.status", "--output", str(tmp_path / "東")]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    said = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100)
    assert "Traceback" not in said.stderr and "\\u6771" in said.stdout + said.stderr


def test_a_deleted_current_folder_gives_a_one_line_error(tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    words = f'rmdir "$PWD"; exec "{sys.executable}" -m jobs.status --output {tmp_path}'
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    said = subprocess.run(words, shell=True, cwd=gone, env=environment, capture_output=True, text=True, timeout=100)
    assert (said.returncode, said.stderr) == (1, "error: the current folder was deleted; change to one that exists\n")


def test_an_interrupted_command_ends_with_130_and_says_so(capsys):
    def action():
        raise KeyboardInterrupt

    assert run_command(action) == 130
    assert "nothing unfinished counts" in capsys.readouterr().err


BEHIND_A_PIPE = """
import sys
from jobs.command import run_command
def action():
    print({said})
    sys.stdin.read()  # until the reader is gone
    {then}
sys.exit(run_command(action))
"""


@pytest.mark.parametrize(
    ("said", "then", "code", "error"),
    [
        ("'x' * 9", "print('y' * 200_000)", 141, ""),
        ("'x' * 9", "pass", 141, ""),
        ("'x' * 9", "raise SystemExit(0)", 141, ""),
        ("'x' * 9", "raise ValueError('no such drive')", 1, "error: no such drive\n"),
        ("'x' * 9", "raise KeyboardInterrupt", 130, "interrupted; nothing unfinished counts as a result\n"),
    ],
)
def test_a_closed_output_pipe_is_not_reported_as_a_bug_and_errors_are_still_shown(said, then, code, error):
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    words = [sys.executable, "-c", BEHIND_A_PIPE.format(said=said, then=then)]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, cwd=ROOT, env=env, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        process.stdout.close()
        said = process.communicate("go")[1]
    assert said.startswith(error) if error else not said
    assert process.returncode == code


def test_a_broken_pipe_of_a_socket_is_reported_as_a_bug(capsys):
    def action():
        raise BrokenPipeError("of a socket")

    assert run_command(action) == 1
    assert "bug of the program" in capsys.readouterr().err


def test_a_command_that_works_exits_with_0():
    assert run_command(lambda: None) == 0


def test_a_settings_file_gives_defaults_that_the_command_line_overrides(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text("chunk_size = 20\nworkers = 2\n")
    config = settings_from(RunConfig, ["--settings", str(path), "--workers", "3"], prog="jobs.reconstruct")
    assert (config.chunk_size, config.workers) == (20, 3)


def test_settings_without_a_file_are_refused():
    with pytest.raises(ValueError, match="--settings needs"):
        settings_from(RunConfig, ["--settings"], prog="jobs.reconstruct")


def test_an_unknown_option_is_a_usage_error(capsys):
    with pytest.raises(SystemExit) as caught:
        settings_from(RunConfig, ["--chunk-sise", "3"], prog="jobs.reconstruct")
    assert caught.value.code == 2
    assert "did you mean --chunk-size?" in capsys.readouterr().err


def test_nested_settings_are_options_too():
    config = settings_from(RunConfig, ["--publish.voxel-size", "0.2"], prog="jobs.reconstruct")
    assert config.publish.voxel_size == 0.2
