"""The benches' models: shapes, zeros, and that activations neither fade nor overflow."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from small_models import onnxruntime_session

from scripts.models.mlp import SIZES, mlp
from scripts.models.mobilenet import mobilenet
from scripts.models.picture_net import Pictures
from scripts.models.resnet import resnet50

Build = Callable[[Pictures], onnx.ModelProto]
SMALL = Pictures(resolution=32, width=0.25, classes=12)
NETS = pytest.mark.parametrize("build", [mobilenet, resnet50])


def weights(model: onnx.ModelProto) -> dict[str, np.ndarray[Any, Any]]:
    """Matrices and filters, by name."""
    arrays = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    return {name: array for name, array in arrays.items() if array.ndim > 1}


def logits(model: onnx.ModelProto, rows: int = 2) -> np.ndarray[Any, Any]:
    side = model.graph.input[0].type.tensor_type.shape.dim[-1].dim_value
    pictures = np.random.default_rng(0).standard_normal((rows, 3, side, side), np.float32)
    session = onnxruntime_session(model)
    (y,) = session.run(["logits"], {"input": pictures})
    return np.asarray(y)


@pytest.mark.parametrize("sparsity", [0.0, 0.8, 0.9, 1.0])
def test_the_share_of_zeros_is_exact_in_every_layer(sparsity: float) -> None:
    arrays = [numpy_helper.to_array(i) for i in mlp((64, 128, 32), sparsity).graph.initializer]
    for w in (a for a in arrays if a.ndim == 2):
        assert np.sum(w == 0) == round(sparsity * w.size)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not() -> None:
    one, same, other = (mlp((64, 32), seed=seed).SerializeToString() for seed in (1, 1, 2))
    assert one == same != other


def test_activations_keep_their_size_through_five_layers() -> None:
    session = onnxruntime_session(mlp())
    x = np.random.default_rng(0).standard_normal((32, SIZES[0]), np.float32)
    (y,) = session.run(["y"], {"x": x})
    assert y.shape == (32, SIZES[-1])
    assert 0.3 < y.std() < 10


@pytest.mark.parametrize(("build", "parameters"), [(mobilenet, 4_231_976), (resnet50, 25_557_032)])
def test_picture_nets_have_the_published_number_of_parameters(
    build: Build, parameters: int
) -> None:
    """A scale and a shift a channel; the means and variances beside them are no parameters."""
    arrays = {i.name: i for i in build(replace(Pictures(), sparsity=0)).graph.initializer}
    counted = [a for name, a in arrays.items() if not name.endswith(("mean", "variance"))]
    assert sum(int(np.prod(a.dims)) for a in counted) == parameters


@NETS
@pytest.mark.parametrize("sparsity", [0.8, 0.95])
def test_zeros_are_everywhere_but_in_the_first_and_the_depthwise_layers(
    build: Build, sparsity: float
) -> None:
    found = weights(build(replace(SMALL, sparsity=sparsity)))
    for number, (name, w) in enumerate(found.items()):
        dense = number == 0 or "depthwise" in name
        assert np.sum(w == 0) == (0 if dense else round(sparsity * w.size)), name


@NETS
def test_zeros_come_in_blocks_of_four_outputs(build: Build) -> None:
    found = list(weights(build(replace(SMALL, blocks=True))).values())
    for w in (w for w in found[1:] if w.ndim == 4 and w.shape[1] > 1):
        groups = (w != 0).reshape(w.shape[0] // 4, 4, -1)
        assert np.all(groups.all(axis=1) == groups.any(axis=1))


@NETS
def test_folded_normalisations_compute_the_same(build: Build) -> None:
    one, other = build(SMALL), build(replace(SMALL, folded=True))
    kinds = [{node.op_type for node in model.graph.node} for model in (one, other)]
    assert kinds[0] - kinds[1] == {"BatchNormalization"}
    np.testing.assert_allclose(logits(one), logits(other), rtol=1e-4, atol=1e-4)


@NETS
@pytest.mark.slow
def test_logits_neither_fade_nor_overflow(build: Build) -> None:
    assert 0.3 < logits(build(Pictures())).std() < 30


@NETS
def test_picture_nets_are_made_at_the_command_line(build: Build, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    asked = {"resolution": 32, "width": 0.25, "classes": 12, "sparsity": 0.5, "seed": 3}
    words = [word for name, value in asked.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "scripts.make_models", build.__name__, *words, "-o", path]
    subprocess.run(command, check=True, cwd=Path(__file__).resolve().parents[2])
    assert onnx.load(path) == build(replace(SMALL, sparsity=0.5, seed=3))
