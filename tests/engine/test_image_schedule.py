"""The order of visits over images and the rings it needs, against rings that are really filled."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from engine.arena import Lifetime, plan
from engine.images.layout import Layout
from engine.images.schedule import Ring, Task, rings_of, visits_of
from engine.ops.image_work import POINT, Plane, Read, Window


@st.composite
def windows(draw: st.DrawFn, height: int) -> Window:
    size = draw(st.integers(1, 4))
    dilation = draw(st.integers(1, 2))
    reach = (size - 1) * dilation
    before = draw(st.integers(0, reach))
    return Window(size, draw(st.integers(1, 3)), dilation, before)


def results(window: Window, height: int, after: int) -> int:
    """Rows of what the window makes of so many, with `after` rows of padding behind them."""
    reach = (window.size - 1) * window.dilation
    return max(1, (height + window.before + after - reach - 1) // window.stride + 1)


@st.composite
def lists(draw: st.DrawFn, task: Task, height: int) -> tuple[tuple[int, int], ...]:
    """Rows of a task by their numbers, in any order, for so many results; for some none."""
    rows = st.integers(0, task.plane.height - 1)
    pairs = st.one_of(st.just((0, -1)), st.tuples(rows, rows).map(lambda p: (min(p), max(p))))
    found = draw(st.lists(pairs, min_size=height, max_size=height))
    return (draw(rows.map(lambda r: (r, r))), *found[1:])  # who needs nothing at all does not read


@st.composite
def nets(draw: st.DrawFn) -> tuple[Task, ...]:
    """An input, then nodes that read one or two of what stands before them, then exports."""
    tasks = [Task("v0", Plane(1, draw(st.integers(1, 12)), 8), draw(st.integers(1, 4)), ())]
    for number in range(1, draw(st.integers(2, 7))):
        source = draw(st.sampled_from(tasks))
        plane, reads = source.plane, []
        window = draw(windows(plane.height))
        if draw(st.booleans()):
            window = Window()
        height = results(window, plane.height, draw(st.integers(0, 2)))
        reads = [Read(source.write, plane, window, padded=True)]
        same = [t for t in tasks if t.plane.height == height]
        if same and draw(st.booleans()):
            other = draw(st.sampled_from(same))
            reads.append(Read(other.write, other.plane, padded=False))
        if draw(st.integers(0, 3)) == 0:
            far = draw(st.sampled_from(tasks))
            listed = draw(lists(far, height))
            reads.append(Read(far.write, far.plane, padded=False, listed=listed))
        if draw(st.integers(0, 5)) == 0:
            whole = draw(st.sampled_from(tasks))
            reads.append(Read(whole.write, whole.plane, padded=False, whole=True))
        made = Plane(1, height, 8)
        pointwise = [i for i, r in enumerate(reads) if r.plane == made and r.rows == POINT]
        over = draw(st.sampled_from([None, *(i for i in pointwise if not reads[i].whole)]))
        tasks.append(Task(f"v{number}", made, draw(st.integers(1, 4)), tuple(reads), over))
    read = {r.value for t in tasks for r in t.reads}
    ends = [t for t in tasks if t.write not in read] or [tasks[-1]]
    tasks += [Task("", t.plane, 1, (Read(t.write, t.plane, padded=False),)) for t in ends]
    return tuple(tasks)


@given(nets(), st.data())
def test_every_row_once_and_there_when_it_is_read(
    net: tuple[Task, ...], data: st.DataObject
) -> None:
    names = [t.write for t in net if t.write]
    whole = frozenset(data.draw(st.sets(st.sampled_from(names))))
    visits = visits_of(net, whole)
    rings = rings_of(net, visits)
    since: dict[tuple[str, int], int] = {}
    held: dict[str, list[tuple[str, int] | None]] = {
        n: [None] * r.slots for n, r in rings.items() if r.home == n
    }
    seen: list[list[int]] = [[] for _ in net]
    for time, visit in enumerate(visits):
        task = net[visit.task]
        rows = range(visit.row, visit.row + visit.rows)
        below = visit.row >= task.plane.height
        seen[visit.task] += () if below else rows
        for read in () if below else task.reads:
            ring, wanted = rings[read.value], needed(read, rows)
            assert not wanted or ring.first < time <= ring.end
            for row in wanted:
                if read.padded or 0 <= row < read.plane.height:
                    assert held[ring.home][slot(ring, row)] == (read.value, row), (read, row)
                    begun = since[read.value, row]
                    assert any(a <= begun and time <= b for a, b in ring.spells), "others lie there"
        if task.write:
            ring = rings[task.write]
            assert ring.first <= time <= ring.end
            top = range(-ring.top, 0) if visit.row == 0 else range(0)
            for row in (*top, *rows):
                held[ring.home][slot(ring, row)] = task.write, row
                since[task.write, row] = time
    for task, found in zip(net, seen, strict=True):
        assert found == list(range(task.plane.height if not task.write else len(found)))


def test_a_value_whose_rows_are_taken_by_number_is_not_written_over() -> None:
    """Row 1 of what would lie over it wants row 0 again."""
    plane = Plane(1, 2, 8)
    over = Read("v1", plane, padded=False, listed=((0, 0), (0, 0)))
    net = (
        Task("v0", plane, 1, ()),
        Task("v1", plane, 1, (Read("v0", plane),)),
        Task("v2", plane, 1, (Read("v0", plane), over), over=1),
        Task("", plane, 1, (Read("v2", plane, padded=False),)),
    )
    rings = rings_of(net, visits_of(net, frozenset()))
    assert rings["v2"].home == "v2"
    by_pixel = replace(net[2], reads=(net[2].reads[0], replace(over, listed=())))
    net = (*net[:2], by_pixel, net[3])
    assert rings_of(net, visits_of(net, frozenset()))["v2"].home == "v1"


def needed(read: Read, rows: range) -> list[int]:
    if read.whole:
        return list(range(read.plane.height))
    if read.listed:
        return [k for row in rows for k in range(read.listed[row][0], read.listed[row][1] + 1)]
    w = read.rows
    return [r // w.up * w.stride - w.before + k * w.dilation for r in rows for k in range(w.size)]


def slot(ring: Ring, row: int) -> int:
    return (row + ring.top) % ring.slots


def chain(height: int, layers: int) -> tuple[Task, ...]:
    """Convolutions of 3x3 one after the other."""
    plane, window = Plane(4, height, height), Window(3, 1, 1, 1)
    tasks = [Task("v0", plane, 1, ())]
    for i in range(1, layers + 1):
        tasks.append(Task(f"v{i}", plane, 1, (Read(f"v{i - 1}", plane, window, window),)))
    return (*tasks, Task("", plane, 1, (Read(f"v{layers}", plane, padded=False),)))


def test_a_chain_keeps_three_rows_of_each_value_however_tall() -> None:
    for height in (8, 200):
        tasks = chain(height, 5)
        rings = rings_of(tasks, visits_of(tasks, frozenset()))
        assert [rings[f"v{i}"].slots for i in range(6)] == [3, 3, 3, 3, 3, 1]


def blocks(count: int, channels: int = 4) -> tuple[Task, ...]:
    """Residual blocks: 1x1, 3x3, then 1x1 with the block's input added to it."""
    plane, window = Plane(channels, 20, 20), Window(3, 1, 1, 1)
    tasks = [Task("x0", plane, 1, ())]
    for i in range(count):
        block = Read(f"x{i}", plane, padded=False)
        tasks.append(Task(f"a{i}", plane, 1, (block,)))
        tasks.append(Task(f"b{i}", plane, 1, (Read(f"a{i}", plane, window, window),)))
        reads = (Read(f"b{i}", plane, padded=False), block)
        tasks.append(Task(f"x{i + 1}", plane, 1, reads, over=1))
    return (*tasks, Task("", plane, 1, (Read(f"x{count}", plane, padded=False),)))


def test_residual_blocks_of_a_stage_share_one_ring() -> None:
    tasks = blocks(3)
    rings = rings_of(tasks, visits_of(tasks, frozenset()))
    assert {rings[f"x{i}"].home for i in range(4)} == {"x0"}
    assert {rings[f"x{i}"].slots for i in range(4)} == {4}, "a row in front for each block"
    apart = tuple(replace(t, over=None) for t in tasks)
    single = rings_of(apart, visits_of(apart, frozenset()))
    assert sum(single[f"x{i}"].slots for i in range(4)) == 2 * 3 + 1
    assert {single[f"x{i}"].home for i in range(4)} == {f"x{i}" for i in range(4)}


def test_rows_that_are_read_at_once_leave_their_memory_to_others() -> None:
    tasks = blocks(3)
    rings = rings_of(tasks, visits_of(tasks, frozenset()))
    lives = [Lifetime(n, 64, r.first, r.end, r.spells) for n, r in rings.items() if r.home == n]
    one = [life for life in lives if life.name.startswith("b")]
    assert len(one) == 3 and all(len(life.spells) == 20 for life in one)
    assert plan(one).nbytes == 64 < plan([replace(life, spells=()) for life in one]).nbytes


def test_what_is_read_later_is_not_written_over() -> None:
    *tasks, export = blocks(1)
    x0 = Read("x0", export.plane, padded=False)
    late = (*tasks, Task("", export.plane, 1, (export.reads[0], x0)))
    assert rings_of(late, visits_of(late, frozenset()))["x1"].home == "x1"
    padded = Read("x1", export.plane, Window(3, 1, 1, 1))
    wide = (*tasks, Task("", export.plane, 1, (padded,)))
    assert rings_of(wide, visits_of(wide, frozenset()))["x1"].home == "x1"


def test_layer_by_layer_keeps_whole_values() -> None:
    tasks = chain(8, 2)
    visits = visits_of(tasks, frozenset({"v0", "v1", "v2"}))
    assert [v.task for v in visits if v.row < 8] == sorted(v.task for v in visits if v.row < 8)
    # with the rows of padding: all of v2 is made in one visit, which reads them all
    assert rings_of(tasks, visits)["v1"].slots == 8 + 2


def test_channels_do_not_fall_into_the_same_sets_of_the_cache() -> None:
    for width in range(1, 70):
        for lanes in (8, 16):
            layout = Layout(
                Ring("x", 3, 1, 1, 1, 1, 0, 1, ((0, 1),), "x"), Plane(4, 9, width), lanes
            )
            assert layout.width >= width + 2
            assert layout.channel_nbytes // 64 % 2 == 1 or layout.width == 1
