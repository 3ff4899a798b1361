"""Norms of each head: where they move in front of the heads, and where they must stay."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import small_models as small
from rewritten import checked, fallbacks, floats, labels, refusals
from small_models import Array

from engine import reference
from engine.compiler import Compilation, compilation
from engine.reader import graph_of

X = floats(3, 5, 24)


def normed(
    scale: Array, bias: Array | None = None, heads: int = 3, **attributes: Any
) -> Compilation:
    """LayerNormalization between the Reshape that splits heads and one that joins them."""
    constants: dict[str, Any] = {"split": np.array([0, 0, heads, 24 // heads]), "scale": scale}
    constants |= {"join": np.array([0, 0, 24])} | ({} if bias is None else {"bias": bias})
    inputs = "h scale" if bias is None else "h scale bias"
    nodes = [
        small.node("Reshape", "x split", "h"),
        small.node("LayerNormalization", inputs, "n", **attributes),
        small.node("Reshape", "n join", "y"),
    ]
    shape = ["N", "S", 24]
    return checked(small.model(nodes, {"x": shape}, {"y": shape}, constants), {"x": X})


@pytest.mark.parametrize("heads", [1, 3, 6])
@pytest.mark.parametrize("bias", [False, True])
def test_a_norm_of_each_head_moves_in_front_of_them(heads: int, bias: bool) -> None:
    depth = 24 // heads
    found = normed(floats(depth), floats(depth) if bias else None, heads, epsilon=1e-3)
    assert labels(found)[0] == "colonnade.LayerNorm" and not fallbacks(found)


def test_ones_in_front_of_the_scale_do_not_count() -> None:
    """RMSNorm spelled out, whose scale is written [1, 1, 1, d]; run by the reference, too."""
    constants: dict[str, Any] = {"split": np.array([0, 0, 3, 8]), "join": np.array([0, 0, 24])}
    constants |= {"scale": floats(1, 1, 1, 8), "two": 2.0, "epsilon": 1e-6}
    nodes = [
        small.node("Reshape", "x split", "h"),
        small.node("Pow", "h two", "p"),
        small.node("ReduceMean", "p", "m", axes=[-1]),
        small.node("Add", "m epsilon", "e"),
        small.node("Sqrt", "e", "r"),
        small.node("Div", "h r", "q"),
        small.node("Mul", "q scale", "n"),
        small.node("Reshape", "n join", "y"),
    ]
    shape = ["N", "S", 24]
    proto = small.model(nodes, {"x": shape}, {"y": shape}, constants)
    found = checked(proto, {"x": X})
    assert labels(found)[0] == "colonnade.LayerNorm" and not fallbacks(found)
    for off in ((), ("head_norm",)):
        after = compilation(graph_of(proto), rewrites_off=off).graph
        want = small.onnxruntime_run(proto, {"x": X})["y"]
        np.testing.assert_allclose(reference.run(after, {"x": X})["y"], want, rtol=1e-5, atol=1e-5)


def test_a_norm_over_all_heads_stays() -> None:
    found = normed(floats(3, 8), floats(3, 8), axis=2)
    assert "over more than the features of a head" in refusals(found, "head_norm")


def test_a_scale_of_its_own_for_each_head_stays() -> None:
    found = normed(floats(3, 8), floats(3, 8))
    assert "no constant of 8 features" in refusals(found, "head_norm")
