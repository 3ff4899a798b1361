"""Three stages in processes of their own, by the spec that a driver hands out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import image_nets
import numpy as np
import onnx
import pytest

import engine
from engine.stages import compile_stage, cut
from pipeline.bound import Binding
from pipeline.fingerprint import model_sha256
from pipeline.scorer_spec import ScorerSpec
from pipeline.stage_spec import NotAsPlanned, StagePlace
from pipeline.startup import open_course

rng = np.random.default_rng(8)


def pictures() -> tuple[onnx.ModelProto, dict[str, Any]]:
    proto = image_nets.resnet()
    (info,) = proto.graph.input
    shape = [d.dim_value for d in info.type.tensor_type.shape.dim[1:]]
    return proto, {info.name: rng.normal(size=(5, *shape)).astype(np.float32)}


def spec(path: Path, count: int) -> ScorerSpec:
    """All stages on one processor: they take turns there."""
    graph = engine.load(path)
    whole = engine.compile(graph, hollow=True)
    stages = cut(graph, count)
    programs = [compile_stage(s, whole.choices, hollow=True) for s in stages]
    places = tuple(
        StagePlace((0,), 0, program.fingerprint, stage.begin)
        for stage, program in zip(stages, programs, strict=True)
    )
    return ScorerSpec(
        scorer=0, model=str(path), model_sha256=model_sha256(str(path)), program=whole.fingerprint,
        choices=whole.choices, switches={}, binding=Binding((), (), ()), batch_rows=1, cpus=(0,),
        node=0, output="", format="parquet", fingerprint="", on_error="fail", stages=places,
    )  # fmt: skip


def test_three_processes_give_the_bytes_of_one(tmp_path: Path) -> None:
    proto, feeds = pictures()
    onnx.save(proto, tmp_path / "m.onnx")
    with engine.Session(engine.compile(tmp_path / "m.onnx"), cpus=[0]) as session:
        want = {name: array.tobytes() for name, array in session.run(feeds).items()}
    course, ready = open_course(spec(tmp_path / "m.onnx", 3))
    try:
        assert [stage["stage"] for stage in ready.report["stages"]] == [1, 2]
        assert len({ready.report["pid"], *(s["pid"] for s in ready.report["stages"])}) == 3
        for _ in range(2):  # and again, through the same rooms
            have = {name: np.asarray(array).tobytes() for name, array in course.run(feeds).items()}
            assert have == want
    finally:
        course.close()


def test_a_stage_of_another_model_is_refused(tmp_path: Path) -> None:
    """The file was replaced between the plan and the start of a stage's process."""
    proto, _ = pictures()
    onnx.save(proto, tmp_path / "m.onnx")
    planned = spec(tmp_path / "m.onnx", 2)
    (later,) = planned.later_stages
    assert later.compiled().fingerprint == later.program
    proto.graph.name = "other"
    onnx.save(proto, tmp_path / "m.onnx")
    with pytest.raises(NotAsPlanned, match="it changed after the start"):
        later.compiled()
