"""The staircase jobs -> pipeline -> engine -> numa, the homes of third parties, and the sizes."""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

STAIRCASE = ("jobs", "pipeline", "engine", "numa")
"""A file imports its own package and those to the right of it."""

HOMES = {
    "click": ("jobs",),
    "rich": ("jobs",),
    "ray": ("jobs",),
    "prometheus_client": ("jobs/metrics",),
    "pyarrow": ("pipeline",),
    "xxhash": ("pipeline/checksums",),
    "onnx": ("engine/reader", "engine/reference"),
    "google": ("engine/reader", "engine/reference"),
    "numba": ("engine/kernels",),
    "llvmlite": ("engine/kernels",),
    "psutil": ("numa",),
    "numpy": ("engine", "pipeline"),
    "onnxruntime": ("engine/rival",),
    "tokenizers": ("pipeline/text",),
    "PIL": ("pipeline/pictures",),
}
"""Where each third party may be imported: modules or packages. Nothing else may be imported."""

OPTIONAL = frozenset({"onnxruntime", "tokenizers", "PIL"})
"""Third parties that only an extra brings; they are imported where they are used, if at all."""

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
"""First line to last, docstring and all. Kernels are long by nature and not counted."""

FILES = sorted(p.relative_to(ROOT).as_posix() for r in STAIRCASE for p in (ROOT / r).rglob("*.py"))


@cache
def tree(path: str) -> ast.Module:
    return ast.parse((ROOT / path).read_text(encoding="utf-8"), filename=path)


def imports(module: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and dotted name of each import, at the top or within; relative ones start with '.'."""
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, "." * node.level + (node.module or "")


def complaint(path: str, name: str) -> str | None:
    """Why the file at `path` may not import `name`, or None."""
    room, top = path.split("/", 1)[0], name.split(".", 1)[0]
    if name.startswith("."):
        return "relative import"
    if top in STAIRCASE:
        if STAIRCASE.index(top) < STAIRCASE.index(room):
            return f"{room} stands to the right of {top}"
        return None
    if top in HOMES:
        at_home = any(path == f"{home}.py" or path.startswith(f"{home}/") for home in HOMES[top])
        return None if at_home else f"{top} lives in {', '.join(HOMES[top])}"
    return None if top in sys.stdlib_module_names else f"{top} has no home here"


@pytest.mark.parametrize("path", FILES)
def test_imports_go_down_the_staircase_and_third_parties_stay_at_home(path: str) -> None:
    found = [
        f"{path}:{line}: {name}: {why}"
        for line, name in imports(tree(path))
        if (why := complaint(path, name))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("path", "name", "allowed"),
    [
        ("numa/topology.py", "engine.graph", False),
        ("engine/graph.py", "pipeline", False),
        ("pipeline/plan.py", "jobs.cli", False),
        ("jobs/cli.py", "numa.topology", True),
        ("engine/graph.py", "engine.errors", True),
        ("engine/graph.py", ".errors", False),
        ("pipeline/reader.py", "pyarrow.parquet", True),
        ("jobs/driver.py", "pyarrow", False),
        ("engine/reader.py", "onnx", True),
        ("engine/reader/tensors.py", "onnx", True),
        ("engine/reader_of_all.py", "onnx", False),
        ("engine/rewrites/folding.py", "onnx.helper", False),
        ("engine/kernels/dense.py", "numba", True),
        ("engine/program.py", "numba", False),
        ("jobs/cli.py", "pandas", False),
        ("numa/memory.py", "ctypes", True),
    ],
)
def test_the_rule_itself_tells_good_from_bad(path: str, name: str, allowed: bool) -> None:
    assert (complaint(path, name) is None) is allowed


def test_imports_within_functions_are_seen() -> None:
    module = ast.parse("def f():\n    if x:\n        from jobs import cli\n    import ray.data\n")
    assert sorted(imports(module)) == [(3, "jobs"), (4, "ray.data")]


def test_every_room_has_files() -> None:
    assert {path.split("/", 1)[0] for path in FILES} == set(STAIRCASE)


@pytest.mark.parametrize("path", FILES)
def test_files_and_functions_stay_small(path: str) -> None:
    lines = len((ROOT / path).read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_FILE_LINES, f"{path}: {lines} lines; split it by what it is about"
    if path.startswith("engine/kernels/"):
        return
    long = [
        f"{path}:{node.lineno}: {node.name} has {length} lines"
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := (node.end_lineno or 0) - node.lineno + 1) > MAX_FUNCTION_LINES
    ]
    assert not long, "\n".join(long)


@pytest.mark.parametrize("name", [*STAIRCASE, "scripts"])
def test_the_package_imported_is_ours(name: str) -> None:
    """The registry has other distributions that import as numa."""
    module = importlib.import_module(name)
    assert Path(module.__file__ or "").parent == ROOT / name
