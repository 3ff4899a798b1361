"""Whole small convolutional networks: what rewrites leave of them, and that they mean the same."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx.backend.test
import pytest
from image_nets import NETS
from rewritten import floats, ops, unchanged
from small_models import onnxruntime_run

import engine
from engine import reference
from engine.compiler import compilation
from engine.images.segment import Images
from engine.reader import graph_of
from engine.rewrites import REWRITES, rewrite
from numa.notation import size
from scripts.models.mobilenet import mobilenet
from scripts.models.picture_net import Pictures
from scripts.models.resnet import resnet50

LEFT = {
    "channels_last": "Transpose Sub Conv Conv GlobalAveragePool Conv Mul GlobalAveragePool Flatten "
    "Linear Softmax",
    "densenet": "Conv Conv Conv Concat Conv Conv Conv Concat Conv GlobalAveragePool Flatten Linear",
    "efficientnet": "Conv Conv GlobalAveragePool Conv Conv Mul Conv GlobalAveragePool Flatten "
    "Linear",
    "line": "Conv Conv Channels Channels Tanh Sigmoid Mul Conv GlobalAveragePool Flatten Linear",
    "mobilenet": "Conv Conv Conv Conv GlobalAveragePool Flatten Linear",
    "mobilenet_3": "Conv Conv Conv GlobalAveragePool Conv Conv Mul Conv GlobalAveragePool Flatten "
    "Linear",
    "resnet": "Conv MaxPool Conv Conv Conv Slice Conv GlobalAveragePool Flatten Linear",
    "shufflenet": "Channels Channels Conv Conv Conv Concat Channels Conv GlobalAveragePool Flatten "
    "Linear",
}


@pytest.mark.parametrize("name", NETS)
def test_what_is_left_of_a_network(name: str) -> None:
    after, _ = unchanged(NETS[name]())
    assert " ".join(label.removeprefix("colonnade.") for label in ops(after)) == LEFT[name]


@pytest.mark.parametrize("off", [r.name for r in REWRITES])
def test_networks_mean_the_same_with_any_rewrite_off(off: str) -> None:
    for name, build in NETS.items():
        proto = build()
        graph, _ = rewrite(graph_of(proto), frozenset({off}))
        x = floats(2, *(int(d) for d in (graph.inputs[0].shape or ())[1:]))
        expected = onnxruntime_run(proto, {"x": x})
        for output, array in reference.run(graph, {"x": x}).items():
            near = 1e-4 * float(np.abs(expected[output]).max())
            np.testing.assert_allclose(array, expected[output], rtol=1e-4, atol=near, err_msg=name)


@pytest.mark.parametrize("name", NETS)
def test_a_session_runs_them(name: str) -> None:
    proto = NETS[name]()
    found = compilation(graph_of(proto))
    assert found.program is not None
    x = floats(19, *(int(d) for d in (found.graph.inputs[0].shape or ())[1:]))
    with engine.Session(found.program, cpus=[min(os.sched_getaffinity(0))]) as session:
        got = session.run({"x": x})
    for output, expected in onnxruntime_run(proto, {"x": x}).items():
        near = 1e-4 * float(np.abs(expected).max())
        np.testing.assert_allclose(got[output], expected, rtol=1e-4, atol=near)


LIGHT = sorted((Path(onnx.backend.test.__file__).parent / "data" / "light").glob("*.onnx"))


@pytest.mark.parametrize("path", LIGHT, ids=lambda p: p.stem)
def test_well_known_topologies_become_convolutions(path: Path) -> None:
    """Their weights are made when they run, and some of them are too large to be made before."""
    proto = onnx.load(path)
    before = graph_of(proto)
    after, _ = rewrite(before)
    gone = {"Add", "BatchNormalization", "Conv", "Dropout", "Sum", "Transpose", "Unsqueeze"}
    assert not gone & set(ops(after))
    convolutions = [n for n in before.nodes if n.op == "Conv"]
    assert ops(after).count("colonnade.Conv") >= len(convolutions) > 0


@pytest.mark.parametrize("build", [resnet50, mobilenet])
def test_activations_take_two_megabytes_an_image(
    build: Callable[[Pictures], onnx.ModelProto],
) -> None:
    graph = graph_of(build(Pictures(sparsity=0.0)))
    for lanes in (8, 16):
        program = compilation(graph, points=2 * lanes).program
        assert program is not None
        (images,) = (s for s in program.segments if isinstance(s, Images))
        assert images.lanes == lanes and len(images.nodes) > 25
        assert images.arena.nbytes <= lanes * 2_000_000
        assert f"columns of {lanes} images, arena {size(images.arena.nbytes)}" in str(program)
