"""Command lines are made from settings: --help, positional values, a settings file, misspelt options."""

import importlib
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from jobs.command import settings_from
from jobs.export import ExportConfig
from jobs.train import TrainConfig
from pipeline.common.settings import POSITIONAL, setting, settings_of
from pipeline.config import RunConfig

COMMANDS = sorted(
    path.stem
    for path in (Path(__file__).parents[2] / "jobs").glob("*.py")
    if path.stem not in ("__init__", "command", "options", "help_text")
)


def help_of(module, capsys, *words):
    with pytest.raises(SystemExit) as leaving:
        importlib.import_module(module).main([*words, "--help"])
    assert leaving.value.code == 0
    return capsys.readouterr().out


def options(text):
    return re.findall(r"^  (?:[A-Z]+, |-h, )?--(\S+)", text, re.M)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_shows_at_most_forty_options(command, capsys):
    shown = options(help_of(f"jobs.{command}", capsys))
    assert 2 <= len(shown) <= 40
    assert {"settings", "help"} <= set(shown)


def test_help_of_jobs_reconstruct_is_grouped_by_what_a_user_wants(capsys):
    said = help_of("jobs.reconstruct", capsys)
    assert re.findall(r"^(\S.*):$", said, re.M) == [
        "input",
        "output",
        "what runs where",
        "quality",
        "many drives",
        "more",
    ]
    assert "pipeline/settings.md" in said


def test_every_setting_of_jobs_reconstruct_has_a_group_or_is_for_experts():
    assert [one.name for one in settings_of(RunConfig) if not one.expert and one.group is None] == []
    assert [one.name for one in settings_of(RunConfig) if one.expert and one.group is not None] == []


@pytest.mark.parametrize("kind", [RunConfig, TrainConfig])
def test_every_setting_has_a_description(kind):
    assert [one.name for one in settings_of(kind) if not one.text] == []


def test_a_benchmark_shows_the_settings_of_its_subject(capsys):
    assert "decode.frames" not in options(help_of("jobs.benchmark", capsys))
    assert "decode.frames" in options(help_of("jobs.benchmark", capsys, "--what", "decode"))


def test_expert_settings_are_read_from_the_command_line_and_from_a_file(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text("[backend]\nmax-pixels = 512\n[backend.quality]\nnoise_warn = 3\n[fleet]\nlease_s = 30")
    config = settings_from(RunConfig, ["--settings", str(file), "--backend.max-pixels", "99"], prog="jobs.reconstruct")
    assert (config.backend.max_pixels, config.backend.quality.noise_warn, config.fleet.lease_s) == (99, 3.0, 30.0)


@pytest.mark.parametrize("words", [["DRIVE", "--stride", "2"], ["--stride", "2", "DRIVE"], ["--stride=2", "DRIVE"]])
def test_the_input_may_be_given_without_its_option(words):
    config = settings_from(RunConfig, [*words, "--no-loops"], prog="jobs.reconstruct")
    assert (config.input, config.stride, config.loops) == ("DRIVE", 2, False)


def test_positional_values_fill_the_fields_that_have_no_value_yet():
    def given(*words):
        config = settings_from(ExportConfig, [*words, "--to", "x", "--format", "ply", "tum"], prog="jobs.export")
        return config.output, config.drive, config.format

    assert (
        given("out", "7") == given("--output", "out", "7") == given("7", "--output=out") == ("out", "7", ("ply", "tum"))
    )


def test_an_option_of_several_values_takes_all_values_that_follow():
    words = ["out", "7", "--to", "x", "--format", "ply", "--frames", "3", "9", "--box", "-1", "-2", "-3", "1", "2", "3"]
    config = settings_from(ExportConfig, [*words, "--images"], prog="jobs.export")
    assert (config.selection.frames, config.images) == ((3, 9), True)
    assert np.ravel(config.selection.box).tolist() == [-1, -2, -3, 1, 2, 3]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a", "b"], "'b' belongs to no option; --input has a value already"),
        (["--input", "a", "b"], "'b' belongs to no option"),
        (["--strid", "2"], "no option --strid; did you mean --stride?"),
        (["--voxel-size", "2"], "no option --voxel-size; did you mean --publish.voxel-size?"),
        (["--backend.noise-warn", "2"], "did you mean --backend.quality.noise-warn?"),
        (["--barrier_timeout", "2"], "did you mean --fleet.barrier-timeout-s?"),
        (["--no-loop"], "did you mean --no-loops?"),
        (["--xyz=3"], "did you mean --"),
    ],
)
def test_an_unknown_option_gives_one_line_with_the_nearest_option(words, message, capsys):
    with pytest.raises(SystemExit) as leaving:
        settings_from(RunConfig, words, prog="jobs.reconstruct")
    assert leaving.value.code == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


@dataclass(frozen=True)
class Inner:
    """A section."""

    depth: int = setting(3, expert=True)
    """How deep."""


@dataclass(frozen=True)
class Outer:
    """A command with a field that must be given."""

    output: str = field(metadata=POSITIONAL)
    """Where."""
    inner: Inner = setting(Inner())
    least: int = 1
    """The least."""

    def __post_init__(self):
        if self.inner.depth < self.least:
            raise ValueError("--inner.depth is too small")


def test_a_settings_file_may_leave_out_required_settings(tmp_path):
    file = tmp_path / "some.toml"
    file.write_text("least = 4\n[inner]\ndepth = 5")
    config = settings_from(Outer, ["--settings", str(file), "there"], prog="jobs.some")
    assert config == Outer("there", Inner(5), 4)
    with pytest.raises(ValueError, match="too small"):
        settings_from(Outer, ["--settings", str(file), "there", "--inner.depth", "2"], prog="jobs.some")
    file.write_text("output = 'here'\nlest = 4")
    with pytest.raises(ValueError, match="unknown key 'lest'; did you mean 'least'"):
        settings_from(Outer, ["--settings", str(file)], prog="jobs.some")
    file.write_text("output = 'here'")
    assert settings_from(Outer, ["--settings", str(file)], prog="jobs.some") == Outer("here")


def test_values_of_a_settings_file_replace_the_defaults_of_a_command(tmp_path):
    file = tmp_path / "some.toml"
    file.write_text("[inner]\ndepth = 5")
    begin = Outer("there", Inner(9), 2)
    assert settings_from(Outer, ["--settings", str(file)], prog="x", default=begin) == Outer("there", Inner(5), 2)
    assert settings_from(Outer, [], prog="x", default=begin) == begin
