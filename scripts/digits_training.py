"""Training and pruning of the demo's models, in numpy: Adam, then gradual magnitude pruning (M. Zhu
and S. Gupta, "To prune, or not to prune", 2017) while training goes on, then fine-tuning with the
zeros held."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from scripts.digits import SIDE
from scripts.digits_layers import Array, Conv, Dense, Layer, Weights

Labels = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides the model, apart from the data."""

    network: str = "mlp"
    """A key of scripts.make_digits_model.NETWORKS."""
    seed: int = 20_171_005
    sparsity: float = 0.90
    """Share of zeros at the end, in each weight matrix that is pruned."""
    batch: int = 100
    """Rows a step."""
    dense_epochs: int = 30
    """Before the first weight is cut."""
    pruning_epochs: int = 50
    """During which the cubic schedule goes from none to all of `sparsity`."""
    tuning_epochs: int = 60
    """With the zeros held."""
    prune_every: int = 20
    """Steps between two cuts, so that what is left can make up for what went."""
    rate: float = 1e-3
    """Adam's step; it falls to a hundredth by half a cosine in dense, then in the sparse phase."""
    decay: float = 0.01
    """Of every parameter, a step, as a share of the rate (decoupled, as in AdamW)."""
    shift: int = 2
    """Pixels, at most, that an image is moved in either direction in training."""


@dataclass(slots=True)
class Network:
    """A chain of layers; the last one's outputs are the logits."""

    layers: list[Layer]

    @property
    def weights(self) -> list[Weights]:
        return [layer.weights for layer in self.layers if isinstance(layer, Dense | Conv)]

    @property
    def sparsity(self) -> float:
        """Share of zeros among all weights; biases are not counted."""
        zeros = sum(weights.w.size - np.count_nonzero(weights.w) for weights in self.weights)
        return float(zeros / sum(weights.w.size for weights in self.weights))

    def forward(self, x: Array) -> Array:
        """x[rows, height, width, channels] -> logits[rows, classes]"""
        for layer in self.layers:
            x = layer.forward(x)
        return x

    def learn(self, x: Array, labels: Labels) -> None:
        """Leaves the gradients of the mean cross-entropy in every layer."""
        logits = self.forward(x)
        slope = np.exp(logits - logits.max(axis=1, keepdims=True))
        slope /= slope.sum(axis=1, keepdims=True)
        slope[np.arange(len(labels)), labels] -= 1
        slope /= np.float32(len(labels))
        for layer in reversed(self.layers):
            slope = layer.backward(slope)

    def step(self, rate: float, decay: float, number: int) -> None:
        """One step of Adam; `number` counts from 1."""
        scale = np.float32(rate * np.sqrt(1 - 0.999**number) / (1 - 0.9**number))
        for weights in self.weights:
            weights.step(scale, np.float32(1 - rate * decay))

    def prune(self, sparsity: float) -> None:
        for weights in self.weights:
            weights.prune(sparsity)


def accuracy(network: Network, images: np.ndarray[Any, Any], labels: Labels) -> float:
    """Of images[rows, 28, 28], in batches that keep the windows of a convolution small."""
    starts = range(0, len(images), 500)
    logits = [network.forward(as_input(images[start : start + 500])) for start in starts]
    return float(np.mean(np.concatenate(logits).argmax(axis=1) == labels))


def batches(
    images: np.ndarray[Any, Any], labels: Labels, recipe: Recipe, random: np.random.Generator
) -> Iterator[tuple[Array, Labels]]:
    """One epoch in random order, each image shifted by a few pixels."""
    s = recipe.shift
    padded = np.pad(images, ((0, 0), (s, s), (s, s)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (SIDE, SIDE), axis=(1, 2))
    order = random.permutation(len(images))
    for rows in np.split(order, len(order) // recipe.batch):
        down, across = random.integers(0, 2 * s + 1, (2, len(rows)))
        yield as_input(windows[rows, down, across]), labels[rows]


def as_input(images: np.ndarray[Any, Any]) -> Array:
    """images[rows, 28, 28] uint8 -> x[rows, 28, 28, 1] in 0..1, as the model itself does it."""
    return images[..., None].astype(np.float32) * np.float32(1 / 255)


def cubic(progress: float, final: float) -> float:
    """Sparsity after `progress` (0..1) of the pruning: fast at first, slow near the end."""
    return final * (1 - (1 - min(max(progress, 0.0), 1.0)) ** 3)


def train(
    network: Network,
    recipe: Recipe,
    images: np.ndarray[Any, Any],
    labels: Labels,
    random: np.random.Generator,
) -> None:
    """The whole recipe: dense, pruning, tuning. Prints a line every ten epochs."""
    sparse_epochs = recipe.pruning_epochs + recipe.tuning_epochs
    number, started = 0, time.perf_counter()
    for epoch in range(recipe.dense_epochs + sparse_epochs):
        for x, y in batches(images, labels, recipe, random):
            steps = len(images) // recipe.batch
            into = number / steps - recipe.dense_epochs  # epochs since the first cut
            if into >= 0 and number % recipe.prune_every == 0:
                network.prune(cubic(into / recipe.pruning_epochs, recipe.sparsity))
            done = into / sparse_epochs if into >= 0 else 1 + into / recipe.dense_epochs
            rate = recipe.rate * (0.01 + 0.99 * (1 + np.cos(np.pi * done)) / 2)
            number += 1
            network.learn(x, y)
            network.step(rate, recipe.decay, number)
        if epoch % 10 == 9:
            seconds = time.perf_counter() - started
            fit = accuracy(network, images, labels)
            print(
                f"epoch {epoch + 1:3d}  zeros {network.sparsity:6.1%}  "
                f"accuracy on the trained rows {fit:.4f}  {seconds:5.1f} s",
                flush=True,
            )
