"""What trained the demo's models: slopes against differences, pruning, and the graph written."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from small_models import onnxruntime_session

from scripts.digits import read_digits
from scripts.digits_layers import Conv, Dense, Flatten, Layer, MaxPool, Relu, Weights
from scripts.digits_training import Network, Recipe, accuracy, as_input, cubic, train
from scripts.make_digits_model import NETWORKS, to_onnx

RANDOM = np.random.default_rng(0)
IDS, IMAGES, LABELS = read_digits()


def double(weights: Weights) -> Weights:
    """In float64, so that differences are exact enough."""
    weights.w, weights.b = weights.w.astype(np.float64), RANDOM.standard_normal(len(weights.b))  # type: ignore[assignment]
    return weights


@pytest.mark.parametrize("stride", [1, 2])
def test_slopes_are_those_of_differences(stride: int) -> None:
    layers: list[Layer] = [
        Conv(double(Weights.drawn(9 * 2, 3, RANDOM)), stride),
        Relu(),
        MaxPool(),
        Flatten(),
        Dense(double(Weights.drawn(3 * (8 // stride // 2) ** 2, 4, RANDOM))),
    ]
    network = Network(layers)
    x: Any = RANDOM.standard_normal((2, 8, 8, 2))
    labels = np.array([1, 3])

    def loss() -> float:
        logits = network.forward(x.copy())
        shifted = logits - logits.max(axis=1, keepdims=True)
        return float(np.mean(np.log(np.exp(shifted).sum(axis=1)) - shifted[[0, 1], labels]))

    network.learn(x.copy(), labels)
    for weights in network.weights:
        for parameter, slope in zip((weights.w, weights.b), weights.gradients, strict=True):
            for place in RANDOM.integers(0, parameter.size, 12):
                before = parameter.flat[place]
                parameter.flat[place] = before + 1e-6
                up = loss()
                parameter.flat[place] = before - 1e-6
                down = loss()
                parameter.flat[place] = before
                assert slope.flat[place] == pytest.approx((up - down) / 2e-6, abs=1e-6)


def test_pruning_cuts_the_smallest_and_spares_what_is_not_prunable() -> None:
    weights = Weights.drawn(50, 4, RANDOM)
    before = np.abs(weights.w)
    weights.prune(0.75)
    gone = weights.w == 0
    assert gone.sum() == 150 and before[gone].max() <= before[~gone].min()
    spared = Weights.drawn(50, 4, RANDOM, prunable=False)
    spared.prune(0.75)
    assert np.all(spared.w != 0)


def test_the_schedule_is_cubic() -> None:
    assert [cubic(at, 0.8) for at in (-1, 0, 0.5, 1, 2)] == pytest.approx([0, 0, 0.7, 0.8, 0.8])


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_short_training_learns_prunes_and_writes_what_it_computes(kind: str) -> None:
    recipe = Recipe(kind, dense_epochs=2, pruning_epochs=2, tuning_epochs=1, prune_every=2)
    random = np.random.default_rng(1)
    network = NETWORKS[kind](random)
    images, labels = IMAGES[::10], LABELS[::10]
    began = accuracy(network, images, labels)
    train(network, recipe, images, labels, random)
    assert accuracy(network, images, labels) > began + 0.1
    assert 0.89 < network.sparsity < 0.91
    model = to_onnx(network, kind, {})
    session = onnxruntime_session(model)
    feed = images if kind == "mlp" else images[:, None]
    (logits,) = session.run(None, {"image": feed})
    np.testing.assert_allclose(logits, network.forward(as_input(images)), rtol=1e-4, atol=1e-4)
