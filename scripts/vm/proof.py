"""A whole job in the emulated machine, one scorer a NUMA node, against the same job run here:

    .venv/bin/python -m scripts.vm.proof --nodes 4

Prints for each scorer where its threads and its memory lie, counted page by page by the scorer
itself, and whether the parts equal, byte for byte, those of one engine on this machine.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq

from numa.notation import size
from scripts.machine_code import TIERS
from scripts.models.mlp import mlp
from scripts.vm import witness
from scripts.vm.machine import run
from scripts.vm.parts import Parts, find
from scripts.vm.shape import Shape

SIZES = (256, 512, 64)
"""Features of the model: half a megabyte of weights, a hundred pages of each kind."""
GROUPS, ROWS = 12, 100
"""Row groups, each a shard, and the rows of each."""
TIER = "avx2"
"""What the emulated processor has; machine code is made for it here, where that is quick."""
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Proof:
    """What became of the job."""

    exit_code: int
    summary: dict[str, Any]
    """As `colonnade run --json` printed it."""
    witnesses: list[dict[str, Any]]
    """What each scorer found of itself (scripts/vm/witness.py), by node."""
    parts: dict[str, bytes]
    here: dict[str, bytes]
    """Parts by name, of the machine with several nodes and of this one."""

    def __str__(self) -> str:
        lines = [f"exit code {self.exit_code}, {self.summary['rows_out']:,} rows"]
        lines += [line for found in self.witnesses for line in _lines(found)]
        same = "the same bytes as" if self.parts == self.here else "OTHER BYTES than"
        return "\n".join([*lines, f"{len(self.parts)} parts: {same} one engine's on this machine"])


def _lines(found: dict[str, Any]) -> list[str]:
    threads = ", ".join(sorted(set(found["threads"])))
    kinds = ("weights", "panels", "arrow")
    pages = [f"{kind} {_by_node(found[kind])}" for kind in kinds]
    return [
        f"scorer on node {found['node']}, cpus {found['cpus']}: "
        f"{len(found['threads'])} threads on {threads}",
        f"  {'; '.join(pages)}",
    ]


def _by_node(pages: dict[str, int]) -> str:
    return (
        ", ".join(f"{size(nbytes)} on node {node}" for node, nbytes in sorted(pages.items()))
        or "none"
    )


def job(folder: Path, output: str, *more: str) -> list[str]:
    """The command line of the job whose model and data `write` made. Kernels are not timed against
    each other: emulated, another one might win, and kernels differ in the order they add."""
    return [
        str(ROOT / ".venv/bin/python"), "-m", "jobs.cli", "run",
        "--model", str(folder / "model.onnx"), "--input", str(folder / "data.parquet"),
        "--output", str(folder / output), "--after", f"{witness.__name__}:look",
        "--off", "confirm", "--report", "none", "--progress", "none", "--json", *more,
    ]  # fmt: skip


def environment(folder: Path) -> dict[str, str]:
    """For both machines: the same machine code, and where the guest's scorers bear witness."""
    name, features = TIERS[TIER]
    return {"NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": features, witness.FOLDER: str(folder)}


def write(folder: Path) -> None:
    """A sparse model and a dataset, both small, since every instruction is emulated."""
    onnx.save(mlp(SIZES, sparsity=0.9, seed=3), folder / "model.onnx")
    rows = np.random.default_rng(3).standard_normal((GROUPS * ROWS, SIZES[0]), np.float32)
    x = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), SIZES[0])
    table = pa.table({"id": np.arange(len(rows)), "x": x})
    pq.write_table(table, folder / "data.parquet", row_group_size=ROWS)


def run_here(folder: Path) -> None:
    """One engine on this machine, which also leaves the machine code for the other."""
    told = {k: v for k, v in environment(folder).items() if k != witness.FOLDER}
    subprocess.run(
        job(folder, "here", "--engines", "1", "--threads", "1"),
        env={**os.environ, **told}, cwd=ROOT, check=True, capture_output=True, timeout=300,
    )  # fmt: skip


def guest_command(folder: Path, shape: Shape, *more: str) -> str:
    """What the emulated machine is to run; `read` makes a Proof of what it leaves."""
    scorers = more[more.index("--engines") + 1] if "--engines" in more else shape.nodes
    told = [f"{name}={value}" for name, value in environment(folder).items()]
    told.append(f"{witness.COUNT}={scorers}")
    command = shlex.join(["env", *told, *job(folder, "there", *more)])
    return f"cd {shlex.quote(str(ROOT))}; {command} >{shlex.quote(str(folder / 'summary.json'))}"


def read(folder: Path, exit_code: int) -> Proof:
    lines = (folder / witness.FILE).read_text().splitlines()
    return Proof(
        exit_code,
        json.loads((folder / "summary.json").read_text() or "{}"),
        sorted(map(json.loads, lines), key=lambda found: str(found["cpus"])),
        _parts(folder / "there"),
        _parts(folder / "here"),
    )


def _parts(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("part-*"))}


def prove(parts: Parts, shape: Shape, folder: Path, *more: str) -> Proof:
    """Runs the job here, then there; `more` are words of `colonnade run` for there."""
    write(folder)
    run_here(folder)
    code = run(parts, shape, guest_command(folder, shape, *more), writable=[folder])
    return read(folder, code)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--nodes", default="2", help="as for scripts/numa_vm")
    parser.add_argument("--sockets", type=int, default=0, help="as for scripts/numa_vm")
    parser.add_argument("more", nargs="*", help="options of `colonnade run`, behind --")
    options = parser.parse_args(arguments)
    shape = Shape.parse(options.nodes, sockets=options.sockets)
    with tempfile.TemporaryDirectory() as name:
        proof = prove(find(), shape, Path(name), *options.more)
    print(proof)
    return proof.exit_code or int(proof.parts != proof.here)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
