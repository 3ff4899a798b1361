"""profile(): how long each step of a program takes, on one core.

A session carries a column through all steps by one call into machine code, and nothing in there
looks at a clock. A profile takes the same columns through the same steps in the same order, but
by a call for each step, and times every call. So activations lie in L2 and weights come from
where they come from in earnest; what differs is this:

- one thread works, alone, on its core: nobody else asks for memory or for the shared cache;
- between two steps the interpreter runs, and takes a little of L1; its own time is not counted;
- a step's figure is the median over all columns, so interruptions do not show;
- nodes that run through the reference are timed once a round, on the whole batch.

`Profile.whole_seconds` is the same batch by `Session.run` on the same core, to see how far the sum
of the steps can be trusted.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import numpy as np

from engine.batch import Batch, Feed, batch_of
from engine.errors import FeedError
from engine.graph import Graph, Node
from engine.images.segment import ImageStep
from engine.program import Program
from engine.segments import Fallback, Segment, Sequences, Step
from engine.session import Session
from engine.work_share import multiply_adds
from numa.affinity import staying_on

Array = np.ndarray[Any, Any]

MIN_ROUNDS = 3
"""Of a profile; the median of fewer is no median."""
ATTENTION = "attention_"
"""How the names of its kernels begin."""
HEADS = 8
"""Of the operands of an attention kernel: heads, then the features of one."""


@dataclass(frozen=True, slots=True)
class StepTime:
    """One step of a column, or one node that runs through the reference."""

    segment: int
    node: str
    """Empty where rows become panels or panels rows."""
    kernel: str
    """Name of the kernel, or `reference`."""
    value: str
    """What it writes; for a step that makes rows of a panel, what it reads."""
    seconds: float
    """A row."""
    share: float
    """Of the seconds of all steps, 0..1."""
    multiply_adds: int
    """A row's, zeros counted; 0 where nothing is multiplied. The mean, where lengths differ."""
    nonzeros: int
    """Those of them whose weight is not zero; as many as that where nobody counted."""

    @property
    def has_weights(self) -> bool:
        """Whether what is multiplied is weights: attention multiplies activations."""
        return bool(self.multiply_adds) and not self.kernel.startswith(ATTENTION)

    @property
    def useful_gflops(self) -> float:
        """Operations on weights that are not zero, in 10^9 a second."""
        return _gflops(self.nonzeros, self.seconds)

    @property
    def dense_gflops(self) -> float:
        """The same as if every weight had been multiplied."""
        return _gflops(self.multiply_adds, self.seconds)

    def to_json(self) -> dict[str, Any]:
        plain = {name: getattr(self, name) for name in self.__slots__}
        return plain | {"useful_gflops": self.useful_gflops, "dense_gflops": self.dense_gflops}


@dataclass(frozen=True, slots=True)
class Profile:
    """The steps of a program in the order they run."""

    steps: tuple[StepTime, ...]
    rows: int
    """Of the batch."""
    tokens: int
    """Of all its rows; 0 where the model has no sequences."""
    rounds: int
    cpu: int
    whole_seconds: float
    """A row's share of `Session.run` on the same core: median over the rounds."""

    @property
    def seconds(self) -> float:
        """Of all steps, a row."""
        return sum(s.seconds for s in self.steps)

    def of_node(self, node: str) -> tuple[StepTime, ...]:
        return tuple(s for s in self.steps if s.node == node)

    def __str__(self) -> str:
        lines = [
            f"profile on cpu {self.cpu}, {self.rows} rows, {self.rounds} rounds: "
            f"{self.seconds * 1e6:.3f} us a row by steps, {self.whole_seconds * 1e6:.3f} as a whole"
        ]
        for s in self.steps:
            lines.append(
                f"  {s.share:6.1%} {s.seconds * 1e6:10.4f} us  {s.kernel:<26} {s.node or s.value}"
            )
        return "\n".join(lines)


def profile(
    program: Program, feeds: Mapping[str, Feed], cpu: int | None = None, rounds: int = MIN_ROUNDS
) -> Profile:
    """Times the steps of `program`, columns on, over the rows of `feeds`.

    `cpu` is a logical processor, by default the first that this process may use. Every round takes
    two runs of the batch: by steps, and as a whole.
    """
    program = replace(program, switches={**program.switches, "columns": True})
    rounds = max(rounds, MIN_ROUNDS)
    cpu = min(os.sched_getaffinity(0)) if cpu is None else cpu
    with staying_on([cpu]), Session(program, [cpu]) as session:
        batch = batch_of(feeds, program.inputs)[0]
        rows = batch.rows
        if rows == 0:
            raise FeedError("profile: expected feeds with rows, got none")
        session.run(feeds)  # first touch of everything
        by_step, whole = [], []
        for _ in range(rounds):
            by_step.append(session.timed(feeds))
            began = perf_counter()
            session.run(feeds)
            whole.append(perf_counter() - began)
    seconds = [
        _row_seconds(segment, found) / rows
        for segment, found in zip(program.segments, zip(*by_step, strict=True), strict=True)
    ]
    total = sum(float(s.sum()) for s in seconds)
    steps = tuple(
        replace(step, seconds=float(s), share=float(s) / total if total else 0.0)
        for step, s in zip(
            _steps(program, batch), np.concatenate([*seconds, np.zeros(0)]), strict=True
        )
    )
    whole_seconds = statistics.median(whole) / rows
    return Profile(_by_node(steps), rows, batch.tokens, rounds, cpu, whole_seconds)


def _row_seconds(segment: Segment, found: Sequence[Array]) -> Array:
    """seconds[steps] of a batch, from seconds[columns, steps] of each round. Columns of rows are
    alike, so the median is taken over all of them; columns of sequences are not."""
    if isinstance(segment, Sequences):
        return np.asarray(np.median([f.sum(axis=0) for f in found], axis=0))
    return np.asarray(np.median(np.concatenate(found), axis=0) * len(found[0]))


def _by_node(steps: Sequence[StepTime]) -> tuple[StepTime, ...]:
    """Neighbouring steps of one node and kernel as one: a Linear is cut into slabs of outputs."""
    found: list[StepTime] = []
    for step in steps:
        last = found[-1] if found else None
        same = last is not None and step.node and _key(last) == _key(step)
        if last is None or not same:
            found.append(step)
            continue
        found[-1] = replace(
            last,
            seconds=last.seconds + step.seconds,
            share=last.share + step.share,
            multiply_adds=last.multiply_adds + step.multiply_adds,
            nonzeros=last.nonzeros + step.nonzeros,
        )
    return tuple(found)


def _key(step: StepTime) -> tuple[int, str, str, str]:
    return step.segment, step.node, step.kernel, step.value


def _steps(program: Program, batch: Batch) -> Iterator[StepTime]:
    """Everything a StepTime knows before it is timed."""
    lengths = _lengths(batch)
    for number, segment in enumerate(program.segments):
        if not isinstance(segment, Fallback):
            for step in segment.steps:
                value = (*step.writes, *step.reads, "")[0]
                work = _work(step, lengths if isinstance(segment, Sequences) else {1: 1.0})
                yield StepTime(number, step.node, step.kernel, value, 0.0, 0.0, *work)
        else:
            for node in segment.nodes:
                work = (_dense(node, program, lengths),) * 2
                value = (*node.writes, "")[0]
                yield StepTime(number, node.name, "reference", value, 0.0, 0.0, *work)


def _lengths(batch: Batch) -> dict[int, float]:
    """Length of a row -> share of the rows that have it."""
    if batch.offsets is None:
        return {0: 1.0}
    lengths, counts = np.unique(np.diff(batch.offsets), return_counts=True)
    return {int(n): count / batch.rows for n, count in zip(lengths, counts, strict=True)}


def _work(step: Step | ImageStep, lengths: Mapping[int, float]) -> tuple[int, int]:
    """Multiply-adds of a row, and those that are not by zero, of a step whose points number as
    `lengths` says."""
    points = sum(share * n for n, share in lengths.items())
    if step.kernel.startswith(ATTENTION):
        heads, depth = step.operands[HEADS], step.operands[HEADS + 1]
        assert isinstance(heads, int) and isinstance(depth, int)
        pairs = sum(share * n * n for n, share in lengths.items())
        return (round(2 * heads * depth * pairs),) * 2  # keys, then values
    return round(step.multiply_adds * points), round(step.nonzeros * points)


def _dense(node: Node, program: Program, lengths: Mapping[int, float]) -> int:
    """Multiply-adds of a fallback node, from the types that the program keeps for it."""
    around = Graph(
        name=program.name,
        inputs=program.inputs,
        outputs=program.outputs,
        nodes=(node,),
        values=program.values,
        initializers=program.constants,
        opsets=program.opsets,
    )
    return round(sum(share * multiply_adds(node, around, n) for n, share in lengths.items()))


def _gflops(count: int, seconds: float) -> float:
    return 2 * count / seconds / 1e9 if seconds > 0 else 0.0
