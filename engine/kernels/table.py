"""KERNELS: every piece of machine code the engine can run, one row each.

A kernel that is not in the table does not exist; one that is, is tested (tests/engine/
test_kernels.py runs every row against numpy) and, where it does the multiply-adds, timed
(scripts/bench_kernels.py). This file does not import numba: reading it costs nothing.

Every kernel is called alike, with five int64:

    step     address of its words: word 0 is the kernel's own address, the others are listed in
             its docstring. A panel is an offset into the arena, all else an address or a number.
    arena    address of the thread's arena, 64-byte aligned
    row      first row of the column in the batch
    live     how many of the tile's T points are rows that exist, 1..T
    borders  address of a table of addresses: the batch's input and output arrays

Names: operation, element type, structure, points: `spmm_f32_sell4x16` multiplies sparse weights in
slices of 4 rows by tiles of 16 points.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

POINTS = 16
"""T: points of a register tile, and of a column. 8 accumulators of 4 rows x 16 points on AVX2.

With 32 points the accumulators spill (50 GFLOP/s), with 8 a broadcast serves half as much work
(49 GFLOP/s, against 62 here): 2048x2048, 90 % zeros, Zen 3, 2026-11."""

Family = Literal["linear", "unary", "binary", "constant", "softmax", "import", "export"]


@dataclass(frozen=True, slots=True)
class Kernel:
    """One row: a name, what it is for, and where its code is made."""

    name: str
    family: Family
    source: str
    """`module:function`; the function, called with `arguments`, gives the code to compile."""
    arguments: tuple[str | int | bool, ...]
    structure: str = ""
    """For a linear kernel: how its weights are packed (a row of packing.PACKINGS)."""


UNARY_NAMES = (
    "Abs",
    "Clip",
    "Elu",
    "Erf",
    "Exp",
    "Gelu",
    "GeluTanh",
    "HardSigmoid",
    "HardSwish",
    "LeakyRelu",
    "Log",
    "Neg",
    "Reciprocal",
    "Relu",
    "Sigmoid",
    "Silu",
    "Softplus",
    "Sqrt",
    "Square",
    "Tanh",
)
BINARY_NAMES = ("Add", "Div", "Mul", "Sub")
IMPORTS = {
    "float32": 4,
    "float64": 8,
    "uint8": 1,
    "int8": 1,
    "uint16": 2,
    "int16": 2,
    "uint32": 4,
    "int32": 4,
    "uint64": 8,
    "int64": 8,
    "bool": 1,
}
"""Element types a batch may come in, and their bytes; each is rounded to float32."""

_ELEMENTWISE = "engine.kernels.elementwise"
_BORDERS = "engine.kernels.borders"

_ROWS = (
    Kernel(f"spmm_f32_sell4x{POINTS}", "linear", "engine.kernels.spmm:sell4", (POINTS,), "sell4"),
    Kernel(f"spmm_f32_blk4x{POINTS}", "linear", "engine.kernels.spmm:blk4", (POINTS,), "blk4"),
    Kernel(f"gemm_f32_4x{POINTS}", "linear", "engine.kernels.gemm:dense4", (POINTS,), "dense4"),
    *(
        Kernel(f"{name.lower()}_f32_x{POINTS}", "unary", f"{_ELEMENTWISE}:unary", (POINTS, name))
        for name in UNARY_NAMES
    ),
    *(
        Kernel(f"{name.lower()}_f32_x{POINTS}", "binary", f"{_ELEMENTWISE}:binary", (POINTS, name))
        for name in BINARY_NAMES
    ),
    *(
        Kernel(
            f"{name.lower()}{'_constant_first' if first else '_constant'}_f32_x{POINTS}",
            "constant",
            f"{_ELEMENTWISE}:binary_constant",
            (POINTS, name, first),
        )
        for name in BINARY_NAMES
        for first in (False, True)
    ),
    Kernel(f"softmax_f32_x{POINTS}", "softmax", f"{_ELEMENTWISE}:softmax", (POINTS, False)),
    Kernel(f"logsoftmax_f32_x{POINTS}", "softmax", f"{_ELEMENTWISE}:softmax", (POINTS, True)),
    *(
        Kernel(f"import_{e}_x{POINTS}", "import", f"{_BORDERS}:import_rows", (POINTS, e, nbytes))
        for e, nbytes in IMPORTS.items()
    ),
    Kernel(f"export_f32_x{POINTS}", "export", f"{_BORDERS}:export_rows", (POINTS,)),
)
KERNELS: dict[str, Kernel] = {row.name: row for row in _ROWS}
"""By name, in the order of families."""


def kernels_of(family: Family) -> tuple[Kernel, ...]:
    """The rows of one family, in the table's order."""
    return tuple(k for k in KERNELS.values() if k.family == family)
