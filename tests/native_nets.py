"""Networks over images, node by node, and a check that they run by kernels as onnxruntime does."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from small_models import onnxruntime_session

import engine
from engine.images.segment import Images

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(7)


class Net:
    """An ONNX model, node by node."""

    def __init__(self, *shape: int, zeros: float = 0.7, opset: int = 17) -> None:
        self.shape, self.zeros, self.opset = shape, zeros, opset
        self.rng = np.random.default_rng(7)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, array: Array) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def weights(self, *shape: int) -> str:
        array = self.rng.standard_normal(shape).astype(np.float32)
        array[self.rng.random(shape) < self.zeros] = 0
        return self.constant(array)

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=name, **attributes))
        return name

    def several(self, op: str, many: int, *inputs: str, **attributes: Any) -> list[str]:
        """A node of so many results."""
        name = f"v{len(self.nodes)}"
        names = [f"{name}_{i}" for i in range(many)]
        self.nodes.append(helper.make_node(op, list(inputs), names, name=name, **attributes))
        return names

    def conv(self, x: str, outputs: int, inputs: int, size: int, **attributes: Any) -> str:
        rank = len(self.shape) - 1
        w = self.weights(outputs, inputs, *([size] * rank))
        return self.add("Conv", x, w, self.weights(outputs), **attributes)

    def model(self, *outputs: str) -> bytes:
        made = [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in outputs]
        given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *self.shape])
        graph = helper.make_graph(self.nodes, "net", [given], made, self.constants)
        opset = helper.make_opsetid("", self.opset)
        model = helper.make_model(graph, opset_imports=[opset], ir_version=10)
        return bytes(onnx.shape_inference.infer_shapes(model).SerializeToString())


def check(net: Net, *outputs: str, native: bool = True, rows: int = 11, **switches: Any) -> None:
    """The program's outputs are onnxruntime's, and everything runs by kernels."""
    content = net.model(*outputs)
    program = compiled(content, **switches)
    if native:
        assert program.segments, program
        assert any(isinstance(s, Images) for s in program.segments), str(program)
        assert not any(type(s).__name__ == "Fallback" for s in program.segments), str(program)
    x = RNG.standard_normal((rows, *net.shape)).astype(np.float32)
    wanted = onnxruntime_session(content).run(list(outputs), {"x": x})
    with engine.Session(program, [0]) as session:
        found = session.run({"x": x})
    for name, want in zip(outputs, wanted, strict=True):
        assert found[name].shape == want.shape
        scale = max(1.0, float(np.abs(want).max(initial=0)))
        np.testing.assert_allclose(found[name], want, rtol=1e-4, atol=1e-4 * scale)


def compiled(content: bytes, **switches: Any) -> engine.Program:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.onnx"
        path.write_bytes(content)
        return engine.compile(path, **switches)
