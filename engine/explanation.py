"""What the compiler did with a model, and why: for people as text, for machines as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engine.compiler import Compilation, compilation
from engine.dispatch import Choice
from engine.graph import Graph
from engine.ops.work import Linear, Refusal
from engine.program import Column, Program
from engine.rewrites import Event
from engine.sparsity import Sparsity, measure
from engine.work_share import multiply_adds
from numa.notation import size
from numa.topology import Topology

DEFAULT_L2 = 512 * 1024


@dataclass(frozen=True, slots=True)
class NodeReport:
    """One node of the rewritten graph, and who runs it."""

    node: str
    operator: str
    kernel: str
    """Name of the kernel, `view` where nothing needs to be done, or `reference`."""
    reason: str
    multiply_adds: int
    """A row's, zeros counted."""
    share: float
    """Of the whole graph's multiply-adds, 0..1."""
    sparsity: Sparsity | None


@dataclass(frozen=True, slots=True)
class WorkingSet:
    """What one column of a segment touches again and again, against the cache that should hold
    it."""

    segment: int
    arena_nbytes: int
    streamed_nbytes: int
    """Weights that pass through once a column."""
    l2_nbytes: int

    @property
    def fits(self) -> bool:
        return self.arena_nbytes <= self.l2_nbytes

    def __str__(self) -> str:
        verdict = "fits in" if self.fits else "does NOT fit in"
        return (
            f"segment {self.segment}: {size(self.arena_nbytes)} of activations a column {verdict} "
            f"{size(self.l2_nbytes)} of L2; {size(self.streamed_nbytes)} of weights stream through"
        )


@dataclass(frozen=True, slots=True)
class Explanation:
    """Everything that is known before a row is read."""

    source: Graph
    graph: Graph
    events: tuple[Event, ...]
    program: Program
    choices: tuple[Choice, ...]
    nodes: tuple[NodeReport, ...]
    working_sets: tuple[WorkingSet, ...]

    @property
    def fallback_share(self) -> float:
        """Share of the multiply-adds that run through the reference, 0..1."""
        return sum(n.share for n in self.nodes if n.kernel == "reference")

    def __str__(self) -> str:
        sections = (
            ("Graph as read", str(self.source).split("\n")),
            ("Rewrites", [str(e) for e in self.events] or ["none fired, none refused"]),
            ("Graph as compiled", str(self.graph).split("\n")),
            ("Kernels", self._kernel_lines()),
            ("Working set", [str(w) for w in self.working_sets] or ["no columns"]),
            ("Fallbacks", self._fallback_lines()),
            ("Program", str(self.program).split("\n")),
            ("Fingerprint", [self.program.fingerprint]),
        )
        return "\n\n".join("\n".join([title, *(f"  {x}" for x in ls)]) for title, ls in sections)

    def _kernel_lines(self) -> list[str]:
        lines = []
        for n in self.nodes:
            zeros = f"  {n.sparsity}" if n.sparsity else ""
            lines.append(f"{n.node} ({n.operator}) {n.share:.1%}: {n.kernel}{zeros}")
        for choice in self.choices:
            lines.append(f"{choice.node}: {choice.kernel} because {choice.reason}")
            lines += [f"  {candidate}" for candidate in choice.candidates]
        return lines

    def _fallback_lines(self) -> list[str]:
        found = [n for n in self.nodes if n.kernel == "reference"]
        if not found:
            return ["none: every node has a kernel"]
        lines = [f"{n.node} ({n.operator}) {n.share:.1%} of the work: {n.reason}" for n in found]
        return [f"{self.fallback_share:.1%} of the multiply-adds run through the reference", *lines]

    def to_json(self) -> dict[str, Any]:
        """The same as plain values."""
        return {
            "model": self.source.name,
            "fingerprint": self.program.fingerprint,
            "inputs": [str(v) for v in self.program.inputs],
            "outputs": [str(v) for v in self.program.outputs],
            "graph": [str(n) for n in self.graph.nodes],
            "rewrites": [asdict(e) for e in self.events],
            "nodes": [asdict(n) for n in self.nodes],
            "choices": [asdict(c) for c in self.choices],
            "working_sets": [{**asdict(w), "fits": w.fits} for w in self.working_sets],
            "fallback_share": self.fallback_share,
            "weights_nbytes": self.program.weights_nbytes,
            "program": str(self.program).split("\n"),
        }


def explain(model: str | Path | Graph, **switches: Any) -> Explanation:
    """Compiles the model and tells what was done, node by node. Errors as `engine.compile`."""
    found = compilation(model, **switches)
    assert found.program is not None
    l2_nbytes = Topology.discover().cache_nbytes(2) or DEFAULT_L2
    return Explanation(
        source=found.source,
        graph=found.graph,
        events=found.events,
        program=found.program,
        choices=found.choices,
        nodes=_nodes(found),
        working_sets=_working_sets(found.program, l2_nbytes),
    )


def _nodes(found: Compilation) -> tuple[NodeReport, ...]:
    kernels: dict[str, list[str]] = {}
    assert found.program is not None
    for segment in found.program.segments:
        if isinstance(segment, Column):
            for step in segment.steps:
                kernels.setdefault(step.node, []).append(step.kernel)
    work = {item.node.name: multiply_adds(item.node, found.graph) for item in found.lowered}
    total = sum(work.values()) or 1
    reports = []
    for item in found.lowered:
        refused = isinstance(item.work, Refusal)
        names = dict.fromkeys(kernels.get(item.node.name, ["view"]))
        reports.append(
            NodeReport(
                node=item.node.name,
                operator=item.node.label,
                kernel="reference" if refused else " + ".join(names),
                reason=item.work.reason if isinstance(item.work, Refusal) else "",
                multiply_adds=work[item.node.name],
                share=work[item.node.name] / total,
                sparsity=measure(item.work.weights) if isinstance(item.work, Linear) else None,
            )
        )
    return tuple(reports)


def _working_sets(program: Program, l2_nbytes: int) -> tuple[WorkingSet, ...]:
    return tuple(
        WorkingSet(index, s.arena.nbytes, s.weights_nbytes, l2_nbytes)
        for index, s in enumerate(program.segments)
        if isinstance(s, Column)
    )
