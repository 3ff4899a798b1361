"""Jobs over models in stages: the bytes of one piece, and a stage that is killed in mid-job."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil
import pytest
import small_job
import small_models as small
import token_jobs
from here import driven, here
from machines import BY_NAME, write_tree
from small_job import SHARDS, Source, words

from jobs.executors import Seat, StageSeat, groups_of
from jobs.memory import _processes, check_memory
from jobs.planning import prepare
from jobs.resolving import resolve
from jobs.run import score
from jobs.spec import JobSpec
from numa.errors import NumaError
from numa.placement import Place
from numa.topology import Topology
from pipeline.errors import MemoryPlanError

two_cpus = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two processors")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return small_job.write(tmp_path_factory.mktemp("source"))


def parts(output: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in output.glob("part-*")}


@two_cpus
def test_two_stages_write_the_same_bytes(source: Source, tmp_path: Path) -> None:
    outputs = tmp_path / "one", tmp_path / "two"
    runs = [
        run(*words(source, output, "--stages", stages))
        for run, output, stages in zip((here, driven), outputs, ("1", "2"), strict=True)
    ]
    assert [run.code for run in runs] == [0, 0], runs[1].stderr
    small_job.check_exactly_once(source, outputs[1])
    assert parts(outputs[0]) == parts(outputs[1])
    (later,) = runs[1].events("ScorerReady")[0]["report"]["stages"]
    assert later["stage"] == 1 and later["threads_off_place"] == 0
    assert later["cpus"] != runs[1].events("ScorerReady")[0]["report"]["cpus"]
    again = here(*words(source, outputs[1]))
    assert again.code == 0 and not again.lent, "the number of stages is no part of a run"


@two_cpus
def test_sequences_in_stages_write_the_same_bytes(tmp_path: Path) -> None:
    folder = token_jobs.write(tmp_path / "job", token_jobs.rows())
    found = []
    for run, stages in ((here, "1"), (driven, "2")):
        output = tmp_path / f"out-{stages}"
        done = run(*token_jobs.words(folder, output, "--stages", stages))
        assert done.code == 0, done.stderr
        found.append(parts(output))
    assert found[0] == found[1]


@contextmanager
def frozen_in_mid_job(source: Source, output: Path) -> Iterator[subprocess.Popen[str]]:
    """A job in two stages whose scorer stops itself with shards in flight."""
    frozen = output.with_name("frozen")
    env = {"COLONNADE_FAILPOINT": "before_encode:4=stop", "COLONNADE_FAILPOINT_ONCE": str(frozen)}
    with small_job.popen(*words(source, output, "--stages", "2"), env=env) as process:
        while not frozen.exists():
            assert process.poll() is None
            time.sleep(0.02)
        yield process


@two_cpus
def test_a_stage_killed_in_mid_job(source: Source, tmp_path: Path) -> None:
    """The scorer cannot go on without it: all stages start again, and nothing is lost."""
    output = tmp_path / "out"
    with frozen_in_mid_job(source, output) as process:
        scorer = next(p for p in psutil.Process(process.pid).children() if p.status() == "stopped")
        (stage,) = scorer.children()
        stage.kill()
        os.kill(scorer.pid, signal.SIGCONT)
        run = small_job.finish(process)
    assert run.code == 0, run.stderr
    (death,) = run.events("ScorerDied")
    assert "stage 1 (process" in death["reason"] and "ended with signal 9" in death["reason"]
    assert len(run.events("ScorerReady")) == 2
    assert SHARDS < len(run.lent) <= SHARDS + 2, "only what was in flight is lent again"
    small_job.check_exactly_once(source, output)


@two_cpus
def test_stages_end_with_their_scorer(source: Source, tmp_path: Path) -> None:
    output = tmp_path / "out"
    with frozen_in_mid_job(source, output) as process:
        family = psutil.Process(process.pid).children(recursive=True)
        assert len(family) == 2
        process.kill()
        _, left = psutil.wait_procs(family, timeout=small_job.TIMEOUT)
    assert not left
    assert here(*words(source, output)).code == 0
    small_job.check_exactly_once(source, output)


def test_more_stages_than_the_model_has(source: Source, tmp_path: Path) -> None:
    run = here(*words(source, tmp_path / "out", "--stages", "9"))
    assert run.code == 1 and not (tmp_path / "out").exists()
    assert "cut it into 9 stages" in run.stderr or "ask for fewer engines" in run.stderr


def test_each_scorer_gets_neighbouring_places(tmp_path: Path) -> None:
    topology = Topology.discover(write_tree(BY_NAME["sub-NUMA clusters"], tmp_path))
    groups = groups_of(topology, None, None, 2)
    assert [[place.node for place in group] for group in groups] == [[0, 1], [2, 3]]
    assert [len(group) for group in groups_of(topology, 1, None, 3)] == [3]
    assert [len(group) for group in groups_of(topology, None, None, 1)] == [1, 1, 1, 1]
    with pytest.raises(NumaError, match="got 99; ask for fewer engines, or fewer --stages"):
        groups_of(topology, None, None, 99)


def wide(path: Path) -> Path:
    """x[8] -> 1024 -> 1024 -> 1024 -> y[4]: 8 MB of weights, half of them in each of two stages."""
    widths = (8, 1024, 1024, 1024, 4)
    weights = {f"w{i}": np.full(s, 0.01, np.float32) for i, s in enumerate(pairwise(widths))}
    names = ("x", "a", "b", "c", "y")
    layers = [small.node("MatMul", f"{x} w{i}", y) for i, (x, y) in enumerate(pairwise(names))]
    onnx.save(small.model(layers, {"x": ["N", 8]}, {"y": ["N", 4]}, weights), path)
    return path


def seats(stages: int, node_nbytes: int = 8 << 30) -> tuple[Seat, ...]:
    """One scorer on a machine with a NUMA node a stage."""
    homes = [StageSeat("here", Place(n, n, (n,)), 16 << 30, node_nbytes) for n in range(stages)]
    shared = tuple(homes) if stages > 1 else ()
    return (Seat(0, "here", homes[0].place, 16 << 30, node_nbytes, shared),)


def bounded(source: Source, tmp_path: Path, stages: int | str, **more: Any) -> JobSpec:
    return resolve(
        {
            "model": str(wide(tmp_path / "wide.onnx")), "input": [str(source.data)],
            "output": str(tmp_path / "out"), "stages": stages, **more,
        }
    )  # fmt: skip


def test_auto_takes_the_fewest_stages_that_fit(source: Source, tmp_path: Path) -> None:
    """By the bound of a process, and by the memory of the NUMA nodes."""
    asked: list[int] = []

    def reseat(stages: int, nbytes: int = 8 << 30) -> tuple[Seat, ...]:
        asked.append(stages)
        return seats(stages, nbytes)

    whole = prepare(bounded(source, tmp_path, "auto"), seats(1), reseat)
    assert not asked and whole.plan.stages == 1
    two = prepare(bounded(source, tmp_path, 2), seats(2))
    (one,), both = _processes(whole, whole.seats[0]), _processes(two, two.seats[0])
    assert max(both) < one - (12 << 20), "half of 8 MB of weights, four times"
    limit = (max(both) + one) // 2
    chosen = prepare(bounded(source, tmp_path, "auto", scorer_memory=limit), seats(1), reseat)
    assert asked == [2] and chosen.plan.stages == 2 and chosen.seats == seats(2)
    assert chosen.run == two.run, "the number of stages is no part of a run"
    check_memory(chosen, chosen.seats)
    chosen = prepare(bounded(source, tmp_path, "auto"), seats(1, limit), lambda n: reseat(n, limit))
    assert chosen.plan.stages == 2


def test_what_fits_in_no_number_of_stages_is_refused(source: Source, tmp_path: Path) -> None:
    refused = prepare(bounded(source, tmp_path, "auto", scorer_memory="100MiB"), seats(1), seats)
    with pytest.raises(
        MemoryPlanError,
        match=r"here: expected each process of a scorer within 100 MiB of memory "
        r"\(--scorer-memory\), got 4\d\d MiB of one piece; do more --stages",
    ):
        check_memory(refused, refused.seats)


def test_auto_ends_where_there_are_no_more_places(source: Source, tmp_path: Path) -> None:
    def full(stages: int) -> tuple[Seat, ...]:
        raise NumaError("ask for fewer engines")

    refused = prepare(bounded(source, tmp_path, "auto", scorer_memory="100MiB"), seats(1), full)
    assert refused.plan.stages == 1


@two_cpus
def test_auto_on_this_machine(
    source: Source, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The plan of a job, with the places that the executor has for two stages."""
    spec = bounded(source, tmp_path, "auto", engines=1, threads=1, dry_run=True)
    whole, two = prepare(spec, seats(1)), prepare(replace(spec, stages=2), seats(2))
    (one,), both = _processes(whole, whole.seats[0]), _processes(two, two.seats[0])
    assert score(replace(spec, scorer_memory=(max(both) + one) // 2)) == 0
    assert "and 1 place for later stages of the model" in capsys.readouterr().out


def test_a_machine_too_small_for_its_stage_is_refused(source: Source, tmp_path: Path) -> None:
    """Of stages that live on machines of their own; the first has the driver, too."""
    (seat,) = seats(2)
    first, second = seat.stages
    far = replace(second, machine="there", memory_limit_nbytes=300 << 20)
    across = replace(seat, stages=(first, far))
    prepared = prepare(bounded(source, tmp_path, 2), (across,))
    with pytest.raises(
        MemoryPlanError,
        match=r"there: expected stages within 300 MiB of memory, got 4\d\d MiB \(stage 1 4\d\d",
    ):
        check_memory(prepared, (across,))
    roomy = replace(far, memory_limit_nbytes=1 << 30)
    check_memory(prepared, (replace(seat, stages=(first, roomy)),))
    tight = replace(first, memory_limit_nbytes=600 << 20)
    beside = (replace(seat, stages=(tight, roomy)),)
    with pytest.raises(MemoryPlanError, match=r"here: expected .* \(driver 3\d\d MiB, stage 0 4"):
        check_memory(prepared, beside)
    check_memory(prepared, beside, joining=True)


def test_nodes_too_small_for_a_stage_are_refused(source: Source, tmp_path: Path) -> None:
    """In the plan, with the numbers of each stage; the second's process has its interpreter."""
    spec = resolve(
        {
            "model": str(source.model), "input": [str(source.data)],
            "output": str(tmp_path / "out"), "stages": 2,
        }
    )  # fmt: skip
    homes = [
        StageSeat("here", Place(n, n, (n,)), 16 << 30, nbytes)
        for n, nbytes in enumerate((8 << 30, 1 << 28))
    ]
    seat = Seat(0, "here", homes[0].place, 16 << 30, homes[0].node_memory_nbytes, tuple(homes))
    prepared = prepare(spec, (seat,))
    with pytest.raises(
        MemoryPlanError,
        match=r"NUMA node 1 of here: expected stages within 256 MiB"
        r".*got 400 MiB \(stage 1 400 MiB\); do more --stages",
    ):
        check_memory(prepared, (seat,))
    roomy = replace(seat, stages=tuple(replace(h, node_memory_nbytes=8 << 30) for h in homes))
    check_memory(prepared, (roomy,))
    small = replace(roomy, memory_limit_nbytes=1 << 29)
    with pytest.raises(MemoryPlanError, match="later stages 400 MiB"):
        check_memory(prepared, (small,))
