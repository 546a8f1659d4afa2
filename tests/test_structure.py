"""Rules that import-linter cannot express: which files may use Ray and a process group, lengths, docstrings, Any."""

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PRODUCT = sorted(p for folder in ("models", "pipeline", "jobs") for p in (ROOT / folder).rglob("*.py"))


@cache
def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def users_of(module: str) -> set[str]:
    def uses(path: Path) -> bool:
        return any(name == module or name.startswith(module + ".") for name in imported(path))

    return {str(p.relative_to(ROOT)) for p in PRODUCT if uses(p)}


def test_collectives_live_in_one_place():
    # training needs a differentiable sum: a different collective in its own file
    allowed = {
        "pipeline/forward/memory_sync.py",
        "pipeline/training/group_sync.py",
        "pipeline/training/launch.py",
        "pipeline/benchmark/allreduce.py",
        "pipeline/common/process_group.py",  # ranks find each other here; no collective
    }
    assert users_of("torch.distributed") <= allowed


def test_only_these_files_import_ray():
    allowed = {
        "pipeline/ingest/frames.py",
        "pipeline/ingest/scan.py",  # streams of frames; the scan of a whole drive
        "pipeline/forward/worker.py",
        "pipeline/forward/group.py",
        "pipeline/forward/gpus.py",  # what GPUs the cluster has
        "pipeline/common/ray_session.py",
        "pipeline/training/launch.py",  # joins or starts Ray; a group that trains
        "pipeline/common/process_group.py",  # how ranks of a group find each other
        "pipeline/common/metrics.py",  # Ray's counters, which the metrics page shows
        "pipeline/fleet/schedule/runtime.py",
        "pipeline/fleet/schedule/group_size.py",  # which nodes are alive; how large the cluster is
        "pipeline/fleet/schedule/finisher.py",  # tasks that join and publish
        "pipeline/fleet/plan/parallel_planner.py",  # processes that plan beside the driver
        "pipeline/fleet/verify_output.py",  # tasks that check
        "pipeline/fuse/tasks.py",  # tasks that compare drives and write tiles
        "pipeline/refined_drive.py",  # tasks that adjust windows
    }
    assert users_of("ray") <= allowed


def test_no_file_has_more_than_400_lines():
    written = [*PRODUCT, *(ROOT / "tests").rglob("*.py"), *(ROOT / "cluster").rglob("*.py")]
    written += [path for ending in ("js", "css", "html") for path in (ROOT / "pipeline").rglob(f"*.{ending}")]
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in written}
    assert {name: length for name, length in lengths.items() if length > 400} == {}


def test_few_imports_connect_the_rooms_of_the_fleet():
    """import-linter checks their direction; this test counts them."""
    fleet, doors = ROOT / "pipeline/fleet", set()
    for path in fleet.rglob("*.py"):
        room = path.relative_to(fleet).parts[0].removesuffix(".py")
        named = {name.split(".")[2] for name in imported(path) if name.startswith("pipeline.fleet.")}
        doors |= {(room, other) for other in named if other != room}
    assert len(doors) <= 16, sorted(doors)


@cache
def mentions_of_any() -> list[tuple[str, str, str]]:
    """Every use of the type Any in the product: file and line number, the line, the line before."""
    found = []
    for path in [*PRODUCT, *(ROOT / "cluster").rglob("*.py")]:
        text = path.read_text()
        if "Any" not in text:
            continue
        lines = text.splitlines()
        numbers = {node.lineno for node in ast.walk(ast.parse(text)) if is_any(node)}
        for number in sorted(numbers):
            found.append((f"{path.relative_to(ROOT)}:{number}", lines[number - 1], lines[number - 2]))
    return found


def is_any(node: ast.AST) -> bool:
    return (
        (isinstance(node, ast.Name) and node.id == "Any")
        or (isinstance(node, ast.Attribute) and node.attr == "Any")
        or (isinstance(node, ast.alias) and node.name == "Any")
    )


def test_the_type_any_is_used_rarely():
    assert len(mentions_of_any()) < 60


def test_each_use_of_any_has_its_reason_beside_it():
    used = [one for one in mentions_of_any() if not one[1].startswith("from typing import")]
    assert [one[0] for one in used if "#" not in one[1] and not one[2].lstrip().startswith("#")] == []


@pytest.mark.parametrize("path", PRODUCT, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_file_says_what_it_is_for(path):
    assert ast.get_docstring(ast.parse(path.read_text())), f"{path} has no docstring"


def test_nothing_unsafe_is_loaded():
    text = {p: p.read_text() for p in PRODUCT}
    assert [p for p, t in text.items() if "weights_only=False" in t or "allow_pickle=True" in t] == []
