"""A model whose weights are many gigabytes beside it: a table of ids and a tower of products.

    y[N, D] = mean over tokens of (block . block ... )(table[ids[N, S]])
    block(x) = x + relu(x @ W1[D, 4 D]) @ W2[4 D, D] / sqrt(blocks)

Weights are written to the data file one after the other; no more than one is ever in memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import onnx
from onnx import TensorProto, helper

WIDER = 4
"""Times D inside a block."""
STRETCH = 1 << 24
"""Elements of the table that are made at a time."""


@dataclass(frozen=True, slots=True)
class Large:
    """Sizes of the model."""

    entries: int
    """Rows of the table."""
    width: int
    """D."""
    blocks: int
    sparsity: float
    """Share of zeros in the products' weights; the table has none."""

    @property
    def nbytes(self) -> int:
        """Of all weights, as they lie in the file."""
        return 4 * self.width * (self.entries + self.blocks * 2 * WIDER * self.width)


def write(path: Path, large: Large, seed: int = 0) -> None:
    """The model at `path`, its weights beside it in `path`.data."""
    random = np.random.default_rng(seed)
    data = path.with_name(path.name + ".data")
    tensors = []
    with data.open("wb") as file:
        tensors.append(_table(file, large, data.name, random))
        for number in range(large.blocks):
            for name, shape in (
                (f"up{number}", (large.width, WIDER * large.width)),
                (f"down{number}", (WIDER * large.width, large.width)),
            ):
                scale = (2 / (shape[0] * (1 - large.sparsity))) ** 0.5
                scale *= large.blocks**-0.5 if name.startswith("down") else 1.0
                tensors.append(_weights(file, name, shape, scale, large, data.name, random))
    onnx.save(
        helper.make_model(_graph(large, tensors), opset_imports=[helper.make_opsetid("", 17)]), path
    )


def _graph(large: Large, tensors: list[TensorProto]) -> onnx.GraphProto:
    nodes = [helper.make_node("Gather", ["table", "ids"], ["x0"])]
    for k in range(large.blocks):
        nodes += [
            helper.make_node("MatMul", [f"x{k}", f"up{k}"], [f"wide{k}"]),
            helper.make_node("Relu", [f"wide{k}"], [f"high{k}"]),
            helper.make_node("MatMul", [f"high{k}", f"down{k}"], [f"low{k}"]),
            helper.make_node("Add", [f"x{k}", f"low{k}"], [f"x{k + 1}"]),
        ]
    nodes.append(helper.make_node("ReduceMean", [f"x{large.blocks}"], ["y"], axes=[1], keepdims=0))
    return helper.make_graph(
        nodes, "large",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["N", "S"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", large.width])],
        tensors,
    )  # fmt: skip


def _table(file: IO[bytes], large: Large, home: str, random: np.random.Generator) -> TensorProto:
    rows = max(1, STRETCH // large.width)
    offset = file.tell()
    for first in range(0, large.entries, rows):
        count = min(rows, large.entries - first)
        made = random.random((count, large.width), np.float32) - np.float32(0.5)
        file.write(made.data)
    return _outside("table", (large.entries, large.width), home, offset)


def _weights(
    file: IO[bytes],
    name: str,
    shape: tuple[int, int],
    scale: float,
    large: Large,
    home: str,
    random: np.random.Generator,
) -> TensorProto:
    offset = file.tell()
    kept = random.random(shape, np.float32) >= large.sparsity
    values = np.zeros(shape, np.float32)
    values[kept] = random.standard_normal(int(kept.sum()), np.float32) * np.float32(scale)
    file.write(values.data)
    return _outside(name, shape, home, offset)


def _outside(name: str, shape: tuple[int, int], home: str, offset: int) -> TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape)
    tensor.data_location = TensorProto.EXTERNAL
    said: dict[str, Any] = {"location": home, "offset": offset, "length": 4 * shape[0] * shape[1]}
    for key, value in said.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor
