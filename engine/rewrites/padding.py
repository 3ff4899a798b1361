"""Zeros around an image go into the padding of the Conv or pooling that reads it.

    conv(pad(x))        = conv with more pads
    average(pad(x))     = average with more pads that counts them
    maximum(pad(x))     = maximum with more pads, where no x is below zero: no zero wins over one

The pads of a pooling stay below its kernel's sides, as ONNX wants them: then each window has at
least one pixel of x.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from engine.graph import NATIVE, Node
from engine.ops.numbers import numbers
from engine.ops.unary import unary_of
from engine.rewrites.geometry import Pair, explicit_pads
from engine.rewrites.rewrite import Edit, Rewrite, View

_ABOVE_ZERO = frozenset({"Abs", "Exp", "HardSigmoid", "Relu", "Sigmoid", "Softplus", "Square"})


def _at(node: Node, view: View) -> Edit | str | None:
    pad = view.producer(node.inputs[0])
    if pad is None or pad.label != "Pad":
        return None
    sides = _zeros(pad, view)
    if isinstance(sides, str):
        return sides
    attributes = _RULES[node.label](node, sides, pad.inputs[0], view)
    if isinstance(attributes, str):
        return attributes
    reason = view.shared(pad.outputs[0])
    if reason:
        return reason
    new = replace(
        node,
        inputs=(pad.inputs[0], *node.inputs[1:]),
        attributes={**node.attributes, **attributes},
    )
    return Edit((pad, node), (new,), reason=f"took in the zeros of {pad.name}")


def _zeros(pad: Node, view: View) -> list[Pair] | str:
    """(before, after) of height and width, if the node pads an image with zeros."""
    x = view.value(pad.inputs[0])
    pads, value, axes = (
        numbers(pad, name, place, view.graph)
        for place, name in ((1, "pads"), (2, "value"), (3, "axes"))
    )
    if pad.attributes.get("mode", "constant") != "constant" or value not in (None, [0]):
        return f"{pad.name} does not pad with zeros"
    if x is None or x.shape is None or len(x.shape) not in (3, 4) or not isinstance(pads, list):
        return f"the pads of {pad.name} or the shape of its input are not known"
    every = np.zeros((2, len(x.shape)), np.int64)
    every[:, axes if isinstance(axes, list) else slice(None)] = np.reshape(pads, (2, -1))
    if isinstance(axes, str) or every.min() < 0 or every[:, :2].any():
        return f"{pad.name} pads other dimensions than those of the image, or cuts"
    return explicit_pads(every[:, 2:].reshape(-1).tolist())


Changed = dict[str, Any] | str
"""Attributes to change, or why not."""


def _conv(node: Node, sides: list[Pair], source: str, view: View) -> Changed:
    (top, bottom), (left, right) = sides
    more = zip(node.attributes["pads"], (top, left, bottom, right), strict=True)
    return {"pads": tuple(old + new for old, new in more)}


def _pool(node: Node, sides: list[Pair]) -> Changed:
    """Pads as ONNX writes them, with those of `sides`."""
    kernel = node.attributes["kernel_shape"]
    rank = len(kernel)
    if node.attributes.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return f"its own pads follow its input's size ({node.attributes['auto_pad']})"
    if node.attributes.get("ceil_mode", 0):
        return "it rounds the number of its windows up, and drops those that see only pads"
    old = np.reshape(node.attributes.get("pads") or [0] * 2 * rank, (2, rank))
    pads = old + np.array(sides[-rank:]).T
    if (pads >= kernel).any():
        return f"pads {pads.reshape(-1).tolist()} would be as large as its kernel {kernel}"
    return {"pads": pads.reshape(-1).tolist(), "auto_pad": "NOTSET"}


def _average(node: Node, sides: list[Pair], source: str, view: View) -> Changed:
    counted = node.attributes.get("count_include_pad", 0)
    if any(node.attributes.get("pads") or []) and not counted:
        return "it has pads of its own, which it does not count"
    changed = _pool(node, sides)
    return changed if isinstance(changed, str) else {**changed, "count_include_pad": 1}


def _maximum(node: Node, sides: list[Pair], source: str, view: View) -> Changed:
    if len(node.writes) > 1:
        return "it tells where its maxima are"
    if not _above_zero(source, view):
        return f"{source} may be below zero, which a pad of zero would hide"
    return _pool(node, sides)


def _above_zero(name: str, view: View) -> bool:
    """Whether no element can be below zero, as its last function tells."""
    node = view.producer(name)
    if node is None:
        return False
    found = unary_of(node, view.graph.initializers)
    functions = [*node.attributes.get("activations", ())]
    functions += [found[1]] if isinstance(found, tuple) else []
    if not functions:
        return False
    op, low, _ = functions[-1]
    return op in _ABOVE_ZERO or (op == "Clip" and low >= 0)


_RULES: dict[str, Callable[[Node, list[Pair], str, View], Changed]] = {
    f"{NATIVE}.Conv": _conv,
    "AveragePool": _average,
    "MaxPool": _maximum,
}

PADDING = Rewrite(
    "padding",
    "moves zeros around an image into the padding of what reads it",
    _at,
    frozenset(_RULES),
)
