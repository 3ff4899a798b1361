"""Write the models that the benches run: `python -m scripts.make_models mlp -o x.onnx`.

Seeded numpy, unstructured zeros at places drawn at random, no training: what matters is the
shape and how many weights are zero.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIZES = (1024, 2048, 2048, 2048, 1024, 256)
"""Features of the bench's MLP, from input to output."""


def mlp(sizes: Sequence[int] = SIZES, sparsity: float = 0.9, seed: int = 0) -> onnx.ModelProto:
    """x[N, sizes[0]] -> Gemm and Relu ... Gemm -> y[N, sizes[-1]], all float32.

    Exactly round(sparsity * size) weights of each layer are zero. The rest keep the variance
    of activations near 1 through any number of layers, so that nothing fades or overflows.
    """
    random = np.random.default_rng(seed)
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []
    value, last = "x", len(sizes) - 1
    for layer, (k, m) in enumerate(pairwise(sizes), start=1):
        w = random.standard_normal((m, k), np.float32)
        w *= np.float32(np.sqrt(2 / (k * max(1 - sparsity, 1 / k))))
        w.flat[random.permutation(w.size)[: round(sparsity * w.size)]] = 0
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=["mlp"])
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="features")
    parser.add_argument("--sparsity", type=float, default=0.9, help="share of zeros, 0..1")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    if len(args.sizes) < 2 or not 0 <= args.sparsity <= 1:
        parser.error("expected two sizes or more, and a sparsity from 0 to 1")
    onnx.save(mlp(args.sizes, args.sparsity, args.seed), args.output)
    print(f"{args.output}: {args.output.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
