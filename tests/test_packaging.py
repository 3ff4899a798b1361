"""What the packaging and the README claim, against what is here."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from test_staircase import HOMES, OPTIONAL, STAIRCASE

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
COMMANDS = ("scripts/demo", "scripts/test", "scripts/numa_vm", ".ci/run")


@pytest.mark.parametrize("line", [*PROJECT["dependencies"], *EXTRAS["dev"]])
def test_what_is_installed_is_not_below_the_floor(line: str) -> None:
    requirement = Requirement(line)
    assert [s.operator for s in requirement.specifier] == [">="], "one floor, no ceiling"
    installed = importlib.metadata.version(requirement.name)
    assert requirement.specifier.contains(installed, prereleases=True), installed


def test_every_third_party_that_is_imported_is_a_dependency() -> None:
    # These come with a distribution of another name.
    brought = {
        "google": "onnx", "llvmlite": "numba", "PIL": "pillow",
        "prometheus_client": "prometheus-client",
    }  # fmt: skip
    optional = {brought.get(name, name) for name in OPTIONAL}
    wanted = {brought.get(name, name) for name in HOMES}
    assert wanted - optional == {Requirement(line).name for line in PROJECT["dependencies"]}
    assert wanted & optional <= {Requirement(line).name for e in EXTRAS.values() for line in e}


def test_the_changelog_speaks_of_this_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## \[([^\]]+)\]", changelog, flags=re.MULTILINE)
    assert versions[0] in ("Unreleased", PROJECT["version"])
    assert PROJECT["version"] in versions


@pytest.mark.parametrize("path", COMMANDS)
def test_a_command_is_executable_and_parses(path: str) -> None:
    assert os.access(ROOT / path, os.X_OK)
    bash = shutil.which("bash")
    assert bash
    subprocess.run([bash, "-n", ROOT / path], check=True)


def test_the_readme_names_the_two_commands_and_files_that_exist() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "./scripts/demo" in readme and "./scripts/test" in readme
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)\)", readme)
    assert links
    for link in [*links, "LICENSE"]:
        assert (ROOT / link).exists(), f"README.md: {link}"


def test_the_readme_names_every_option_of_run() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", "from jobs.cli import main; main(['run', '--help'])"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    options = set(re.findall(r"--[a-z][a-z-]+", done.stdout)) - {"--help"}
    missing = sorted(o for o in options if o not in readme)
    assert len(options) > 10 and not missing, f"README.md does not name {missing}"


@pytest.mark.parametrize("room", STAIRCASE)
def test_the_architecture_names_every_module_and_none_that_is_gone(room: str) -> None:
    """Names at the top of a room; what a package below holds is that package's own to say."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    drawing = re.search(rf"^{room}/ .*?(?=^\S)", text, flags=re.MULTILINE | re.DOTALL)
    assert drawing
    lines = drawing.group().splitlines()
    named = {n for line in lines for n in re.findall(r"[a-z_]+(?:\.py\b|/(?=\s))", line)}
    here = {
        entry.name + ("/" if entry.is_dir() else "")
        for entry in (ROOT / room).iterdir()
        if entry.suffix == ".py" or (entry / "__init__.py").exists()
    }
    within = {path.name for path in (ROOT / room).rglob("*.py")}
    unnamed = sorted(here - named - {"__init__.py", "errors.py"})
    assert not unnamed, f"ARCHITECTURE.md: expected {unnamed} in the drawing of {room}/"
    gone = sorted(named - here - within - {f"{room}/"})
    assert not gone, f"ARCHITECTURE.md: {gone} are gone from {room}/"
