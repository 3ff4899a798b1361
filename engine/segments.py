"""The nouns of a program: words of steps, steps, and the kinds of segment.

A `Column` segment is a list of steps that one thread carries a column of rows through, depth
first; `Sequences` does so with whole sequences, tile by tile, `Images` (images/segment.py) with
groups of images, band by band; a `Fallback` segment is nodes that run on the whole batch through
the reference. Values between segments are arrays of rows, or of
tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from engine.arena import LINE, Arena, Span
from engine.border import Border
from engine.graph import Node
from engine.images.segment import Images
from numa.notation import size

Array = np.ndarray[Any, Any]

SLICE = 4
"""Outputs that a linear kernel writes at once: every panel has room for a slice beyond its end."""


def slack_nbytes(points: int) -> int:
    """Bytes behind a panel that a slice may write beyond its end."""
    return (SLICE - 1) * points * 4


@dataclass(frozen=True, slots=True)
class Panel:
    """A value in the arena, feature-major x[K, T]; `shift` features into it."""

    value: str
    shift: int = 0

    def __str__(self) -> str:
        return f"{self.value}[{self.shift}:]" if self.shift else self.value


@dataclass(frozen=True, slots=True)
class Place:
    """A border by the name of its value, as a word of a step: its index in the table."""

    value: str

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class Stride:
    """Bytes from one tile to the next of the panel that a value lies in, as a word of a step."""

    value: str

    def __str__(self) -> str:
        return f"stride of {self.value}"


OFFSETS = "@offsets"
"""The border that holds int64[rows + 1]: tokens before each row's sequence."""
POSITIONS = "@positions"
"""The border that holds int64[tokens]: each token's place in its sequence, from 0."""


@dataclass(frozen=True, slots=True)
class Count:
    """A border that the session makes of one of ids, as a word of a step: int64[tokens], `first`
    plus how many tokens of its sequence count up to a token, or `first` for one that does not."""

    ids: str
    padding: int | None
    """The id that does not count. None: what is fed are no ids but a mask, of 1 and 0."""
    first: int

    @property
    def value(self) -> str:
        """The name of the border."""
        return f"@count of {self.ids}, padding {self.padding}, from {self.first}"

    def most_tokens(self, entries: int) -> int:
        """Of a sequence whose places a table of `entries` can serve."""
        return entries - 1 - self.first

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class Code:
    """A kernel that another one calls, as a word of a step: its address."""

    kernel: str

    def __str__(self) -> str:
        return self.kernel


Operand = Panel | Place | Stride | Count | Code | Array | int
"""A word of a step: a panel becomes its offset, an array or code its address, a number itself."""


@dataclass(frozen=True, slots=True)
class Step:
    """One call of one kernel, on one column."""

    node: str
    kernel: str
    operands: tuple[Operand, ...]
    """The words after the kernel's address, in the order its docstring gives."""
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    detail: str = ""
    multiply_adds: int = 0
    """Dense ones a row, of a linear kernel."""
    nonzeros: int = 0
    """Those of them whose weight is not zero."""

    def __str__(self) -> str:
        arrow = f"{', '.join(self.reads) or '-'} -> {', '.join(self.writes) or '-'}"
        return f"{self.kernel:<26} {arrow}" + (f"   # {self.detail}" if self.detail else "")


@dataclass(frozen=True, slots=True)
class Column:
    """Nodes that run depth first over a column of `points` rows."""

    nodes: tuple[str, ...]
    steps: tuple[Step, ...]
    imports: tuple[Border, ...]
    exports: tuple[Border, ...]
    arena: Arena
    points: int
    """T, rows of a column."""

    @property
    def weights(self) -> tuple[Array, ...]:
        """Every array a step reads, once."""
        return arrays_of(self.steps)

    @property
    def weights_nbytes(self) -> int:
        return sum(a.nbytes for a in self.weights)

    def as_sequences(self) -> Sequences:
        """The same as one stretch of tiles: what runs columns knows no other kind."""
        stretches = (Stretch(False, self.steps),)
        nothing = Arena((), 0)
        return Sequences(
            self.nodes, stretches, self.imports, self.exports, self.arena, nothing, self.points
        )

    def __str__(self) -> str:
        arena, weights = size(self.arena.nbytes), size(self.weights_nbytes)
        head = f"columns of {self.points} rows, arena {arena}, {weights} of weights"
        return "\n".join([head, *(f"  {s}" for s in self.steps), *_offsets(self.arena)])


@dataclass(frozen=True, slots=True)
class Stretch:
    """Steps of a column of sequences that run together, one after the other."""

    whole: bool
    """Once for all its sequences; otherwise tile by tile, depth first."""
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Sequences:
    """Nodes that run over a column of whole sequences, their tokens side by side in tiles."""

    nodes: tuple[str, ...]
    stretches: tuple[Stretch, ...]
    imports: tuple[Border, ...]
    exports: tuple[Border, ...]
    local: Arena
    """Panels that live within one stretch: one tile of each."""
    spread: Arena
    """Panels that live from stretch to stretch: bytes and offsets for each tile of a column."""
    points: int
    """T, tokens of a tile."""
    counts: tuple[Count, ...] = ()
    """Borders that are made of others before the segment runs."""

    @property
    def steps(self) -> tuple[Step, ...]:
        return tuple(step for stretch in self.stretches for step in stretch.steps)

    @property
    def weights(self) -> tuple[Array, ...]:
        """Every array a step reads, once."""
        return arrays_of(self.steps)

    @property
    def weights_nbytes(self) -> int:
        return sum(a.nbytes for a in self.weights)

    @property
    def tables(self) -> tuple[tuple[str, int], ...]:
        """(border of the ids, entries) of each table that a step looks up in: by ids or places."""
        found: list[tuple[str, int]] = []
        for step in self.steps:
            if step.kernel.startswith("embed_"):
                border, entries = step.operands[1], step.operands[4]
                assert isinstance(border, int) and isinstance(entries, int)
                found.append((self.imports[border].value, entries))
            elif step.kernel.startswith("attention_near_"):
                near = step.operands[-2]
                assert isinstance(near, np.ndarray)
                if near[4]:
                    found.append((POSITIONS, int(near[4])))
        return tuple(found)

    def most_tokens(self, border: str, entries: int) -> int | None:
        """Of a sequence, by a table that places are looked up in; None where they are ids."""
        if border == POSITIONS:
            return entries
        found = (c.most_tokens(entries) for c in self.counts if c.value == border)
        return next(found, None)

    def stride(self, panel: str) -> int:
        """Bytes from one tile to the next of a panel that has one for each."""
        return next(s.nbytes for s in self.spread.spans if s.name == panel) - slack_nbytes(
            self.points
        )

    def layer_wise(self) -> Sequences:
        """The same steps, each for all tiles before the next: what a layer-wise engine does."""
        spans, end = [], 0
        for span in (*self.local.spans, *self.spread.spans):
            spans.append(Span(span.name, end, span.nbytes))
            end = -(-(end + span.nbytes) // LINE) * LINE
        stretches = tuple(
            Stretch(stretch.whole, (step,)) for stretch in self.stretches for step in stretch.steps
        )
        return replace(
            self, stretches=stretches, local=Arena((), 0), spread=Arena(tuple(spans), end)
        )

    def arena_nbytes(self, tiles: int, group: int) -> int:
        """Bytes of a thread's arena for columns of up to `tiles` tiles, and groups of them."""
        return group * self.local.nbytes + tiles * self.spread.nbytes

    def __str__(self) -> str:
        weights = size(self.weights_nbytes)
        lines = [
            f"columns of sequences, tiles of {self.points} tokens, arena "
            f"{size(self.local.nbytes)} and {size(self.spread.nbytes)} a tile, {weights} of weights"
        ]
        for number, stretch in enumerate(self.stretches):
            lines.append(
                f"  stretch {number}, " + ("whole sequences" if stretch.whole else "by tile")
            )
            lines += [f"    {step}" for step in stretch.steps]
        return "\n".join([*lines, *_offsets(self.local), *_offsets(self.spread, " a tile")])


@dataclass(frozen=True, slots=True)
class Fallback:
    """Nodes that run on the whole batch through onnx's reference evaluator."""

    nodes: tuple[Node, ...]
    reasons: tuple[str, ...]
    """For each node, why it has no kernel."""
    reads: tuple[str, ...]
    writes: tuple[str, ...]

    @property
    def weights(self) -> tuple[Array, ...]:
        """None: constants that its nodes read are the program's."""
        return ()

    @property
    def weights_nbytes(self) -> int:
        return 0

    def __str__(self) -> str:
        lines = ["reference, on the whole batch"]
        for node, reason in zip(self.nodes, self.reasons, strict=True):
            lines.append(f"  {node}   # {reason}")
        return "\n".join(lines)


Segment = Column | Sequences | Images | Fallback


def arrays_of(steps: tuple[Step, ...]) -> tuple[Array, ...]:
    """Every array that steps read, once."""
    found = {id(o): o for s in steps for o in s.operands if isinstance(o, np.ndarray)}
    return tuple(found.values())


def _offsets(arena: Arena, what: str = "") -> list[str]:
    spans = ", ".join(f"{s.name}@{s.offset}" for s in arena.spans)
    return [f"  arena{what} {spans}"] if spans else []
