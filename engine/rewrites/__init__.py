"""REWRITES: what is done to a graph before kernels are chosen, in order, with a log.

One file a rewrite. Each looks at a node and either edits, says why it refuses, or passes.
`rewrite` runs the table to a fixpoint, so that the order matters only for what is tried first.
"""

from __future__ import annotations

from dataclasses import replace

from engine.errors import EngineError
from engine.graph import Graph
from engine.rewrites.activation import ACTIVATION
from engine.rewrites.affine import AFFINE_AFTER, AFFINE_BEFORE
from engine.rewrites.arithmetic import ARITHMETIC
from engine.rewrites.attention import ATTENTION
from engine.rewrites.branches import BRANCHES, take_branches
from engine.rewrites.channels import CHANNELS
from engine.rewrites.conv import CONV
from engine.rewrites.conv_transpose import CONV_TRANSPOSE
from engine.rewrites.counting import COUNTING
from engine.rewrites.dead_code import DEAD_CODE
from engine.rewrites.decomposed import DECOMPOSED
from engine.rewrites.depth_to_space import DEPTH_TO_SPACE
from engine.rewrites.fold import FOLD
from engine.rewrites.halves import HALVES
from engine.rewrites.head_norm import HEAD_NORM
from engine.rewrites.head_rows import HEAD_ROWS
from engine.rewrites.identity import IDENTITY
from engine.rewrites.layer_norm import LAYER_NORM
from engine.rewrites.layout import LAYOUT
from engine.rewrites.linear import LINEAR
from engine.rewrites.mask import MASK
from engine.rewrites.norm import NORM
from engine.rewrites.padding import PADDING
from engine.rewrites.parts import PARTS
from engine.rewrites.pooling import POOLING
from engine.rewrites.positions import POSITIONS
from engine.rewrites.residual import RESIDUAL
from engine.rewrites.response import RESPONSE
from engine.rewrites.rewrite import Event, Rewrite, sweep
from engine.rewrites.rotary import ROTARY
from engine.rewrites.sink import SINK
from engine.rewrites.static_shape import STATIC_SHAPE
from engine.rewrites.strides import STRIDES
from engine.rewrites.tokens_first import TOKENS_FIRST
from engine.settings import SWITCHES

__all__ = ["REWRITES", "Event", "Rewrite", "rewrite"]

REWRITES: tuple[Rewrite, ...] = (
    BRANCHES,  # taken before all others: what is behind an If has shapes only then
    HALVES,  # before all others, whose constants are float32 then
    # constants first: the rest looks for them
    FOLD,
    STATIC_SHAPE,
    IDENTITY,
    HEAD_ROWS,  # before all that looks for heads
    # whole formulas before their parts are fused away
    LAYER_NORM,
    HEAD_NORM,  # before ROTARY and ATTENTION, which follow heads up to where they are split
    DECOMPOSED,
    ARITHMETIC,  # after those, which look for Pow
    LAYOUT,  # after whole formulas, whose axes it would move
    POSITIONS,
    COUNTING,
    PARTS,
    MASK,
    ROTARY,  # before ATTENTION, which looks for where queries and keys come from
    ATTENTION,  # after MASK, whose biases it takes
    LINEAR,
    TOKENS_FIRST,  # after LINEAR, behind which it puts transposes
    CONV,
    CONV_TRANSPOSE,
    DEPTH_TO_SPACE,  # before scales, which a Conv takes in
    POOLING,
    PADDING,  # after those two, whose pads are known then
    CHANNELS,
    # scales before activations, behind which they can no longer reach the weights
    AFFINE_AFTER,
    SINK,
    AFFINE_BEFORE,
    NORM,  # what no scale could be folded into
    RESPONSE,
    RESIDUAL,  # after scales, which would scale it, too
    ACTIVATION,
    STRIDES,  # after all that look for a Conv behind the value it reads
    DEAD_CODE,
)

MAX_SWEEPS = 10_000
"""Every rewrite makes the graph smaller or simpler; this bound only catches a mistake of ours."""


def rewrite(graph: Graph, off: frozenset[str] = frozenset()) -> tuple[Graph, tuple[Event, ...]]:
    """The graph after all rewrites but `off`; the log has what fired, then what stays refused."""
    unknown = sorted(off - {r.name for r in REWRITES})
    if unknown:
        known = ", ".join((*SWITCHES, *(r.name for r in REWRITES)))
        raise EngineError(f"off: expected names among {known}, got {unknown}; check --off")
    table = [r for r in REWRITES if r.name not in off]
    graph, fired = take_branches(graph, table) if BRANCHES in table else (graph, [])
    for _ in range(MAX_SWEEPS):
        before = len(fired)
        refused: list[Event] = []
        for row in table:
            graph, made, refused_here = sweep(graph, row)
            fired += made
            refused += refused_here
        if len(fired) == before:
            return _without_unused(graph), (*fired, *refused)
    raise EngineError(f"rewrites: expected an end after {MAX_SWEEPS} sweeps, got none; report it")


def _without_unused(graph: Graph) -> Graph:
    """Drop constants and types that nothing names any more."""
    used = {n for node in graph.nodes for n in (*node.reads, *node.writes)}
    used |= {v.name for v in (*graph.inputs, *graph.outputs)}
    return replace(
        graph,
        values={n: v for n, v in graph.values.items() if n in used},
        initializers={n: a for n, a in graph.initializers.items() if n in used},
    )
