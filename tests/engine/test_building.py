"""What numba keeps on disk must be found there by the next process."""

from __future__ import annotations

import errno
import fcntl
import gc
import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
import token_jobs

from engine.kernels import building
from engine.kernels.compiling import SWITCH, takes_few
from engine.kernels.functions import VECTOR_FUNCTIONS
from engine.kernels.row import Kernel
from engine.kernels.running import run_columns
from engine.kernels.table import KERNELS
from scripts.machine_code import Loop, assembly, loops

ROOT = Path(__file__).resolve().parents[2]
SESSION = """
import sys
import engine
from numba.core import event

class Compiled(event.Listener):
    def on_start(self, found):
        print(found.data["dispatcher"])

    def on_end(self, found):
        pass

event.register("numba:compile", Compiled())
engine.Session(engine.compile(sys.argv[1], confirm=False), cpus=[int(sys.argv[2])])
"""

ANOTHER = """
import fcntl, sys

take = fcntl.flock

def flock(*arguments):
    print("asks", flush=True)
    take(*arguments)

fcntl.flock = flock
from engine.kernels.building import compiled
print("found", compiled(sys.argv[1]).cache_hits)
"""
LOADED = """
import sys
from engine.kernels.building import build, compiled
from engine.kernels.running import run_columns

found = compiled(sys.argv[1]).cache_hits, sum(run_columns().stats.cache_hits.values())
print(*found, "numba.np.linalg" in sys.modules)
print(build(sys.argv[1]).address > 0, "numba.np.linalg" in sys.modules)
"""
SMALL = "neg_f32_x16"


def plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(plain, value))
    return value is None or isinstance(value, (bool, int, float, str))


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=lambda kernel: kernel.name)
def test_kernels_close_over_constants_alone(kernel: Kernel) -> None:
    """A compiled function among them has another number in each process: each would compile."""
    module, _, factory = kernel.source.partition(":")
    python = getattr(importlib.import_module(module), factory)(*kernel.arguments)
    constants = tuple(cell.cell_contents for cell in python.__closure__ or ())
    assert plain(constants), constants


def test_a_second_process_compiles_nothing(tmp_path: Path) -> None:
    onnx.save(token_jobs.proto(), tmp_path / "tokens.onnx")
    cpu = str(min(os.sched_getaffinity(0)))
    words = [sys.executable, "-c", SESSION, str(tmp_path / "tokens.onnx"), cpu]
    runs = [
        subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
        for _ in range(2)
    ]
    assert [run.returncode for run in runs] == [0, 0], runs[0].stderr
    assert runs[1].stdout == ""


@pytest.mark.skipif(not takes_few(), reason="another version of numba")
def test_what_compiling_needs_is_loaded_only_where_it_is_done() -> None:
    building.compiled(SMALL)
    run_columns()
    told = subprocess.run(
        [sys.executable, "-c", LOADED, SMALL],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert told.stdout.splitlines() == ["1 1 False", "True True"]


def test_one_process_compiles_and_the_others_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLONNADE_CACHE_DIR", str(tmp_path))
    words = [sys.executable, "-c", ANOTHER, SMALL]
    with building.kept(SMALL):
        other = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert other.stdout is not None
        assert other.stdout.readline() == "asks\n"
        building.build(SMALL, cache=True)
    assert other.communicate()[0] == "found 1\n"
    assert other.returncode == 0


def test_a_folder_without_locks_is_no_reason_to_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("COLONNADE_CACHE_DIR", str(tmp_path / "file"))
    with building.kept(SMALL):
        pass
    monkeypatch.setenv("COLONNADE_CACHE_DIR", str(tmp_path))
    with monkeypatch.context() as patched:
        patched.setattr(fcntl, "flock", refuse)
        with building.kept(SMALL):
            pass


def refuse(*_: object) -> None:
    raise OSError(errno.ENOLCK, "no locks available")


def test_what_compiles_is_collected_for_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLONNADE_CACHE_DIR", str(tmp_path))
    with pytest.raises(KeyboardInterrupt), building.kept(SMALL):
        assert not gc.isenabled()
        raise KeyboardInterrupt
    assert gc.isenabled()


def test_versions_of_numba_that_were_not_tried_take_its_own_passes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert takes_few() and not takes_few("0.69.0") and not takes_few("1.0.0rc1")
    monkeypatch.setenv(SWITCH, "all")
    assert not takes_few()


@pytest.mark.parametrize("name", ["spmm_f32_blk4x16", "layernorm_f32_x16"])
def test_few_passes_make_the_loops_of_all(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = []
    for passes in ("few", "all"):
        monkeypatch.setenv(SWITCH, passes)
        texts.append(assembly([name], "avx2")[name])
    few, whole = ([_vector_instructions(loop) for loop in loops(text)] for text in texts)
    assert few and few == whole
    assert texts[0] != texts[1], "the same passes twice"


def _vector_instructions(loop: Loop) -> list[str]:
    """Registers have other numbers, conditions other signs, and what needs no order another one."""
    return sorted(name for name in (line.split()[0] for line in loop.lines) if name[0] == "v")


@pytest.mark.skipif(not takes_few(), reason="another version of numba")
def test_parts_of_kernels_refuse_python() -> None:
    building.build(SMALL)
    part = VECTOR_FUNCTIONS["Neg"]
    assert part.signatures
    with pytest.raises(TypeError):
        part.get_compile_result(part.nopython_signatures[0]).entry_point(1, 2, 3)
