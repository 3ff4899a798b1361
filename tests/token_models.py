"""Transformers that are odd in one respect, made from whole ones."""

from __future__ import annotations

import numpy as np
import onnx
import small_models as small


def interrupted(whole: onnx.ModelProto) -> onnx.ModelProto:
    """With a node before the second layer that no kernel knows, and that changes nothing."""
    model = onnx.ModelProto()
    model.CopyFrom(whole)
    nodes = list(model.graph.node)
    first = next(n for n in nodes if "layer/1" in n.name)
    hidden, place = first.input[0], nodes.index(first)
    for node in nodes[place:]:
        node.input[:] = ["between" if name == hidden else name for name in node.input]
    model.graph.node.insert(
        place, small.node("Mod", f"{hidden} much", "between", fmod=1, name="odd")
    )
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(1e6), "much"))
    return model
