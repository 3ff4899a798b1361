"""The segment of a group of image nodes: tasks, their order, rings, steps, and the tape."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from engine.border import Border
from engine.graph import Graph, Value
from engine.images.corners import Corner, Fill, Made, Site
from engine.images.cycles import skips_zeros, writes_once
from engine.images.layout import NO_GRID, Layout
from engine.images.planning import Plan, cheapest, plans_of
from engine.images.pricing import Traffic, traffic_of
from engine.images.schedule import Task
from engine.images.segment import Array, Images, Order
from engine.images.steps import Bordered, export_step, fills_of, import_step, steps_of
from engine.ops.image_work import (
    Convolution,
    ImageWork,
    Laid,
    Plane,
    Pointwise,
    Read,
    Spread,
    Turned,
    plane_of,
)

BAND_PIXELS = 14
"""Pixels of a visit, at least, where an image has them: a step reads its weights once a visit."""

Chooser = Callable[[str, Convolution], str]
"""Node and work -> how its weights are packed."""


@dataclass(frozen=True, slots=True)
class _Job:
    """A task, with what its visits call."""

    task: Task
    node: str
    work: ImageWork | Border
    """A border is imported, or exported by a task that writes nothing."""


def images(
    graph: Graph,
    group: Sequence[tuple[str, ImageWork]],
    wanted: set[str],
    choose: Chooser,
    lanes: int,
    columns: bool,
) -> Images:
    """The segment of (node, work), whose values in `wanted` leave it as arrays of rows."""
    structures = {n: choose(n, work) for n, work in group if isinstance(work, Convolution)}
    parts = _parts(graph, group, wanted, structures, lanes if columns else None)
    plan, considered = _plan(parts.jobs, structures, lanes, columns)
    return _built(parts, lanes, plan, considered)


def priced(
    graph: Graph,
    group: Sequence[tuple[str, ImageWork]],
    wanted: set[str],
    structures: Mapping[str, str],
    lanes: int,
    columns: bool,
    l3_nbytes: int,
) -> tuple[Traffic, int]:
    """The traffic of that segment with so much L3, and its arena's bytes; nothing is packed."""
    jobs = _parts(graph, group, wanted, structures, lanes if columns else None).jobs
    plan, _ = _plan(jobs, structures, lanes, columns)
    tasks, weights = [job.task for job in jobs], [_weights_nbytes(job, structures) for job in jobs]
    traffic = traffic_of(tasks, plan.visits, plan.layouts, weights, l3_nbytes)
    return traffic, plan.arena.nbytes


def lone(work: Convolution, structure: str, lanes: int) -> Images:
    """A segment of one convolution, depth first, whose node is called as its value is."""
    values = {read.value: read.plane for read in work.reads} | {work.write: work.plane}
    borders = [
        Border(name, i, p.channels * p.height * p.width, np.dtype(np.float32))
        for i, (name, p) in enumerate(values.items())
    ]
    jobs = [_Job(_source(b, values[b.value]), "", b) for b in borders[:-1]]
    jobs += [
        _Job(Task(work.write, work.plane, _band(work), work.reads), work.write, work),
        _Job(_export(borders[-1], work.plane), "", borders[-1]),
    ]
    structures = {work.write: structure}
    weights = [_weights_nbytes(job, structures) for job in jobs]
    plan = plans_of([job.task for job in jobs], weights, lanes)[0]
    parts = _Parts((work.write,), jobs, borders[:-1], borders[-1:], structures)
    return _built(parts, lanes, plan, ())


@dataclass(frozen=True, slots=True)
class _Parts:
    """What a segment is built of."""

    nodes: tuple[str, ...]
    jobs: Sequence[_Job]
    imports: Sequence[Border]
    exports: Sequence[Border]
    structures: Mapping[str, str]
    """Of each convolution, by node."""


def _parts(
    graph: Graph,
    group: Sequence[tuple[str, ImageWork]],
    wanted: set[str],
    structures: Mapping[str, str],
    over: int | None,
) -> _Parts:
    """`over`: lanes whose kernels may write one value over another, or None."""
    jobs, imports, exports = _jobs(graph, group, wanted)
    if over is not None:
        jobs = [_over(job, structures, over) for job in jobs]
    return _Parts(tuple(node for node, _ in group), jobs, imports, exports, structures)


def _built(parts: _Parts, lanes: int, plan: Plan, considered: tuple[Order, ...]) -> Images:
    jobs, imports, exports = parts.jobs, parts.imports, parts.exports
    tasks, structures = [job.task for job in jobs], parts.structures
    borders = {b.value: b for b in (*imports, *exports)}
    made = [_steps(job, plan.layouts, structures, lanes, borders) for job in jobs]
    fills = [fills_of(plan.layouts[t.write], lanes) if t.write else () for t in tasks]
    tape = _Tape(tasks, made, fills, plan)
    return Images(
        nodes=parts.nodes,
        steps=tuple(tape.steps),
        tape=tape.written(),
        imports=tuple(imports),
        exports=tuple(exports),
        arena=plan.arena,
        rings=tuple(plan.rings.values()),
        lanes=lanes,
        whole=tuple(sorted(plan.whole)),
        bands=plan.bands,
        considered=considered,
    )


def band(plane: Plane) -> int:
    """Rows of a visit."""
    return max(1, min(plane.height, -(-BAND_PIXELS // plane.width)))


def _plan(
    jobs: Sequence[_Job], structures: Mapping[str, str], lanes: int, columns: bool
) -> tuple[Plan, tuple[Order, ...]]:
    """The plan to follow, and the orders that were considered."""
    weights = [_weights_nbytes(job, structures) for job in jobs]
    plans = plans_of([job.task for job in jobs], weights, lanes)
    chosen = cheapest(plans) if columns else plans[-1]
    return chosen, tuple(p.order(chosen=p is chosen) for p in plans)


def _weights_nbytes(job: _Job, structures: Mapping[str, str]) -> int:
    """About what a visit reads of them."""
    if not isinstance(job.work, Convolution):
        return 0
    if skips_zeros(structures[job.node]):
        return 8 * int(np.count_nonzero(job.work.weights))
    return job.work.weights.nbytes


def _jobs(
    graph: Graph, group: Sequence[tuple[str, ImageWork]], wanted: set[str]
) -> tuple[list[_Job], list[Border], list[Border]]:
    """Imports, the nodes, and exports as tasks; and the borders that they cross."""
    needed = {r.value for _, work in group for r in work.reads}
    group = [(node, work) for node, work in group if work.write in needed | wanted]
    inside = {work.write for _, work in group if not isinstance(work, Turned)}
    outside = dict.fromkeys(
        name
        for _, work in group
        for name in ([work.source] if isinstance(work, Laid) else [r.value for r in work.reads])
        if name not in inside
    )
    imports = [_border(graph.values[name], i) for i, name in enumerate(outside)]
    leaving = [work.write for _, work in group if work.write in wanted]
    exports = [_border(graph.values[n], len(imports) + i) for i, n in enumerate(leaving)]
    jobs = [_Job(_source(b, _plane(graph, b)), "", b) for b in imports if b.value in needed]
    jobs += [
        _Job(Task(work.write, work.plane, _band(work), work.reads), node, work)
        for node, work in group
        if not isinstance(work, Turned)
    ]
    turned = {work.write: (node, work) for node, work in group if isinstance(work, Turned)}
    for b in exports:
        node, work = turned.get(b.value, ("", b))
        jobs.append(_Job(_sink(work, graph), node, work))
    return jobs, imports, exports


def _sink(work: Border | Turned, graph: Graph) -> Task:
    """What only reads: an export."""
    if isinstance(work, Turned):
        return Task("", work.plane, band(work.plane), work.reads)
    return _export(work, _plane(graph, work))


def _export(border: Border, plane: Plane) -> Task:
    return Task("", plane, band(plane), (Read(border.value, plane, padded=False),))


def _over(job: _Job, structures: Mapping[str, str], lanes: int) -> _Job:
    """The job with what it may write over, where its kernels write each pixel once and read
    nothing else of it: the residual of a convolution, either side of an addition."""
    work = job.work
    if isinstance(work, Pointwise):
        over = 0
    elif isinstance(work, Convolution) and writes_once(work, structures[job.node], lanes):
        over = 1
    else:
        return job
    if over >= len(work.reads) or work.reads[over].plane != work.plane or work.reads[over].whole:
        return job
    return replace(job, task=replace(job.task, over=over))


def _plane(graph: Graph, border: Border) -> Plane:
    plane = plane_of(graph.values[border.value])
    assert plane is not None  # or else no work would read or write it
    return plane


def _source(border: Border, plane: Plane) -> Task:
    return Task(border.value, plane, band(plane), ())


def _band(work: ImageWork) -> int:
    """Whole blocks of what is spread."""
    rows = band(work.plane)
    return -(-rows // work.block[0]) * work.block[0] if isinstance(work, Spread) else rows


def _border(value: Value, index: int) -> Border:
    return Border(value.name, index, value.features or 0, value.dtype)


def _steps(
    job: _Job,
    layouts: Mapping[str, Layout],
    structures: Mapping[str, str],
    lanes: int,
    borders: Mapping[str, Border],
) -> list[Made]:
    work = job.work
    if isinstance(work, Border):
        make = import_step if work.value == job.task.write else export_step
        return [make(work, Bordered(job.task.plane, work.value), lanes)]
    if isinstance(work, Laid):
        laid = Bordered(work.plane, work.write, work.strides, job.node)
        return [import_step(borders[work.source], laid, lanes)]
    if isinstance(work, Turned):
        turned = Bordered(work.plane, work.reads[0].value, work.strides, job.node)
        return [export_step(borders[work.write], turned, lanes)]
    return steps_of(Site(job.node, lanes, layouts, structures.get(job.node, "")), work)


class _Tape:
    """Writes int64[visits, TAPE_FIELDS]: step, first row, rows, grids."""

    def __init__(
        self,
        tasks: Sequence[Task],
        made: Sequence[Sequence[Made]],
        fills: Sequence[Sequence[Fill]],
        plan: Plan,
    ) -> None:
        self.steps = [m.step for i in range(len(tasks)) for m in made[i]]
        self.steps += [f.made.step for found in fills for f in found]
        self._numbers = {id(step): i for i, step in enumerate(self.steps)}
        self._tasks, self._made, self._fills, self._plan = tasks, made, fills, plan
        self._offsets = {s.name: s.offset for s in plan.arena.spans}

    def written(self) -> Array:
        rows: list[tuple[int, ...]] = []
        for visit in self._plan.visits:
            below = visit.row >= self._tasks[visit.task].plane.height
            if visit.row == 0 or below:
                fills = (f for f in self._fills[visit.task] if f.below == below)
                rows += [self._row(f.made, f.row, f.rows) for f in fills]
            if not below:
                rows += [self._row(m, visit.row, visit.rows) for m in self._made[visit.task]]
        return np.array(rows, np.int64)

    def _row(self, made: Made, row: int, rows: int) -> tuple[int, ...]:
        grids = [w for corner in made.corners for w in self._grid(corner, row)]
        return (self._numbers[id(made.step)], row, rows, *grids)

    def _grid(self, corner: Corner | None, row: int) -> tuple[int, ...]:
        if corner is None:
            return NO_GRID
        layout = self._plan.layouts[corner.value]
        offset = self._offsets[layout.ring.home]
        return layout.grid(offset, corner.row(row), corner.channel, corner.pixel)
