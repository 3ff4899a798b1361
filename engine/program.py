"""The program: what a graph becomes. Frozen, printable, picklable, with a fingerprint.

A program is a list of segments (engine/segments.py), run one after the other.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from engine.digest import digest
from engine.graph import Value
from engine.images.segment import Images
from engine.kernels.cache import is_kept
from engine.mapped import SEEN_NBYTES, stays_in_place
from engine.price import (
    BATCH_NBYTES_A_TOKEN,
    Most,
    column_nbytes,
    fallback_nbytes,
    images_nbytes,
    sequences_nbytes,
    unpriced,
)
from engine.segments import Fallback, Segment, Sequences

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Program:
    """A compiled graph. The same program gives the same bytes for the same rows, always."""

    name: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    segments: tuple[Segment, ...]
    constants: Mapping[str, Array]
    """What fallback nodes read, and outputs that are constants."""
    values: Mapping[str, Value]
    """Types of what flows between segments."""
    opsets: Mapping[str, int]
    choices: Mapping[str, str]
    """Kernel of each node that had more than one: give it to `compile` for the same bytes."""
    switches: Mapping[str, Any]
    """What was turned on or off, as `compile` got it."""
    compiling_nbytes: int = field(default=0, compare=False)
    """That making it took beside itself: copies of weights that rewrites changed, and what is
    packed of the largest one at a time."""

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of everything that decides the output's bytes, to the last bit: steps with their
        words and weights, constants, and fallback nodes with their attributes and operator sets."""
        fallbacks = any(isinstance(s, Fallback) for s in self.segments)
        opsets = dict(self.opsets) if fallbacks else {}
        nouns = (self.inputs, self.outputs, self.segments, self.constants, self.values)
        return digest((str(self), *nouns, opsets))

    @property
    def weights_nbytes(self) -> int:
        """Bytes of weights and constants, those that stay in the model's files among them."""
        return sum(s.weights_nbytes for s in self.segments) + sum(
            a.nbytes for a in self.constants.values()
        )

    @property
    def in_place(self) -> tuple[Array, ...]:
        """Of those, tables that stay in the model's files, and are read there row by row."""
        arrays = [a for s in self.segments for a in s.weights] + list(self.constants.values())
        return tuple(a for a in {id(a): a for a in arrays}.values() if stays_in_place(a))

    @property
    def in_place_nbytes(self) -> int:
        return sum(a.nbytes for a in self.in_place)

    @property
    def held_nbytes(self) -> int:
        """Bytes of weights and constants in memory."""
        return self.weights_nbytes - self.in_place_nbytes

    @property
    def uncompiled(self) -> tuple[str, ...]:
        """Kernels that this machine has no machine code of yet: who first makes a session of the
        program here waits for them, a second or so for each and processor."""
        steps = (s for segment in self.segments if not isinstance(segment, Fallback)
                 for s in segment.steps)  # fmt: skip
        return tuple(sorted(name for name in {s.kernel for s in steps} if not is_kept(name)))

    @property
    def columns(self) -> bool:
        return bool(self.switches.get("columns", True))

    @property
    def large_pages(self) -> bool:
        return bool(self.switches.get("pages", True))

    def session_nbytes(
        self, threads: int, rows: int, tokens: int = 0, longest: int | None = None
    ) -> int:
        """Bound of what a session holds for batches of `rows`, besides feeds and outputs.

        `tokens` of all rows together, `longest` of one of them (None: as many as all), where the
        model has sequences. Weights twice (the program's and the session's aligned copy), of tables
        in place what is looked at before it is given back, and in one batch more, an arena
        for each thread (for each column with columns off), what flows between segments, and what
        the reference needs (engine/price.py), but for what `unpriced` names.
        """
        most = Most(rows, tokens, tokens if longest is None else min(longest, tokens))
        total = 2 * self.held_nbytes + min(self.in_place_nbytes, 2 * SEEN_NBYTES)
        for segment in self.segments:
            if isinstance(segment, Fallback):
                total += fallback_nbytes(segment, self.values, self.constants, most)
                continue
            if isinstance(segment, Images):
                total += images_nbytes(segment, most, threads)
                continue
            price = sequences_nbytes if isinstance(segment, Sequences) else column_nbytes
            total += price(segment, most, threads, self.columns)  # type: ignore[arg-type]
        return total + most.tokens * BATCH_NBYTES_A_TOKEN

    @property
    def id_limits(self) -> Mapping[str, int]:
        """For each input of ids, how many entries its smallest table has: ids must be below."""
        limits: dict[str, int] = {}
        for segment in self._sequences:
            for border, entries in segment.tables:
                if segment.most_tokens(border, entries) is None:
                    limits[border] = min(entries, limits.get(border, entries))
        return limits

    @property
    def max_tokens(self) -> int | None:
        """The longest sequence that the model has positions for; None where it has no limit."""
        found = (s.most_tokens(*table) for s in self._sequences for table in s.tables)
        return min((most for most in found if most is not None), default=None)

    @property
    def _sequences(self) -> tuple[Sequences, ...]:
        return tuple(s for s in self.segments if isinstance(s, Sequences))

    @property
    def unpriced(self) -> tuple[str, ...]:
        """What `session_nbytes` leaves out because nobody knows its size before the batch."""
        found = [unpriced(s, self.values, self.constants) for s in self.segments
                 if isinstance(s, Fallback)]  # fmt: skip
        return tuple(sentence for sentences in found for sentence in sentences)

    def __str__(self) -> str:
        lines = [f"program {self.name}"]
        lines += [f"  input  {v}" for v in self.inputs]
        for number, segment in enumerate(self.segments):
            first, *rest = str(segment).split("\n")
            lines += [f"  segment {number}: {first}", *(f"  {line}" for line in rest)]
        lines += [f"  output {v}" for v in self.outputs]
        off = {k: v for k, v in self.switches.items() if k in ("columns", "sparse") and not v}
        lines += [f"  {name} off" for name in sorted(off)]
        return "\n".join(lines)
