"""The benches' MLP, with seeded random weights."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

BLOCK = 4
SIZES = (1024, 2048, 2048, 2048, 1024, 256)
"""Features of the bench's MLP, from input to output."""


def mlp(
    sizes: Sequence[int] = SIZES, sparsity: float = 0.9, seed: int = 0, blocks: bool = False
) -> onnx.ModelProto:
    """x[N, sizes[0]] -> Gemm and Relu ... Gemm -> y[N, sizes[-1]], all float32.

    Exactly round(sparsity * size) weights of each layer are zero, with `blocks` in row blocks of
    4 outputs by 1 input. The rest keep the variance
    of activations near 1 through any number of layers, so that nothing fades or overflows.
    """
    random = np.random.default_rng(seed)
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []
    value, last = "x", len(sizes) - 1
    for layer, (k, m) in enumerate(pairwise(sizes), start=1):
        w = random.standard_normal((m, k), np.float32)
        w *= np.float32(np.sqrt(2 / (k * max(1 - sparsity, 1 / k))))
        units = w.reshape(m // BLOCK, BLOCK, k).swapaxes(1, 2) if blocks else w[..., None]
        flat = units.reshape(-1, units.shape[-1])
        flat[random.permutation(len(flat))[: round(sparsity * len(flat))]] = 0
        w = flat.reshape(units.shape).swapaxes(1, 2).reshape(m, k) if blocks else w
        b = random.standard_normal(m, np.float32) * np.float32(0.1)
        constants.append(numpy_helper.from_array(w, f"fc{layer}.weight"))
        constants.append(numpy_helper.from_array(b, f"fc{layer}.bias"))
        gemm = "y" if layer == last else f"fc{layer}"
        inputs = [value, f"fc{layer}.weight", f"fc{layer}.bias"]
        nodes.append(helper.make_node("Gemm", inputs, [gemm], f"fc{layer}", transB=1))
        if layer != last:
            value = f"relu{layer}"
            nodes.append(helper.make_node("Relu", [gemm], [value], value))
    graph = helper.make_graph(
        nodes,
        f"mlp_s{round(sparsity * 100):02d}",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", sizes[0]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", sizes[-1]])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model
