"""What a segment holds at most, for a batch of so many rows and tokens.

A segment with kernels holds an arena for each thread, and what it hands on. Of a fallback every
value between its nodes is held until the segment ends. On top of that comes what the one node that
takes most needs while it runs: measured with tracemalloc for some 130 operators in float16,
float32 and float64, and given as bytes for each element that the node reads or writes, because
numpy's intermediate results are often wider than what they are made of.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.cutting import COLUMN_TOKENS, COLUMNS_A_THREAD, GROUP_TILES, TILES_MORE
from engine.graph import ROWS, TOKENS, Dim, Node, Shape, Value

if TYPE_CHECKING:
    from engine.border import Border
    from engine.images.segment import Images
    from engine.segments import Column, Fallback, Sequences

Array = np.ndarray[Any, Any]
Shapes = Callable[[str], tuple[int, ...]]
"""Name of a value -> its shape with the batch's rows; dimensions that are not known are 1."""

SCRATCH = 18
"""Bytes an element of an operator's own: LayerNormalization in float64 took 16.9."""
HEAVY = {
    "Erf": 36,  # 33: a Python number for each element
    "Gelu": 36,  # 34
    "Resize": 36,  # 34
    "StringConcat": 40,  # 26
    "StringNormalizer": 40,  # 36
    "TopK": 26,  # 24
}
"""The same for those that took more."""
TEXT_NBYTES = 64
"""An element of text: a short one as Python holds it, and its address."""
COLUMN_NBYTES = 256
"""A column of sequences in the table of them, while it is made."""
BATCH_NBYTES_A_TOKEN = 144
"""Positions, masks and token types of a batch that are known from its lengths, and tokens that are
counted, while made."""
SUBGRAPHS = frozenset({"If", "Loop", "Scan", "SequenceMap"})


@dataclass(frozen=True, slots=True)
class Most:
    """The free dimensions of a batch at most."""

    rows: int
    tokens: int = 0
    """Of all rows; 0 where the model has no sequences."""
    longest: int = 0
    """Of one row."""


def column_nbytes(segment: Column, most: Most, threads: int, columns: bool) -> int:
    """Arenas of all threads, or of all columns with columns off, and the exports."""
    found, tiles = segment.as_sequences(), GROUP_TILES
    arenas = threads
    if not columns:
        tiles = -(-GROUP_TILES // TILES_MORE) * TILES_MORE
        found = found.layer_wise()
        # one tile a column at the least, and room for eight
        arenas = max(threads, -(-most.rows // segment.points))
    nbytes = arenas * found.arena_nbytes(tiles, GROUP_TILES)
    return nbytes + _exports_nbytes(segment.exports, most)


def sequences_nbytes(segment: Sequences, most: Most, threads: int, columns: bool) -> int:
    """The same with columns of sequences, as engine/cutting.py cuts them."""
    in_column = min(max(COLUMN_TOKENS, most.longest), most.tokens)
    tiles = -(-in_column // (segment.points * TILES_MORE)) * TILES_MORE
    arenas = threads
    if not columns:
        segment = segment.layer_wise()
        # two columns that stand side by side have more tokens than one may have
        pairs = max(threads * COLUMNS_A_THREAD, most.tokens // COLUMN_TOKENS)
        arenas += min(most.rows, 2 * pairs + 1)
    cutting = most.rows * COLUMN_NBYTES if most.tokens else 0
    return (
        arenas * segment.arena_nbytes(tiles, GROUP_TILES)
        + _exports_nbytes(segment.exports, most)
        + cutting
    )


def images_nbytes(segment: Images, most: Most, threads: int) -> int:
    """An arena for each thread, the tape as words, and the exports."""
    tape = segment.tape_nbytes + segment.tape.nbytes
    return threads * segment.arena.nbytes + tape + _exports_nbytes(segment.exports, most)


def _exports_nbytes(exports: Sequence[Border], most: Most) -> int:
    return sum(
        b.dtype.itemsize * b.features * (most.tokens if b.tokens else most.rows) for b in exports
    )


def fallback_nbytes(
    segment: Fallback, values: Mapping[str, Value], constants: Mapping[str, Array], most: Most
) -> int:
    """Bound of what it allocates; constants are the program's, and not counted."""

    def shape(name: str) -> tuple[int, ...]:
        if name in constants:
            return tuple(constants[name].shape)
        return _shape(values[name].shape if name in values else None, most)

    def nbytes(name: str) -> int:
        if name in constants or name not in values:
            return 0
        return math.prod(shape(name)) * _item_nbytes(values[name])

    names = {n for node in segment.nodes for n in (*node.reads, *node.writes)}
    held = sum(nbytes(n) for n in names)
    # what leaves may be a view of odd layout, which its reader copies
    leaving = sum(nbytes(n) for n in segment.writes)
    return held + leaving + max((_scratch(node, shape) for node in segment.nodes), default=0)


def unpriced(
    segment: Fallback, values: Mapping[str, Value], constants: Mapping[str, Array]
) -> tuple[str, ...]:
    """What the bound leaves out: values whose size nobody knows before the batch, and nodes with
    subgraphs, a sentence each."""
    found = []
    for node in segment.nodes:
        if node.op in SUBGRAPHS:
            found.append(f"{node.name} ({node.label}): what its subgraphs hold")
        for name in node.writes:
            dims = values[name].shape if name in values else None
            if dims is None or not all(map(_told, dims)):
                found.append(str(values.get(name, f"{name}: of unknown type")))
    return tuple(dict.fromkeys(found))


def _shape(dims: Shape | None, most: Most) -> tuple[int, ...]:
    """With as many rows as there may be, or, of sequences, as many of the longest as make all
    tokens: shorter ones have no more tokens, and fewer pairs of them."""
    length = max(1, min(most.longest, most.tokens))
    tokens = most.tokens and any(TOKENS in _letters(d) for d in dims or ())
    free = {ROWS: -(-most.tokens // length) if tokens else most.rows, TOKENS: length}
    return tuple(
        d if isinstance(d, int) else math.prod(_factor(f, free) for f in _letters(d))
        for d in dims or ()
    )


def _letters(dim: Dim) -> list[str]:
    """Factors of a dimension: `2*N*S` is how the reader writes a product."""
    return dim.split("*") if isinstance(dim, str) else []


def _factor(word: str, free: Mapping[str, int]) -> int:
    return int(word) if word.isdecimal() else free.get(word, 1)


def _told(dim: Dim) -> bool:
    """Whether a batch tells the size of a dimension."""
    return all(f.isdecimal() or f in (ROWS, TOKENS) for f in _letters(dim))


def _item_nbytes(value: Value) -> int:
    return TEXT_NBYTES if value.dtype.hasobject else value.dtype.itemsize


def _scratch(node: Node, shape: Shapes) -> int:
    """Bytes that the node needs while it runs, besides what it writes."""
    elements = sum(math.prod(shape(n)) for n in (*node.reads, *node.writes))
    extra = _EXTRA.get(node.op)
    return elements * HEAVY.get(node.op, SCRATCH) + (extra(node, shape) if extra else 0)


def _scores(node: Node, shape: Shapes) -> int:
    """Attention's scores[rows, heads, queries, keys]: four arrays of them were measured."""
    query, key = shape(node.inputs[0]), shape(node.inputs[1])
    past = node.inputs[4] if len(node.inputs) > 4 else ""
    keys = key[-2] + (shape(past)[-2] if past else 0)
    heads = query[1] if len(query) == 4 else int(node.attributes.get("q_num_heads", 1))
    return 5 * 8 * query[0] * heads * query[-2] * keys


def _windows(node: Node, shape: Shapes) -> int:
    """A convolution's windows[channels, kernel, places], which are a copy for each weight."""
    return _window_elements(node, shape) * 3 * 8


def _all_windows(node: Node, shape: Shapes) -> int:
    """The same where the whole batch goes at once; twice 4 bytes were measured."""
    return _window_elements(node, shape) * 2 * 8 * shape(node.inputs[0])[0]


def _window_elements(node: Node, shape: Shapes) -> int:
    """Of one row."""
    x, y = shape(node.inputs[0]), shape(node.outputs[0])
    weights = shape(node.inputs[3] if node.op == "QLinearConv" else node.inputs[1])
    places = max(math.prod(x[2:]), math.prod(y[2:]))
    channels = max(x[1] if len(x) > 1 else 1, y[1] if len(y) > 1 else 1)
    return channels * math.prod(weights[2:]) * places


_EXTRA: dict[str, Callable[[Node, Shapes], int]] = {
    "Attention": _scores,
    "Conv": _windows,
    "ConvInteger": _all_windows,
    "ConvTranspose": _windows,
    "QLinearConv": _all_windows,
}
"""What grows otherwise than by elements."""
