"""Small ONNX models for tests: nodes written as tuples, weights as arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper

Array = np.ndarray[Any, np.dtype[Any]]
Shape = Sequence[int | str | None] | None


def node(op: str, inputs: str, outputs: str, **attributes: Any) -> NodeProto:
    """`node("Gemm", "x w b", "y", transB=1)`; `-` is an absent input."""
    domain = attributes.pop("domain", "")
    names = ["" if n == "-" else n for n in inputs.split()]
    return helper.make_node(op, names, outputs.split(), domain=domain, **attributes)


def info(name: str, shape: Shape, dtype: Any = np.float32) -> onnx.ValueInfoProto:
    elem = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return helper.make_tensor_value_info(name, elem, shape)


def model(
    nodes: Sequence[NodeProto],
    inputs: Mapping[str, Shape],
    outputs: Mapping[str, Shape] | str,
    constants: Mapping[str, Any] | None = None,
    opset: int = 17,
    **domains: int,
) -> onnx.ModelProto:
    """float32 in and out; python numbers in `constants` become int64 or float32 arrays."""
    if isinstance(outputs, str):
        outputs = dict.fromkeys(outputs.split())
    graph = helper.make_graph(
        list(nodes),
        "small",
        [info(n, s) for n, s in inputs.items()],
        [info(n, s) for n, s in outputs.items()],
        [numpy_helper.from_array(constant(v), n) for n, v in (constants or {}).items()],
    )
    imports = [helper.make_opsetid("", opset)]
    imports += [helper.make_opsetid(d.replace("_", "."), v) for d, v in domains.items()]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def constant(value: Any) -> Array:
    array = np.asarray(value)
    return array.astype(np.float32) if array.dtype == np.float64 else array


def onnxruntime_session(model: onnx.ModelProto | Path | bytes) -> Any:
    """onnxruntime on one thread: more of them spin while they wait, where other tests want to run,
    and took all-MiniLM-L6-v2 a third more of a processor."""
    import onnxruntime as ort  # tests only, and slow to import

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    content = model.SerializeToString() if isinstance(model, onnx.ModelProto) else model
    return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def onnxruntime_run(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """What onnxruntime gives, by output name."""
    session = onnxruntime_session(model)
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))
