"""The README is checked: its commands run unchanged, its files exist, CI runs its set-up lines."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = [line.strip() for line in README.splitlines() if line.startswith("    python ")]


@pytest.mark.full  # .ci/run runs the two set-up lines; tests/test_wheel.py runs every job from an empty folder
@pytest.mark.cluster
@pytest.mark.timeout(600)
def test_every_command_of_the_readme_runs_in_an_empty_folder(tmp_path):
    assert len(COMMANDS) >= 4
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for command in COMMANDS:
        done = subprocess.run(command, shell=True, cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stderr[-2000:]}"
    assert (tmp_path / "out" / "00" / "manifest.json").is_file()
    assert (tmp_path / "out" / "short" / "manifest.json").is_file()


@pytest.mark.parametrize("name", ["setup-run", "setup-test"])
def test_ci_finds_the_set_up_lines(name):
    after = README.split(f"<!-- {name} -->", 1)[1].splitlines()
    line = next(text for text in after if text.startswith("    "))
    assert "pip install" in line


def test_the_tree_in_the_readme_names_every_top_level_folder_of_the_product():
    for folder in ("models/", "pipeline/", "jobs/", "tests/"):
        assert re.search(rf"^    {folder}", README, re.M)


def test_every_dependency_says_why_it_is_there():
    text = (ROOT / "pyproject.toml").read_text()
    block = text.split("\ndependencies = [", 1)[1].split("\n]", 1)[0]
    lines = [line for line in block.splitlines() if line.strip()]
    assert len(lines) > 10
    assert [line for line in lines if "#" not in line] == []
