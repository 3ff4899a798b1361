"""From a BenchSpec to a Report: sessions made ready, outputs compared, turns taken, steps timed."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import engine
from engine import rival
from engine.errors import EngineError, UnsupportedError
from engine.explanation import Explanation
from engine.program import Program
from jobs.bench.contest import Contender, Rates, contest, cores
from jobs.bench.feeds import Sample, open_dimensions, sample
from jobs.bench.report import CONTENDERS, OURS, PADDED, SWITCHED, Figure, Machine, Report
from jobs.bench.segments import segment_figures
from jobs.bench.spec import BenchSpec
from jobs.errors import JobError
from numa.affinity import staying_on, thread_cpus
from numa.placement import places
from numa.topology import Topology

Say = Callable[[str], None]


class BenchError(JobError):
    """A bench whose result would be worth nothing."""


def measure(spec: BenchSpec, say: Say) -> Report:
    """Everything `colonnade bench` shows. `say` is told what is being done."""
    say("compiling")
    graph = engine.load(spec.model, spec.outputs)
    explanation = engine.explain(graph, timer=engine.Stopwatch())
    machine = _machine(spec.threads)
    batch = sample(spec, explanation.program)
    notes = _notes(spec, explanation, machine)
    pool = tuple(thread_cpus())  # before any session: this thread and those of numpy's BLAS
    with ExitStack() as open_sessions:
        contenders = _ours(graph, machine, batch, open_sessions)
        contenders += _theirs(spec, explanation.program, machine, batch, notes)
        say("comparing outputs")
        most = rival.tolerance(explanation.program)
        contenders = _agreeing(contenders, notes, most, made_up=not spec.input)
        notes += _padding_notes(batch, contenders)
        rates = contest(contenders, pool, batch.rows, spec, say)
    say("timing every step")
    with staying_on(machine.cpus[:1], pool):
        profile = engine.profile(explanation.program, batch.feeds, machine.cpus[0], spec.rounds)
        layers = engine.compile(graph, choices=explanation.program.choices, columns=False)
        segments = segment_figures(
            explanation.program, layers, batch.feeds, machine.cpus[0], spec.rounds
        )
    return Report(
        model=str(spec.model),
        date=datetime.now().astimezone().isoformat(timespec="seconds"),
        versions=_versions(rates),
        machine=machine,
        rows=batch.rows,
        tokens=batch.tokens,
        shortest=batch.shortest,
        longest=batch.longest,
        padding=batch.padding,
        rounds=spec.rounds,
        seconds=spec.seconds,
        feeds=batch.source,
        figures=_figures(rates, batch),
        profile=profile,
        segments=segments,
        explanation=explanation,
        notes=tuple(notes),
    )


def _machine(threads: int | None) -> Machine:
    topology = Topology.discover()
    place = places(topology, engines=1, threads=threads)[0]
    return Machine(
        processor=_processor(),
        cpus=place.cpus,
        cores=len(topology.cores),
        numa_node=place.node,
        numa_nodes=sum(1 for node in topology.nodes if node.cores),
        l2_nbytes=topology.cache_nbytes(2),
        l3_nbytes=topology.cache_nbytes(3),
    )


def _processor() -> str:
    """As the kernel names it; not every architecture's does."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or f"{platform.machine()} processor"


def _notes(spec: BenchSpec, explanation: Explanation, machine: Machine) -> list[str]:
    notes = []
    for value in explanation.program.inputs if not spec.input else ():
        if note := open_dimensions(value):
            notes.append(note)
    if machine.numa_nodes > 1:
        notes.append(
            f"all cores means those of NUMA node {machine.numa_node}; "
            f"a job runs an engine on each of the {machine.numa_nodes}"
        )
    return notes


def _ours(
    graph: engine.Graph, machine: Machine, batch: Sample, open_sessions: ExitStack
) -> list[Contender]:
    """Colonnade, then with switches off, on one core and on all."""
    made = []
    for name, switches in SWITCHED.items():
        program = engine.compile(graph, timer=engine.Stopwatch(), **switches)
        wide = _padded(batch, program, []) if name == OURS and batch.padding else None
        for cpus in _cpu_sets(machine):
            session = open_sessions.enter_context(engine.Session(program, cpus))
            made.append(Contender(name, cpus, partial(session.run, batch.feeds)))
            if wide is not None:
                made.append(Contender(PADDED, cpus, partial(session.run, wide)))
    return made


def _padded(batch: Sample, program: Program, notes: list[str]) -> Mapping[str, Any] | None:
    """The feeds without sequences, or None where the model does not let rows be padded."""
    try:
        return rival.padded(batch.feeds, program.inputs)
    except UnsupportedError as error:
        notes.append(str(error))
        return None


def _cpu_sets(machine: Machine) -> tuple[tuple[int, ...], ...]:
    return tuple(dict.fromkeys((machine.cpus[:1], machine.cpus)))


def _theirs(
    spec: BenchSpec, program: Program, machine: Machine, batch: Sample, notes: list[str]
) -> list[Contender]:
    """onnxruntime, if it is there and takes the model and the rows."""
    if spec.engine_only:
        return []
    if rival.installed_version() is None:
        notes.append("onnxruntime is not installed; pip install onnxruntime to compare with it")
        return []
    feeds = _padded(batch, program, notes)
    if feeds is None:
        return []
    made = []
    for cpus in _cpu_sets(machine):
        with staying_on(cpus):  # its threads inherit it
            try:
                theirs = rival.Rival(spec.model, len(cpus), spec.outputs)
            except UnsupportedError as error:
                notes.append(str(error))
                return []
        made.append(Contender(rival.NAME, cpus, partial(theirs.run, feeds)))
    return made


def _agreeing(
    contenders: list[Contender], notes: list[str], most: float, *, made_up: bool
) -> list[Contender]:
    """Runs everyone once. A disagreement is a BenchError; who cannot run the rows is left out."""
    outputs: dict[int, Any] = {}
    for index, contender in enumerate(contenders):
        try:
            with staying_on(contender.cpus):
                outputs[index] = contender.run()
        except EngineError as error:
            if contender.name != rival.NAME:
                hint = "; made-up rows may not suit it, give real ones with --input"
                raise BenchError(f"{error}{hint if made_up else ''}") from error
            if str(error) not in notes:
                notes.append(str(error))
    for index, found in outputs.items():
        problem = rival.disagreement(outputs[0], found, most)
        if problem is not None:
            who = contenders[index]
            raise BenchError(
                f"bench: expected the same outputs from {OURS} and {who.name} on {cores(who)}, "
                f"got {problem}; `colonnade run --off` helps to find what is wrong"
            )
    left = [c for index, c in enumerate(contenders) if index in outputs]
    return sorted(left, key=lambda c: (len(c.cpus), CONTENDERS.index(c.name)))


def _padding_notes(batch: Sample, contenders: list[Contender]) -> Iterator[str]:
    """Who was given padded rows."""
    names = [n for n in (rival.NAME, PADDED) if any(c.name == n for c in contenders)]
    if batch.padding and names:
        yield (
            f"{' and '.join(names)}: the same rows padded to {batch.longest} tokens, with a mask; "
            f"{batch.padding:.1%} of those tokens are padding"
        )


def _figures(rates: tuple[Rates, ...], batch: Sample) -> tuple[Figure, ...]:
    medians = {(r.contender.name, len(r.contender.cpus)): r.median for r in rates}
    figures = []
    for r in rates:
        name, count = r.contender.name, len(r.contender.cpus)
        ratio, scaling = medians[OURS, count] / r.median, r.median / medians[name, 1]
        tokens = r.median * batch.tokens / batch.rows if batch.rows else 0.0
        figures.append(Figure(name, count, r.median, r.lowest, r.highest, tokens, ratio, scaling))
    return tuple(figures)


def _versions(rates: tuple[Rates, ...]) -> dict[str, str]:
    names = ["colonnade", "numpy", "numba"]
    names += [rival.NAME] if any(r.contender.name == rival.NAME for r in rates) else []
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "from source"
    return found
