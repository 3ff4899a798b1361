"""How a scorer starts: the planned program, a session."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Sequence

import engine
from engine.pixels import with_pixels
from engine.stages import compile_stage, cut_at
from numa.memory import trim
from pipeline.course import Course, Leg, Link, Runs, Starts
from pipeline.events import ScorerReady
from pipeline.links import Link as LocalLink
from pipeline.scorer_spec import ScorerSpec
from pipeline.stage_spec import check_model, check_program


def open_course(spec: ScorerSpec, link: Link = LocalLink) -> tuple[Course, ScorerReady]:
    """Compiles the planned program, or its first stage while other processes do theirs, and makes
    it ready. `link` starts the others: by default on this machine.

    Raises NotAsPlanned when model or program are not those that were planned: parts of one run
    must be of one program.
    """
    began = time.perf_counter()
    links: list[Starts] = []
    try:
        links += map(link, spec.later_stages)
        return _opened(spec, links, began)
    except BaseException:
        for started in links:
            started.close()
        raise


def _opened(spec: ScorerSpec, links: Sequence[Starts], began: float) -> tuple[Course, ScorerReady]:
    check_model(spec.model, spec.model_sha256)
    program, flows = _compiled(spec)
    compiled = time.perf_counter()
    session = engine.Session(program, cpus=spec.cpus)
    trim()  # of what reading and compiling took
    opened = time.perf_counter()
    report = {
        "pid": os.getpid(),
        "host": platform.node(),
        "cpus": list(spec.cpus),
        "node": spec.node,
        "compile_seconds": round(compiled - began, 3),
        "session_seconds": round(opened - compiled, 3),
    }
    if not spec.stages:
        return Course.of(session), ScorerReady(spec.scorer, spec.program, report)
    report["stages"] = [link.ready() for link in links]
    runners: list[Runs] = [session, *links]
    legs = [Leg(runs, *flow) for runs, flow in zip(runners, flows, strict=True)]
    return Course(legs), ScorerReady(spec.scorer, spec.program, report)


_Flow = tuple[tuple[str, ...], tuple[str, ...]]
"""What a stage takes, and what is carried on after it."""


def _compiled(spec: ScorerSpec) -> tuple[engine.Program, list[_Flow]]:
    """The planned program and no flows, or that of the first stage and the flows of all."""
    graph = with_pixels(engine.load(spec.model, spec.outputs), spec.pixels)
    if not spec.stages:
        program = engine.compile(graph, choices=spec.choices, **spec.switches)
        check_program(spec.model, program, spec.program)
        return program, []
    stages = cut_at(graph, spec.begins, **spec.switches)
    flows = [(tuple(v.name for v in stage.graph.inputs), stage.carries) for stage in stages]
    first = stages[0]
    del graph, stages  # and with them the maps of later stages' weights
    program = compile_stage(first, spec.choices, **spec.switches)
    check_program(spec.model, program, spec.stages[0].program)
    return program, flows
