"""Graph -> Program: the passes, from top to bottom.

Nothing here imports numba: a driver compiles, prices and fingerprints a program in a fraction of
a second, and each scorer compiles the same one again on its own NUMA node. Only a timer does, for
a matrix of a kind that it never saw and that the cost model is not sure of.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from engine import columns
from engine.confirming import Timer, confirmed
from engine.dispatch import Choice, choose, recorded
from engine.errors import EngineError, UnsupportedError
from engine.graph import Graph
from engine.hollow import hollow
from engine.images.choosing import choose_structure
from engine.images.confirming import confirmed_structure
from engine.images.lanes import Lanes, cheapest_lanes, l3_share, lanes_here
from engine.kernels.image_table import LANES as LANES_KNOWN
from engine.kernels.table import REGISTERS_A_TILE, WIDTHS, points_of_tile
from engine.mapped import map_of, settled, stays_in_place
from engine.ops.image_work import Convolution
from engine.ops.work import Linear, Refusal
from engine.program import Program
from engine.reader import load
from engine.reference import refuses
from engine.rewrites import Event, rewrite
from engine.rewrites.halves import HALVES, halves_of
from engine.rows import mixes_rows
from engine.segments import Fallback, Segment
from engine.settings import Settings, from_switches
from engine.sparsity import measure
from engine.steps import Lowered


@dataclass(frozen=True, slots=True)
class Compilation:
    """Everything the passes found out: the program, and why it is as it is."""

    settings: Settings
    asked: Mapping[str, str]
    """Kernels that were asked for, by node."""
    source: Graph
    graph: Graph
    timer: Timer | None = None
    hollow: bool = False
    events: tuple[Event, ...] = ()
    lowered: tuple[Lowered, ...] = ()
    lanes: Lanes | None = None
    """None where there are no images."""
    choices: tuple[Choice, ...] = ()
    program: Program | None = None


def _rewrite(c: Compilation) -> Compilation:
    graph, events = rewrite(c.graph, frozenset(c.settings.rewrites_off))
    return replace(c, graph=graph, events=events)


def _lower(c: Compilation) -> Compilation:
    return replace(c, lowered=columns.lower_all(c.graph))


def _check(c: Compilation) -> Compilation:
    """What cannot run at all is refused here, before the first row."""
    mixing: dict[tuple[str, str], list[str]] = {}
    problems = []
    dtypes = {n: v.dtype for n, v in c.graph.values.items()}
    dtypes |= {n: a.dtype for n, a in c.graph.initializers.items()}
    for item in c.lowered:
        if isinstance(item.work, Refusal):
            mixed = mixes_rows(item.node, c.graph)
            if mixed:
                mixing.setdefault((item.node.label, mixed), []).append(item.node.name)
            impossible = refuses(item.node, c.graph.opsets, dtypes)
            if impossible:
                problems.append(impossible)
    told = [
        f"{first}{f' and {len(others)} more' if others else ''} ({label}) mixes rows: {reason}"
        for (label, reason), (first, *others) in mixing.items()
    ]
    if told or problems:
        raise UnsupportedError("\n  ".join([f"{c.graph.name}: cannot run:", *told, *problems]))
    return c


POINTS = "@points"
"""Among the choices, what is no node's: points of a tile. A run that began on one machine goes on
with the same on another."""


def _points(c: Compilation) -> int:
    """As recorded, as asked for, or as this machine's registers have it."""
    points = int(c.asked.get(POINTS, c.settings.points or points_of_tile()))
    if points not in WIDTHS:
        raise EngineError(f"points: expected one of {WIDTHS}, got {points}")
    return points


LANES = "@lanes"
"""The same for images side by side. Runs before there was such a choice had half of the points."""
NO_NODES = (POINTS, LANES)


def _group(c: Compilation) -> Compilation:
    """Images side by side: as recorded, as points were asked for, or as they are cheapest here."""
    groups = columns.image_groups(c.graph, c.lowered)
    if not groups:
        return c
    if LANES in c.asked or POINTS in c.asked:
        lanes = int(c.asked.get(LANES, _points(c) // REGISTERS_A_TILE))
        return replace(c, lanes=_known(Lanes(lanes, "as recorded")))
    if c.settings.points:
        asked = Lanes(_points(c) // REGISTERS_A_TILE, f"as points={c.settings.points} asks for")
        return replace(c, lanes=asked)
    among = lanes_here()
    if not c.settings.groups or len(among) == 1:
        reason = "a register's" if c.settings.groups else "a register's; groups are off"
        return replace(c, lanes=Lanes(among[0], reason))

    def structures(node: str, work: Convolution, lanes: int) -> Choice:
        return choose_structure(node, work, lanes, sparse=c.settings.sparse, by_two=True)

    how = (among, c.settings.columns, l3_share())
    return replace(c, lanes=cheapest_lanes(c.graph, groups, structures, *how))


def _known(lanes: Lanes) -> Lanes:
    if lanes.lanes not in LANES_KNOWN:
        raise EngineError(f"lanes: expected one of {LANES_KNOWN}, got {lanes.lanes}")
    return lanes


def _segment(c: Compilation) -> Compilation:
    chosen: dict[str, Choice] = {}
    asked = {node: kernel for node, kernel in c.asked.items() if node not in NO_NODES}
    points = _points(c)
    lanes = c.lanes.lanes if c.lanes else points // REGISTERS_A_TILE

    def kernel_for(node: str, work: Linear | Convolution) -> str:
        if isinstance(work, Convolution):
            chosen[node] = _chosen_structure(c, node, work, lanes)
        elif node in asked:
            chosen[node] = recorded(node, asked[node], points)
        else:
            chosen[node] = _chosen(c, node, work, points)
        return chosen[node].kernel

    how = (points, lanes, c.settings.columns, c.hollow, c.settings.epilogues)
    segments = columns.segments(c.graph, c.lowered, kernel_for, *how)
    unknown = sorted(asked.keys() - chosen.keys())
    if unknown:
        raise EngineError(
            f"choices: expected names of nodes that have kernels to choose from, got {unknown}; "
            "they were recorded for another model or other switches (--off): use the same again, "
            "or start over without them"
        )
    kernels = {node: choice.kernel for node, choice in chosen.items()}
    grouped = {LANES: str(lanes)} if c.lanes else {}
    program = _program(c, segments, {POINTS: str(points), **grouped, **kernels})
    return replace(c, choices=tuple(chosen.values()), program=program)


def _chosen(c: Compilation, node: str, work: Linear, points: int) -> Choice:
    """By the cost model; where it is in doubt, by timing, if there is somebody who times."""
    sparsity = measure(work.weights)
    choice = choose(node, sparsity, points, sparse=c.settings.sparse)
    if c.timer is None or not c.settings.confirm:
        return choice
    return confirmed(choice, work.weights, sparsity, points, c.timer)


def _chosen_structure(c: Compilation, node: str, work: Convolution, lanes: int) -> Choice:
    """The same for a convolution; or as recorded."""
    choice = c.lanes.choice(node) if c.lanes and node not in c.asked else None
    if choice is None:
        choice = choose_structure(node, work, lanes, c.asked.get(node), sparse=c.settings.sparse)
    if c.timer is None or not c.settings.confirm:
        return choice
    return confirmed_structure(choice, work, lanes, c.timer)


def _program(c: Compilation, segments: list[Segment], kernels: Mapping[str, str]) -> Program:
    """The program with only those constants and values that segments still need."""
    graph = c.graph
    fallbacks = [s for s in segments if isinstance(s, Fallback)]
    read = {n for s in fallbacks for node in s.nodes for n in node.reads}
    named = read | {v.name for v in graph.outputs}
    written = {n for s in fallbacks for node in s.nodes for n in node.writes}
    keep = hollow if c.hollow else settled
    return Program(
        name=graph.name,
        inputs=graph.inputs,
        outputs=graph.outputs,
        segments=tuple(segments),
        constants={n: keep(a) for n, a in graph.initializers.items() if n in named},
        values={n: v for n, v in graph.values.items() if n in named | written},
        opsets=dict(graph.opsets),
        choices=dict(kernels),
        switches=c.settings.as_switches(),
        compiling_nbytes=_compiling_nbytes(c),
    )


PACKING = 4
"""Times the largest constant: what looks at its zeros, orders and packs them (measured 3.6 for a
dense matrix, 2.4 for one of which 5 % is left)."""


def _compiling_nbytes(c: Compilation) -> int:
    """What compiling takes: the constants after the rewrites, and the more of what packing one of
    them takes and what halves were as float32 before other rewrites changed them. What looks into
    a file takes nothing."""
    arrays = c.graph.initializers.values()
    largest = max((a.nbytes for a in arrays if not stays_in_place(a)), default=0)
    widened = any(e.fired and e.rewrite == HALVES.name for e in c.events)
    halves = halves_of(c.source) if widened else ()
    between = sum(np.dtype(np.float32).itemsize * a.size for a in halves)
    held = sum(a.nbytes for a in (*arrays, *halves) if map_of(a) is None)
    return held + max(PACKING * largest, between)


PASSES: tuple[tuple[str, Callable[[Compilation], Compilation]], ...] = (
    ("rewrite", _rewrite),  # first: what is folded away need not be lowered
    ("lower", _lower),  # which nodes have kernels, and why the others have none
    ("check", _check),  # refuses what nothing can run, while no row is read yet
    ("group", _group),  # how many images side by side; convolutions' kernels depend on it
    ("segment", _segment),  # columns and fallbacks; chooses kernels, packs weights, lays arenas
)


def compilation(
    model: str | Path | Graph,
    choices: Mapping[str, str] | None = None,
    timer: Timer | None = None,
    hollow: bool = False,
    **switches: Any,
) -> Compilation:
    """Runs PASSES and keeps what each found out, for `explain`."""
    graph = model if isinstance(model, Graph) else load(model)
    state = Compilation(from_switches(switches), choices or {}, graph, graph, timer, hollow)
    for _, run in PASSES:
        state = run(state)
    return state


def compile(  # the name users expect, on purpose that of the builtin
    model: str | Path | Graph,
    *,
    choices: Mapping[str, str] | None = None,
    timer: Timer | None = None,
    hollow: bool = False,
    **switches: Any,
) -> Program:
    """The program of a model file or graph.

    `choices` are those of an earlier program of the same model: they make the bytes of the output
    the same on another processor or release. `timer` (an engine.Stopwatch) is asked where the cost
    model is in doubt between kernels; without one nothing is timed. A `hollow` program has no
    weights, for who prices it and does not run it (engine/hollow.py). `switches` are fields of
    engine.settings.Settings.

    Raises ModelError for a file that is not a sound model, UnsupportedError naming the nodes that
    nothing here can run.
    """
    program = compilation(model, choices, timer, hollow, **switches).program
    assert program is not None
    return program
