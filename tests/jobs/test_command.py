import subprocess
import sys

import pytest

from jobs.command import run_command, settings_from
from models import CheckpointError
from pipeline.config import RunConfig
from pipeline.errors import DecodeError


@pytest.mark.parametrize("kind", [DecodeError, CheckpointError, ValueError])
def test_what_is_wrong_with_the_input_is_one_line_and_exit_code_1(kind, capsys):
    def action():
        raise kind("drive 7: frame 3 is\n  broken")

    assert run_command(action) == 1
    assert capsys.readouterr().err == "error: drive 7: frame 3 is broken\n"


def test_a_bug_shows_where_it_is(capsys):
    def action():
        raise KeyError("oops")

    assert run_command(action) == 1
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert "bug of the program" in err


def test_an_interrupt_is_no_result(capsys):
    def action():
        raise KeyboardInterrupt

    assert run_command(action) == 130
    assert "nothing unfinished counts" in capsys.readouterr().err


def test_a_reader_that_goes_early_is_no_bug():
    words = [sys.executable, "-m", "jobs.reconstruct", "--help"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline().startswith("usage:")
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141


def test_a_pipe_that_breaks_elsewhere_is_one(capsys):
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
    assert "chunk-size" in capsys.readouterr().err  # tyro says what was meant


def test_nested_settings_are_options_too():
    config = settings_from(RunConfig, ["--publish.voxel-size", "0.2"], prog="jobs.reconstruct")
    assert config.publish.voxel_size == 0.2
