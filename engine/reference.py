"""The oracle and the fallback: a graph node by node, through onnx's reference evaluator.

It is slow and obvious. Nodes of the domain `colonnade`, which rewrites introduce, and some of
ONNX's are computed in plain numpy (engine/ops/plain.py says which, and why).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from engine.errors import EngineError, FeedError, UnsupportedError
from engine.graph import Graph, Node
from engine.ops.plain import BEFORE, FOLDED, PLAIN, ROW_BY_ROW, training

Array = np.ndarray[Any, np.dtype[Any]]
Arrays = Mapping[str, Array]


class NodeRunner:
    """One node made ready to run: built once, called for every batch."""

    def __init__(
        self,
        node: Node,
        opsets: Mapping[str, int],
        dtypes: Mapping[str, np.dtype[Any]] | None = None,
        rows: bool = True,
    ) -> None:
        """`dtypes` are the element types of what the node reads, where they are known.

        With `rows`, a row gets the same bytes in any batch, where BLAS alone would not; without,
        constants get the same bytes with any number of BLAS threads."""
        self.node = node
        key = (node.domain, node.op)
        self._function = (PLAIN if rows else PLAIN | FOLDED).get(key)
        for opset, earlier in BEFORE.items():
            if opsets.get("", 1) < opset:
                self._function = earlier.get(key, self._function)
        with_rows = ROW_BY_ROW[key](node) if rows and key in ROW_BY_ROW else []
        self._split = [node.inputs[i] for i in with_rows]
        if key == ("", "BatchNormalization") and training(node, opsets.get("", 1)):
            self._function = None
        if self._function is None:
            # Many models have no such node, and the import is a seventh of a compilation's start.
            from onnx.reference import ReferenceEvaluator

            try:
                self._evaluator = ReferenceEvaluator(_model(node, opsets, dtypes or {}))
            except Exception as error:  # onnx raises many kinds for one reason: no implementation
                raise UnsupportedError(_unsupported(node, opsets, error)) from error

    def __call__(self, inputs: Arrays) -> dict[str, Array]:
        """The node's outputs by name; floating point oddities give inf and NaN, not warnings."""
        node = self.node
        try:
            with np.errstate(all="ignore"), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if self._function is not None:
                    found = [inputs[n] if n else None for n in node.inputs]
                    return {node.outputs[0]: self._function(node, *found)}
                results = self._evaluate({n: inputs[n] for n in node.reads})
        except EngineError:
            raise
        except Exception as error:
            shapes = ", ".join(f"{n}{list(np.shape(inputs[n]))}" for n in node.reads)
            raise UnsupportedError(
                f"{node.name} ({node.label}): expected inputs that onnx's reference evaluator "
                f"can run, got {shapes}: {type(error).__name__}: {error}"
            ) from error
        return {
            name: np.asarray(r) if isinstance(r, np.generic) else r  # 0-d results come as scalars
            for name, r in zip(node.writes, results, strict=True)
        }

    def _evaluate(self, inputs: dict[str, Array]) -> list[Array]:
        """onnx's evaluator, at once or row by row."""
        rows = len(inputs[self._split[0]]) if self._split else 1
        if rows < 2:
            return list(self._evaluator.run(None, inputs))
        found = []
        for row in range(rows):
            alone = {n: inputs[n][row : row + 1] for n in self._split}
            found.append(list(self._evaluator.run(None, inputs | alone)))
        return [np.concatenate(parts) for parts in zip(*found, strict=True)]


class Reference:
    """A graph ready to run on any number of batches."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        dtypes = {n: v.dtype for n, v in graph.values.items()}
        dtypes |= {n: a.dtype for n, a in graph.initializers.items()}
        self._runners = tuple(NodeRunner(n, graph.opsets, dtypes) for n in graph.nodes)

    def run(self, feeds: Arrays) -> dict[str, Array]:
        """Outputs by name. Values are dropped after their last use."""
        missing = [v.name for v in self.graph.inputs if v.name not in feeds]
        if missing:
            raise FeedError(f"expected an array for each input, got none for {missing}")
        known: dict[str, Array] = {**self.graph.initializers}
        known |= {v.name: np.asarray(feeds[v.name]) for v in self.graph.inputs}
        wanted = {v.name for v in self.graph.outputs}
        last = {n: i for i, node in enumerate(self.graph.nodes) for n in node.reads}
        for index, runner in enumerate(self._runners):
            known |= runner({n: known[n] for n in runner.node.reads})
            for name in runner.node.reads:
                if last[name] == index and name not in wanted:
                    known.pop(name, None)
        return {v.name: known[v.name] for v in self.graph.outputs}


def run(graph: Graph, feeds: Arrays) -> dict[str, Array]:
    """One batch through the graph."""
    return Reference(graph).run(feeds)


def evaluate(node: Node, inputs: Arrays, opsets: Mapping[str, int]) -> dict[str, Array]:
    """One node, once, on all that it reads: for constants."""
    dtypes = {n: a.dtype for n, a in inputs.items()}
    return NodeRunner(node, opsets, dtypes, rows=False)(inputs)


def refuses(
    node: Node, opsets: Mapping[str, int], dtypes: Mapping[str, np.dtype[Any]] | None = None
) -> str | None:
    """Why the node cannot run here, or None; no row is needed to tell."""
    try:
        NodeRunner(node, opsets, dtypes)
    except UnsupportedError as error:
        return str(error)
    return None


def proto_of(node: Node, opsets: Mapping[str, int]) -> NodeProto:
    """The node as onnx writes it."""
    proto = NodeProto(
        name=node.name, op_type=node.op, domain=node.domain,
        input=node.inputs, output=node.outputs,
    )  # fmt: skip
    version = opsets.get(node.domain, 1)
    kinds: Mapping[str, Any] = {}
    if onnx.defs.has(node.op, version, node.domain):
        kinds = onnx.defs.get_schema(node.op, version, node.domain).attributes
    for name, value in node.attributes.items():
        if isinstance(value, np.ndarray):
            value = numpy_helper.from_array(np.asarray(value))
        elif isinstance(value, list) and value and isinstance(value[0], np.ndarray):
            value = [numpy_helper.from_array(np.asarray(v)) for v in value]
        # an empty list has no type of its own, so the schema tells
        kind = kinds[name].type.value if name in kinds else None
        if value is not None and (value != [] or kind is not None):
            proto.attribute.append(helper.make_attribute(name, value, attr_type=kind))
    return proto


def _model(
    node: Node, opsets: Mapping[str, int], dtypes: Mapping[str, np.dtype[Any]]
) -> onnx.ModelProto:
    """A model of one node, whose inputs are all that the node reads."""
    inputs = []
    for name in dict.fromkeys(node.reads):
        dtype = dtypes.get(name)
        elem = helper.np_dtype_to_tensor_dtype(dtype) if dtype else TensorProto.UNDEFINED
        inputs.append(helper.make_tensor_value_info(name, elem, None))
    outputs = [onnx.ValueInfoProto(name=n) for n in node.writes]
    graph = helper.make_graph([proto_of(node, opsets)], node.name, inputs, outputs)
    imports = [helper.make_opsetid(d, v) for d, v in opsets.items()]
    return helper.make_model(graph, opset_imports=imports)


def _unsupported(node: Node, opsets: Mapping[str, int], error: Exception) -> str:
    version = opsets.get(node.domain)
    where = f"domain {node.domain or 'ai.onnx'!r}, opset {version or 'not imported'}"
    reason = " ".join(str(error).split())
    return (
        f"{node.name} ({node.label}): expected an operator of ai.onnx up to "
        f"{onnx.defs.onnx_opset_version()} or of ai.onnx.ml, got {node.op} of {where} "
        f"({reason[:160]}); export the model with standard operators only"
    )
