"""Both ends of a stage on another machine, with calls that need no cluster."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from exporters import batch, model
from ray.exceptions import ActorDiedError

import engine
from engine.errors import EngineError
from engine.ragged import Ragged
from engine.stages import compile_stage, cut
from jobs.executors import ray_stages
from jobs.executors.ray_stages import RayLink, StageActor
from pipeline.errors import StageLost
from pipeline.fingerprint import model_sha256
from pipeline.stage_spec import NotAsPlanned, StageSpec
from scripts.models.bert import STYLES


class Handle:
    """An actor in this process: what goes in and comes out is pickled, as Ray does it."""

    def __init__(self, actor: StageActor) -> None:
        self.open, self.run = self._method(actor.open), self._method(actor.run)

    @staticmethod
    def _method(call: Callable[[Any], Any]) -> Any:
        class Method:
            @staticmethod
            def remote(given: Any) -> bytes:
                return pickle.dumps(call(pickle.loads(pickle.dumps(given))))

        return Method


@pytest.fixture(autouse=True)
def _answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_stages.ray, "get", pickle.loads)


def spec(path: Path, number: int) -> tuple[StageSpec, engine.Program]:
    """Of three, and its program."""
    graph = engine.load(path)
    choices, stages = engine.compile(graph, hollow=True).choices, cut(graph, 3)
    program = compile_stage(stages[number], choices)
    found = StageSpec(
        model=str(path), model_sha256=model_sha256(str(path)), number=number,
        begins=tuple(s.begin for s in stages), program=program.fingerprint, choices=choices,
        switches={}, cpus=(0,), node=0,
    )  # fmt: skip
    return found, program


def test_lists_of_any_length_go_there_and_back(tmp_path: Path) -> None:
    onnx.save(model(STYLES["old"]), tmp_path / "m.onnx")
    told, program = spec(tmp_path / "m.onnx", 1)
    padded = batch((20, 1, 17))
    lengths = (padded["attention_mask"] == 1).sum(axis=1)
    random = np.random.default_rng(2)
    feeds = {
        v.name: Ragged.of([random.normal(size=(n, v.features)).astype(v.dtype) for n in lengths])
        for v in program.inputs
    }
    link = RayLink(told, Handle(StageActor()))
    assert link.ready()["stage"] == 1
    found = link.run(feeds)
    with engine.Session(program, cpus=[0]) as session:
        want = session.run(feeds)
    assert found.keys() == want.keys()
    for name, rows in want.items():
        assert [a.tobytes() for a in found[name]] == [a.tobytes() for a in rows]
    with pytest.raises(EngineError, match="feeds: expected"):
        link.run({"nothing": np.zeros((1, 1), np.float32)})


def test_a_stage_of_another_model_says_so(tmp_path: Path) -> None:
    onnx.save(model(STYLES["old"]), tmp_path / "m.onnx")
    told, _ = spec(tmp_path / "m.onnx", 1)
    other = model(STYLES["old"])
    other.graph.name = "other"
    onnx.save(other, tmp_path / "m.onnx")
    with pytest.raises(NotAsPlanned, match="expected the model that was planned"):
        RayLink(told, Handle(StageActor())).ready()


def test_a_stage_that_is_gone_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx.save(model(STYLES["old"]), tmp_path / "m.onnx")
    told, _ = spec(tmp_path / "m.onnx", 2)
    handle = Handle(StageActor())
    monkeypatch.setattr(handle, "open", handle._method(lambda told: {}))

    def gone(answer: Any) -> Any:
        raise ActorDiedError

    monkeypatch.setattr(ray_stages.ray, "get", gone)
    with pytest.raises(StageLost, match="stage 2: "):
        RayLink(told, handle).ready()
