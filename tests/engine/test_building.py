"""What numba keeps on disk must be found there by the next process."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
import token_jobs

from engine.kernels.row import Kernel
from engine.kernels.table import KERNELS

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
