"""The benches' model: its shape, its zeros, and that its activations neither fade nor overflow."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from onnx import numpy_helper

from scripts.models.mlp import SIZES, mlp


@pytest.mark.parametrize("sparsity", [0.0, 0.8, 0.9, 1.0])
def test_the_share_of_zeros_is_exact_in_every_layer(sparsity: float) -> None:
    arrays = [numpy_helper.to_array(i) for i in mlp((64, 128, 32), sparsity).graph.initializer]
    for w in (a for a in arrays if a.ndim == 2):
        assert np.sum(w == 0) == round(sparsity * w.size)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not() -> None:
    one, same, other = (mlp((64, 32), seed=seed).SerializeToString() for seed in (1, 1, 2))
    assert one == same != other


def test_activations_keep_their_size_through_five_layers() -> None:
    session = onnxruntime.InferenceSession(mlp().SerializeToString())
    x = np.random.default_rng(0).standard_normal((32, SIZES[0]), np.float32)
    (y,) = session.run(["y"], {"x": x})
    assert y.shape == (32, SIZES[-1])
    assert 0.3 < y.std() < 10
