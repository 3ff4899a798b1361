"""Sizes and seeded random weights of BERT encoders, under the names of PyTorch's checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from scripts.models.writer import Array
from scripts.models.zeros import zero

Weights = Mapping[str, Array]
"""By checkpoint name; matrices of linear layers are [outputs, inputs], as PyTorch keeps them."""


@dataclass(frozen=True, slots=True)
class Size:
    """BERT-base unless told otherwise."""

    layers: int = 12
    hidden: int = 768
    heads: int = 12
    feed_forward: int = 3072
    vocabulary: int = 30522
    positions: int = 512
    epsilon: float = 1e-12
    """Of LayerNorm."""

    def __post_init__(self) -> None:
        if self.hidden % self.heads:
            raise ValueError(f"hidden: expected a multiple of {self.heads} heads; {self.hidden}")

    @property
    def head(self) -> int:
        """Features of one head."""
        return self.hidden // self.heads

    def linears(self) -> dict[str, tuple[int, int]]:
        """Outputs and inputs of the six linear layers of a layer, by name within the layer."""
        square = (self.hidden, self.hidden)
        return {
            "attention.self.query": square,
            "attention.self.key": square,
            "attention.self.value": square,
            "attention.output.dense": square,
            "intermediate.dense": (self.feed_forward, self.hidden),
            "output.dense": (self.hidden, self.feed_forward),
        }


def random_weights(
    size: Size, sparsity: float = 0.9, seed: int = 0, blocks: bool = False
) -> dict[str, Array]:
    """Weights drawn at random; the six matrices of each layer have zeros, all else is dense.

    Exactly round(sparsity * size) weights of a matrix are zero, at places drawn at random; with
    `blocks`, whole 4x1 row blocks (four outputs, one input) are, as near as those allow. What is
    left keeps the variance of activations near 1, so that softmax and GELU have work to do.
    """
    random = np.random.default_rng(seed)
    weights: dict[str, Array] = {}

    def draw(name: str, shape: tuple[int, ...], scale: float, mean: float = 0) -> None:
        drawn = random.standard_normal(shape, np.float32) * np.float32(scale)
        weights[name] = drawn + np.float32(mean)

    def norm(name: str) -> None:
        draw(f"{name}.LayerNorm.weight", (size.hidden,), 0.1, mean=1)
        draw(f"{name}.LayerNorm.bias", (size.hidden,), 0.1)

    tables = {"word": size.vocabulary, "position": size.positions, "token_type": 2}
    for table, rows in tables.items():
        draw(f"embeddings.{table}_embeddings.weight", (rows, size.hidden), 1)
    norm("embeddings")
    for layer in range(size.layers):
        at = f"encoder.layer.{layer}"
        for name, (m, k) in size.linears().items():
            draw(f"{at}.{name}.weight", (m, k), np.sqrt(1 / (k * max(1 - sparsity, 1 / k))))
            zero(weights[f"{at}.{name}.weight"], sparsity, blocks, random)
            draw(f"{at}.{name}.bias", (m,), 0.1)
        norm(f"{at}.attention.output")
        norm(f"{at}.output")
    draw("pooler.dense.weight", (size.hidden, size.hidden), np.sqrt(1 / size.hidden))
    draw("pooler.dense.bias", (size.hidden,), 0.1)
    return weights
