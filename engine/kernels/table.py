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

from engine.kernels.image_table import LANES, image_rows
from engine.kernels.registers import register_lanes
from engine.kernels.row import Family, Kernel

WIDTHS = (16, 32)
"""T: points of a register tile, and of a column of rows. 4 rows make 8 accumulators of a register
each, in 16 points on AVX2 and in 32 on AVX-512.

On AVX2 (Zen 3, 2048x2048, 90 % zeros, 2026-11) 32 points spill: 50 GFLOP/s, and with 8 a broadcast
serves half as much work: 49, against 62 with 16. On AVX-512 (Xeon, the same) 16 points are four
accumulators that wait for each other: 76 GFLOP/s, against 97 with 32."""


REGISTERS_A_TILE = 2
NARROW = 8
"""Lanes that the few rows of a nearly empty tile take: with fewer a step costs as much. On Zen 4,
sell4, 2048x2048, 90 % zeros (2026-11-29), a tile of 8 rows costs 0.37 of one of 32, of 16 0.56, of
24 0.84."""
OFFSET_UNIT = 8
"""Bytes that 16-bit offsets of inputs count in: what an address is scaled by for nothing, and what
leaves a narrower copy of the panel a whole number. Shifting took a tenth of the time of 8 rows."""
OFFSET_REACH = OFFSET_UNIT << 16
"""Bytes of the panel that such offsets cover: the longest block of inputs there can be."""
SELL4_BLOCK_NBYTES = 1 << 16
"""Of sell4, which copies a block's first lanes side by side: twice L1 and more gains nothing."""


def points_of_tile() -> int:
    """T for this machine: two registers."""
    return REGISTERS_A_TILE * register_lanes()


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
    "Select",
    "Sigmoid",
    "Silu",
    "Softplus",
    "Sqrt",
    "Square",
    "Tanh",
)
BINARY_NAMES = ("Add", "Div", "Mul", "Sub")
REDUCTION_NAMES = (
    "ReduceL1",
    "ReduceL2",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceSum",
    "ReduceSumSquare",
)
POOL_NAMES = ("Max", "Mean", "Min", "Sum")
IDS = {"int32": 4, "int64": 8}
"""Element types of ids, and their bytes."""
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

EXPORTS = {"f32": ("float32", 4), "int64": ("int64", 8)}
"""Element types that leave a panel, and their bytes, by what their kernels are called; places of
extremes leave as int64."""

EPILOGUE_NAMES = ("Gelu", "GeluTanh", "Sigmoid", "Silu", "Tanh")
"""Functions that linear kernels apply to four outputs while they are in L1, see epilogue.py; bounds
and an added panel they have in their own code. Other functions pass over the whole panel."""

_ELEMENTWISE = "engine.kernels.elementwise"
_BORDERS = "engine.kernels.borders"
_EXTREMES = "engine.kernels.extremes"
_NORMALISE = "engine.kernels.normalise"
_ATTENTION = "engine.kernels.attention"
_ROTARY = "engine.kernels.rotary"
_TOKENS = "engine.kernels.tokens"


def epilogue_name(function: str, points: int) -> str:
    """The kernel that does so to four outputs of a tile."""
    return f"epilogue_{function.lower()}_f32_x{points}"


def _rows(points: int) -> tuple[Kernel, ...]:
    return (
        Kernel(
            f"spmm_f32_sell4x{points}", "linear", "engine.kernels.spmm:sell4", (points,), "sell4"
        ),
        Kernel(f"spmm_f32_blk4x{points}", "linear", "engine.kernels.spmm:blk4", (points,), "blk4"),
        Kernel(f"gemm_f32_4x{points}", "linear", "engine.kernels.gemm:dense4", (points,), "dense4"),
        *(
            Kernel(
                epilogue_name(name, points),
                "epilogue",
                "engine.kernels.epilogue:epilogue",
                (points, name),
            )
            for name in EPILOGUE_NAMES
        ),
        *(
            Kernel(
                f"{name.lower()}_f32_x{points}", "unary", f"{_ELEMENTWISE}:unary", (points, name)
            )
            for name in UNARY_NAMES
        ),
        *(
            Kernel(
                f"{name.lower()}_f32_x{points}", "binary", f"{_ELEMENTWISE}:binary", (points, name)
            )
            for name in BINARY_NAMES
        ),
        *(
            Kernel(
                f"{name.lower()}{'_constant_first' if first else '_constant'}_f32_x{points}",
                "constant",
                f"{_ELEMENTWISE}:binary_constant",
                (points, name, first),
            )
            for name in BINARY_NAMES
            for first in (False, True)
        ),
        Kernel(
            f"prelu_constant_f32_x{points}",
            "constant",
            f"{_ELEMENTWISE}:binary_constant",
            (points, "PRelu", False),
        ),
        Kernel(f"softmax_f32_x{points}", "softmax", f"{_ELEMENTWISE}:softmax", (points, False)),
        Kernel(f"logsoftmax_f32_x{points}", "softmax", f"{_ELEMENTWISE}:softmax", (points, True)),
        *(
            Kernel(
                f"{name.lower()}_broadcast{'_first' if first else ''}_f32_x{points}",
                "broadcast",
                f"{_ELEMENTWISE}:binary_broadcast",
                (points, name, first),
            )
            for name in BINARY_NAMES
            for first in (False, True)
        ),
        Kernel(f"copy_f32_x{points}", "broadcast", f"{_ELEMENTWISE}:copy", (points,)),
        Kernel(f"layernorm_f32_x{points}", "norm", f"{_NORMALISE}:layer_norm", (points, True)),
        Kernel(f"rmsnorm_f32_x{points}", "norm", f"{_NORMALISE}:layer_norm", (points, False)),
        *(
            Kernel(
                f"{name.lower()}_f32_x{points}",
                "reduction",
                f"{_NORMALISE}:reduction",
                (points, name),
            )
            for name in REDUCTION_NAMES
        ),
        *(
            Kernel(f"{name}_f32_x{points}", "attention", f"{_ATTENTION}:attention", (points, near))
            for name, near in (("attention", False), ("attention_near", True))
        ),
        *(
            Kernel(f"{name}_f32_x{points}", "rotary", f"{_ROTARY}:rotary", (points, interleaved))
            for name, interleaved in (("rotary", False), ("rotary_interleaved", True))
        ),
        *(
            Kernel(f"pool_{name.lower()}_f32_x{points}", "pool", f"{_TOKENS}:pool", (points, name))
            for name in POOL_NAMES
        ),
        Kernel(f"take_first_f32_x{points}", "pool", f"{_TOKENS}:take", (points, False)),
        Kernel(f"take_last_f32_x{points}", "pool", f"{_TOKENS}:take", (points, True)),
        *(
            Kernel(f"embed_{e}_x{points}", "embed", f"{_TOKENS}:embed", (points, nbytes))
            for e, nbytes in IDS.items()
        ),
        *(
            Kernel(
                f"import_{e}_x{points}", "import", f"{_BORDERS}:import_rows", (points, e, nbytes)
            )
            for e, nbytes in IMPORTS.items()
        ),
        *(
            Kernel(
                f"arg{most}_{which}_f32_x{points}",
                "extreme",
                f"{_EXTREMES}:extreme",
                (points, most, which),
            )
            for most in ("max", "min")
            for which in ("first", "last")
        ),
        *(
            Kernel(f"top{most}_f32_x{points}", "extreme", f"{_EXTREMES}:top", (points, most))
            for most in ("max", "min")
        ),
        *(
            Kernel(
                f"export_{short}_x{points}",
                "export",
                f"{_BORDERS}:export_rows",
                (points, e, nbytes),
            )
            for short, (e, nbytes) in EXPORTS.items()
        ),
    )


KERNELS: dict[str, Kernel] = {
    **{row.name: row for points in WIDTHS for row in _rows(points)},
    **{row.name: row for lanes in LANES for row in image_rows(lanes, UNARY_NAMES, IMPORTS)},
}
"""By name: all of one width, in the order of families, then of the next; then pictures'."""


def kernels_of(family: Family, points: int | None = None) -> tuple[Kernel, ...]:
    """The rows of one family, in the table's order; of one width, or of all."""
    rows = (k for k in KERNELS.values() if k.family == family)
    return tuple(k for k in rows if points in (None, k.points))
