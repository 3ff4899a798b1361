"""What the compiler did with a model, and why: for people as text, for machines as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engine.batch import known_by_length
from engine.compiler import Compilation, compilation
from engine.confirming import Timer
from engine.dispatch import Choice
from engine.graph import Graph
from engine.images.lanes import Lanes
from engine.ops.work import Linear, Refusal
from engine.program import Program
from engine.rewrites import Event
from engine.segments import Code, Fallback
from engine.sparsity import Sparsity, measure
from engine.work_share import TYPICAL_TOKENS, multiply_adds
from engine.working_set import ImageSet, WorkingSet, working_sets
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
    """A row's, zeros counted; of one with as many tokens as `Explanation.sequences` says."""
    share: float
    """Of the whole graph's multiply-adds, 0..1."""
    sparsity: Sparsity | None


@dataclass(frozen=True, slots=True)
class SequenceReport:
    """What is known of the sequences of a model before a batch comes."""

    tokens: int
    """Of the row whose multiply-adds are counted: what attention takes grows with its square."""
    max_tokens: int | None
    """The longest sequence that the model has positions for; None where it has no limit."""
    id_limits: Mapping[str, int]
    """For each input of ids, the first id that is too large."""
    known_by_length: tuple[str, ...]
    """Inputs that need no field: masks, token types and positions."""

    def lines(self) -> list[str]:
        most = "no limit" if self.max_tokens is None else f"at most {self.max_tokens:,} tokens"
        lines = [f"length of a row: {most}"]
        lines += [f"{name}: ids from 0 to {n - 1:,}" for name, n in self.id_limits.items()]
        if self.known_by_length:
            lines.append(f"known by length where not fed: {', '.join(self.known_by_length)}")
        lines.append(f"work is counted for a row of {self.tokens:,} tokens")
        return lines


@dataclass(frozen=True, slots=True)
class Explanation:
    """Everything that is known before a row is read."""

    source: Graph
    graph: Graph
    events: tuple[Event, ...]
    program: Program
    choices: tuple[Choice, ...]
    nodes: tuple[NodeReport, ...]
    working_sets: tuple[WorkingSet | ImageSet, ...]
    sequences: SequenceReport | None
    """None where the model has none."""
    lanes: Lanes | None = None
    """How many images go side by side; None where there are none."""

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
            *self._sequence_section(),
            *([("Images side by side", self.lanes.lines())] if self.lanes else []),
            ("Working set", self._working_set_lines() or ["no columns"]),
            ("Fallbacks", self._fallback_lines()),
            ("Program", str(self.program).split("\n")),
            ("Fingerprint", [self.program.fingerprint]),
        )
        return "\n\n".join("\n".join([title, *(f"  {x}" for x in ls)]) for title, ls in sections)

    def _sequence_section(self) -> list[tuple[str, list[str]]]:
        return [("Sequences", self.sequences.lines())] if self.sequences else []

    def _working_set_lines(self) -> list[str]:
        return [line for w in self.working_sets for line in str(w).split("\n")]

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
        lines.insert(0, f"{self.fallback_share:.1%} of the multiply-adds run through the reference")
        if self.sequences:
            lines.append("Rows go through it one by one in batches whose rows differ in length")
        if unpriced := self.program.unpriced:
            lines.append(
                "The memory bound leaves out, because nobody knows its size before a batch:"
            )
        return [*lines, *(f"  {sentence}" for sentence in unpriced)]

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
            "working_sets": [w.to_json() for w in self.working_sets],
            "sequences": asdict(self.sequences) if self.sequences else None,
            "lanes": self.lanes.to_json() if self.lanes else None,
            "fallback_share": self.fallback_share,
            "unpriced": list(self.program.unpriced),
            "weights_nbytes": self.program.weights_nbytes,
            "program": str(self.program).split("\n"),
        }


def explain(
    model: str | Path | Graph, *, timer: Timer | None = None, **switches: Any
) -> Explanation:
    """Compiles the model and tells what was done, node by node. Arguments and errors as
    `engine.compile`."""
    found = compilation(model, timer=timer, **switches)
    assert found.program is not None
    sequences = _sequences(found.program)
    l2_nbytes = Topology.discover().cache_nbytes(2) or DEFAULT_L2
    return Explanation(
        source=found.source,
        graph=found.graph,
        events=found.events,
        program=found.program,
        choices=found.choices,
        nodes=_nodes(found, sequences.tokens if sequences else 0),
        working_sets=working_sets(found.program, l2_nbytes),
        sequences=sequences,
        lanes=found.lanes,
    )


def _nodes(found: Compilation, tokens: int) -> tuple[NodeReport, ...]:
    kernels: dict[str, list[str]] = {}
    assert found.program is not None
    for segment in found.program.segments:
        if not isinstance(segment, Fallback):
            for step in segment.steps:
                within = (word.kernel for word in step.operands if isinstance(word, Code))
                kernels.setdefault(step.node, []).extend((step.kernel, *within))
    work = {item.node.name: multiply_adds(item.node, found.graph, tokens) for item in found.lowered}
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


def _sequences(program: Program) -> SequenceReport | None:
    if not any(v.has_tokens for v in program.inputs):
        return None
    return SequenceReport(
        tokens=min(TYPICAL_TOKENS, program.max_tokens or TYPICAL_TOKENS),
        max_tokens=program.max_tokens,
        id_limits=dict(program.id_limits),
        known_by_length=tuple(v.name for v in program.inputs if known_by_length(v)),
    )
