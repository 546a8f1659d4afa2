"""Documents are checked where a program can do it: files that they name exist, generated parts are up to date."""

import ast
import re
from pathlib import Path

import pytest

from jobs.benchmark import BenchmarkConfig
from jobs.drain import DrainConfig
from jobs.evaluate import EvaluateConfig
from jobs.export import ExportConfig
from jobs.realign import RealignConfig
from jobs.status import StatusConfig
from jobs.synthesize import SynthesizeConfig
from jobs.verify import VerifyConfig
from pipeline.common.settings import settings_of
from pipeline.config import RunConfig
from pipeline.fuse import FuseConfig
from pipeline.publish.exports import FORMATS
from pipeline.report import ReportConfig
from pipeline.training.config import TrainConfig
from tests.documents import PARTS, ROOT, with_part

COMMANDS = {
    "benchmark": BenchmarkConfig,
    "drain": DrainConfig,
    "evaluate": EvaluateConfig,
    "export": ExportConfig,
    "fuse": FuseConfig,
    "realign": RealignConfig,
    "reconstruct": RunConfig,
    "report": ReportConfig,
    "status": StatusConfig,
    "synthesize": SynthesizeConfig,
    "train": TrainConfig,
    "verify": VerifyConfig,
}
DOCUMENTS = sorted(p for p in ROOT.rglob("*.md") if not {".venv", ".git", "node_modules"} & set(p.parts))
FOLDERS = "pipeline|models|jobs|tests|cluster"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_file_that_a_document_names_exists(path: Path):
    named = set(re.findall(rf"`((?:{FOLDERS})/[\w/.]*)`", path.read_text()))
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_command_that_a_document_names_exists(path: Path):
    commands = set(re.findall(r"python -m ((?:jobs|models|pipeline|tests)(?:\.\w+)+)", path.read_text()))
    assert [name for name in sorted(commands) if not _module(name)] == []


def options_of(command: str) -> set[str]:
    names = {one.name for one in settings_of(COMMANDS[command])} | {"settings", "help"}
    return names | {re.sub(r"([^.]+)$", r"no-\1", name) for name in names}


def test_this_file_lists_the_settings_of_every_command():
    there = {path.stem for path in (ROOT / "jobs").glob("*.py")}
    assert there - {"__init__", "command", "options", "help_text"} == set(COMMANDS)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_option_that_a_document_gives_to_a_command_exists(path: Path):
    """The changelog is left out, because it names options that were removed."""
    if path.name == "CHANGELOG.md":
        return
    unknown = []
    for command, words in re.findall(r"jobs\.(\w+)((?:\\\n|(?!jobs\.)[^`\n#|])*)", path.read_text()):
        if command in COMMANDS:
            options = set(re.findall(r"(?<!\S)--([a-z][\w.-]*)", words))
            unknown += [f"{command} --{name}" for name in sorted(options - options_of(command))]
    assert unknown == []


@pytest.mark.parametrize(("document", "part"), PARTS, ids=lambda value: str(value))
def test_generated_parts_of_documents_are_up_to_date(document: str, part: str):
    text = (ROOT / document).read_text()
    assert with_part(text, part, PARTS[document, part]()) == text, "run `make documents`"


def test_the_readme_has_at_most_150_lines_and_1500_words():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 150
    assert len(text.split()) <= 1500


def test_every_export_format_is_described():
    described = re.findall(r"^\| (`[^|]+`) \|", (ROOT / "pipeline/publish/README.md").read_text(), re.M)
    names = {name for row in described for name in re.findall(r"`([\w-]+)`", row)}
    assert set(FORMATS) <= names


def test_functions_that_the_architecture_document_names_exist():
    text = (ROOT / "pipeline/README.md").read_text()
    named = re.findall(r"`((?:pipeline|models)/[\w/]+\.py)`, `(\w+)(?:\.\w+)?`", text)
    assert len(named) >= 3
    for path, name in named:
        names = {getattr(node, "name", "") for node in ast.walk(ast.parse((ROOT / path).read_text()))}
        assert name in names, f"{path} has no {name}"


def test_the_architecture_document_answers_ten_questions_of_a_newcomer():
    text = (ROOT / "pipeline/README.md").read_text()
    table = text.split("## Ten questions", 1)[1]
    assert len(re.findall(r"^\| .+\? \| .+ \|$", table, re.M)) == 10
    for document, title in re.findall(r'`([\w/]+\.md)`, "([^"]+)"', table):
        assert f"\n## {title}\n" in (ROOT / document).read_text(), f"{document} has no section {title}"
    changes = text.split("## I want to change X", 1)[1].split("##", 1)[0]
    assert len(re.findall(r"^\| .+ \| .*`.+` ?.*\|$", changes, re.M)) >= 15
    glossary = text.split("## Glossary", 1)[1].split("##", 1)[0]
    assert len(re.findall(r"^\| ", glossary, re.M)) >= 30


def _module(name: str) -> bool:
    path = ROOT / name.replace(".", "/")
    return path.with_suffix(".py").exists() or (path / "__main__.py").exists()
