"""The light topologies inside the onnx package, with seeded weights of which most are zero, against
onnxruntime: networks as their exporters wrote them, from AlexNet to DenseNet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.backend.test
import pytest
from onnx import numpy_helper
from small_models import onnxruntime_session

import engine
from engine.images.segment import Images
from engine.segments import Fallback

Array = np.ndarray[Any, Any]
LIGHT = Path(onnx.backend.test.__file__).parent / "data" / "light"
NAMES = sorted(p.stem for p in LIGHT.glob("light_*.onnx"))
LARGE = ("vgg19", "bvlc_alexnet", "zfnet512")
"""Hundreds of megabytes of fully connected weights each, with a layer of WIDE outputs."""
WHOLE, WIDE, NARROW = "bvlc_alexnet", 4096, 256
"""Of the large ones, which has its layers as they are; in the others WIDE ones become NARROW."""
DRAWN = 1_000_003
"""Values drawn at most for a tensor; a larger one repeats them, at other places in each of its
rows."""


def with_weights(path: Path, zeros: float) -> onnx.ModelProto:
    """The model with its constants of 0.02 drawn anew, so that activations keep their size."""
    model = onnx.load(path)
    rng, kept = np.random.default_rng(3), []
    shapes = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type != "ConstantOfShape":
            kept.append(node)
            continue
        dims = tuple(int(d) for d in shapes[node.input[0]])
        if path.stem.endswith(LARGE) and not path.stem.endswith(WHOLE):
            dims = tuple(NARROW if d == WIDE else d for d in dims)
        made = drawn(rng, dims, zeros, node.output[0])
        model.graph.initializer.append(numpy_helper.from_array(made, node.output[0]))
    del model.graph.node[:]
    model.graph.node.extend(kept)
    return model


def drawn(rng: np.random.Generator, dims: tuple[int, ...], zeros: float, name: str) -> Array:
    if len(dims) < 2:  # a bias, or a mean, a scale or a variance, which must be positive
        return (1 + 0.1 * rng.random(dims)).astype(np.float32)
    fan = float(np.prod(dims[1:])) * (1 - zeros)
    count = min(DRAWN, int(np.prod(dims)))
    made = rng.standard_normal(count, np.float32) * np.float32(np.sqrt(2 / max(fan, 1)))
    made[rng.random(count, np.float32) < zeros] = 0
    return np.resize(made, dims)


def test_there_are_nine() -> None:
    assert len(NAMES) == 9


@pytest.mark.slow
@pytest.mark.parametrize("zeros", [0.0, 0.9])
@pytest.mark.parametrize("name", [n for n in NAMES if not n.endswith(LARGE)])
def test_equal_to_onnxruntime(name: str, zeros: float, tmp_path: Path) -> None:
    check(name, zeros, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in NAMES if n.endswith(LARGE)])
def test_large_ones_are_too(name: str, tmp_path: Path) -> None:
    check(name, 0.9, tmp_path)


def check(name: str, zeros: float, folder: Path) -> None:
    path = folder / "net.onnx"
    onnx.save(with_weights(LIGHT / f"{name}.onnx", zeros), path)
    program = engine.compile(path)
    given = program.inputs[0]
    assert given.shape is not None
    size = (2, *(int(d) for d in given.shape[1:]))
    x = np.random.default_rng(1).standard_normal(size, np.float32)
    theirs = onnxruntime_session(path)  # whose batch stays one image
    want = np.concatenate([theirs.run(None, {given.name: row[None]})[0] for row in x])
    with engine.Session(program, [0]) as session:
        found = session.run({given.name: x})[program.outputs[0].name]
    scale = float(np.abs(want).max())
    np.testing.assert_allclose(found, want, rtol=1e-3, atol=1e-3 * scale)
    assert any(isinstance(s, Images) for s in program.segments)
    left = [n.label for s in program.segments if isinstance(s, Fallback) for n in s.nodes]
    assert not left, f"{name} runs {left} through the reference"
