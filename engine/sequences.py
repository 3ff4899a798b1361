"""Columns of sequences: where tokens are the points, and some work needs a whole sequence.

A transformer is token by token but for one operator. So a column here is some whole sequences,
taken by one thread through all layers; inside it their tokens stand side by side in tiles of T,
without padding, and each stretch between two attentions is run depth first, tile by tile:

      stretch 0, by tile      embeddings, LayerNorm, Q K V       tile 0 | tile 1 | tile 2
      stretch 1, whole        attention, head by head            every tile of each sequence
      stretch 2, by tile      projection, residual, LayerNorm,   tile 0 | tile 1 | tile 2
                            feed-forward, LayerNorm, Q K V
      stretch 3, whole        attention ...

What a stretch keeps for itself (the feed-forward's wide panel) has one tile of memory, which stays
in L2; what the next stretch reads has a tile for each of the column's tiles. No thread waits for
another: a sequence's attention needs nothing but its own tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine import arena
from engine.graph import Value
from engine.ops.work import Map, Work
from engine.segments import OFFSETS, POSITIONS, SLICE, Count, Sequences, Step, Stretch
from engine.steps import Frame, Lowered, StepBuilder, opening, written

INT64 = np.dtype(np.int64)


def sequences(group: Sequence[Lowered], frame: Frame) -> Sequences:
    """The segment of a group of native nodes over tokens."""
    graph, points = frame.graph, frame.points
    builder = StepBuilder(frame)
    builder.border(Value(OFFSETS, INT64, None))
    builder.border(Value(POSITIONS, INT64, None))
    steps = opening(builder, group)
    whole = [False] * len(steps)
    direct: list[str] = []
    counts = tuple(dict.fromkeys(c for item in group for c in _counts(item.work)))
    for count in counts:
        builder.border(Value(count.value, INT64, None))
    imported = len(builder.borders)
    for item in group:
        work = item.work
        assert isinstance(work, Work)
        if isinstance(work, Map) and work.direct:
            direct.append(work.write)
            builder.border(graph.values[work.write])
        made = builder.steps(item.node.name, work)
        steps += made
        whole += [isinstance(work, Map) and work.whole] * len(made)
    leaving = [n for n in written(group) if n in frame.wanted and n not in direct]
    exports = [builder.border(graph.values[n]) for n in leaving]
    steps += [builder.export_step(b) for b in exports]
    whole += [False] * len(exports)
    steps = [builder.indexed(s) for s in steps]
    borders = tuple(builder.borders.values())
    crossing = _crossing(steps, whole)
    return Sequences(
        nodes=tuple(item.node.name for item in group),
        stretches=_stretches(steps, whole),
        imports=borders[:imported],
        exports=borders[imported:],
        local=arena.plan(builder.lifetimes(steps, lambda n: n not in crossing)),
        spread=spread(builder, steps, whole, crossing),
        points=points,
        counts=counts,
    )


def spread(
    builder: StepBuilder, steps: Sequence[Step], whole: Sequence[bool], crossing: set[str]
) -> arena.Arena:
    """Where panels lie that have a tile for each of the column's.

    By stretches, because one tile of a panel may be written before the next of another is read.
    But panels of the same size lie tile on tile, so one may follow the other from step to step: the
    next layer's queries lie where attention's results were read. BERT-base has 4 such panels
    instead of 6, so that more of them is found in L2.
    """
    lives = builder.lifetimes(steps, crossing.__contains__)
    stretches = builder.lifetimes(steps, crossing.__contains__, _stretch_numbers(whole))
    slots: list[list[tuple[arena.Lifetime, arena.Lifetime]]] = []
    for life, stretch in sorted(zip(lives, stretches, strict=True), key=lambda x: x[0].first):
        alike = [s for s in slots if _follows(builder, life, s[-1][0])]
        if alike:  # the one that was used last: it is likely to be in L2 still
            max(alike, key=lambda s: s[-1][0].last).append((life, stretch))
        else:
            slots.append([(life, stretch)])
    planned = arena.plan([_one_life([stretch for _, stretch in slot]) for slot in slots])
    spans = {
        life.name: arena.Span(life.name, span.offset, span.nbytes)
        for slot, span in zip(slots, planned.spans, strict=True)
        for life, _ in slot
    }
    return arena.Arena(tuple(spans[life.name] for life in lives), planned.nbytes)


def _follows(builder: StepBuilder, life: arena.Lifetime, other: arena.Lifetime) -> bool:
    """Whether a panel may take the place of another tile by tile: what a slice writes beyond the
    end of one would be the other's next tile."""
    exact = builder.features[life.name] % SLICE == 0
    return exact and life.nbytes == other.nbytes and other.last < life.first


def _one_life(lives: Sequence[arena.Lifetime]) -> arena.Lifetime:
    """That of panels in one place, one after the other."""
    spells = tuple((x.first, x.last) for x in lives)
    first, last = spells[0][0], spells[-1][1]
    return arena.Lifetime(lives[0].name, lives[0].nbytes, first, last, spells)


def _counts(work: object) -> list[Count]:
    return [o for o in work.operands if isinstance(o, Count)] if isinstance(work, Map) else []


def _stretch_numbers(whole: Sequence[bool]) -> list[int]:
    """For each step the number of its stretch: a new one wherever `whole` changes."""
    changes = [i > 0 and whole[i] != whole[i - 1] for i in range(len(whole))]
    return [sum(changes[: i + 1]) for i in range(len(changes))]


def _stretches(steps: Sequence[Step], whole: Sequence[bool]) -> tuple[Stretch, ...]:
    numbers = _stretch_numbers(whole)
    stretches: list[Stretch] = []
    for number in range(max(numbers, default=-1) + 1):
        inside = [i for i, n in enumerate(numbers) if n == number]
        stretches.append(Stretch(whole[inside[0]], tuple(steps[i] for i in inside)))
    return tuple(stretches)


def _crossing(steps: Sequence[Step], whole: Sequence[bool]) -> set[str]:
    """Panels that more than one stretch touches, and all that whole stretches touch."""
    stretches: dict[str, set[int]] = {}
    for number, step, at_once in zip(_stretch_numbers(whole), steps, whole, strict=True):
        for name in (*step.reads, *step.writes):
            stretches.setdefault(name, set()).update([number] if not at_once else [number, -1])
    return {name for name, numbers in stretches.items() if len(numbers) > 1}
