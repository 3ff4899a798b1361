"""Parameters that must fit what they are applied to, where onnx's inference does not look.

One rule an operator: (node, the known types, the operator set) -> what is wrong, or None.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from engine.graph import Node, Shape, Value

Types = Mapping[str, Value]
Rule = Callable[[Node, Types, int], str | None]

NUMPY_BROADCAST = 7
"""Since this operator set dimensions are matched from the last one; before, by attributes."""


def parameters_refused(node: Node, types: Types, opsets: Mapping[str, int]) -> str | None:
    """Why the node's parameters cannot belong to it."""
    rule = None if node.domain else _RULES.get(node.op)
    return rule(node, types, opsets.get("", 1)) if rule is not None else None


def _shape(node: Node, index: int, types: Types) -> Shape | None:
    """The shape of an input; None where it is absent or not known."""
    value = types.get(node.inputs[index]) if index < len(node.inputs) else None
    return value.shape if value is not None else None


def _spreads(small: Shape, large: Shape) -> bool:
    """Whether `small` can be broadcast to `large`; open dimensions fit anything."""
    if len(small) > len(large):
        return False
    pairs = zip(reversed(small), reversed(large), strict=False)
    return all(s in (1, d) or isinstance(s, str) or isinstance(d, str) for s, d in pairs)


def _misfit(node: Node, index: int, types: Types, what: str) -> str:
    return f"expected {what}, got {types[node.inputs[index]]}; export the model again"


def _clip(node: Node, types: Types, opset: int) -> str | None:
    for index in (1, 2):
        bound = _shape(node, index, types)
        if bound is not None and any(isinstance(d, int) and d != 1 for d in bound):
            return _misfit(node, index, types, "one number as a bound")
    return None


def _batch_normalization(node: Node, types: Types, opset: int) -> str | None:
    x = _shape(node, 0, types)
    if x is None or len(x) < 2:
        return None
    if not node.attributes.get("spatial", 1) and len(x) > 2:
        return (
            f"expected statistics for each channel, got spatial=0 over {list(x)}; convert the "
            "model to operator set 9 or later"
        )
    for index in range(1, 5):
        found = _shape(node, index, types)
        pair = (*(found or ()), x[1])
        fixed = all(isinstance(d, int) for d in pair)
        if found is not None and (len(found) != 1 or (fixed and pair[0] != pair[1])):
            return _misfit(node, index, types, f"a parameter [{x[1]}], one for each channel")
    return None


def _gemm(node: Node, types: Types, opset: int) -> str | None:
    a, b, c = (_shape(node, i, types) for i in range(3))
    if a is None or b is None or c is None or len(a) != 2 or len(b) != 2:
        return None
    rows = a[1] if node.attributes.get("transA", 0) else a[0]
    outputs = b[0] if node.attributes.get("transB", 0) else b[1]
    if _spreads(c, (rows, outputs)):
        return None
    return _misfit(node, 2, types, f"a C that can be broadcast to [{rows}, {outputs}]")


def _prelu(node: Node, types: Types, opset: int) -> str | None:
    x, slope = _shape(node, 0, types), _shape(node, 1, types)
    if x is None or slope is None:
        return None
    if opset < NUMPY_BROADCAST and len(x) != 2 and any(d != 1 for d in slope):
        return _old(f"a slope {list(slope)} over the channels of {list(x)}")
    return None if _spreads(slope, x) else _misfit(node, 1, types, f"a slope that fits {list(x)}")


def _arithmetic(node: Node, types: Types, opset: int) -> str | None:
    """Before opset 7 the second input was laid along `axis` of the first, if `broadcast` said."""
    if opset >= NUMPY_BROADCAST:
        return None
    x, y = _shape(node, 0, types), _shape(node, 1, types)
    axis = node.attributes.get("axis")
    if x is None or y is None:
        return None if axis is None else _old(f"axis={axis}")
    trailing = axis is None or axis in (len(x) - len(y), -len(y))
    if not trailing and any(d != 1 for d in y):
        return _old(f"axis={axis} for {list(y)} and {list(x)}")
    return None if _spreads(y, x) else _misfit(node, 1, types, f"an input that fits {list(x)}")


def _old(got: str) -> str:
    return (
        "expected dimensions that are matched from the last one, as since operator set "
        f"{NUMPY_BROADCAST}, got {got}; convert the model to a later operator set"
    )


_OLD = ("Add", "And", "Div", "Equal", "Greater", "Less", "Mul", "Or", "Pow", "Sub", "Xor")

_RULES: dict[str, Rule] = {
    "BatchNormalization": _batch_normalization,
    "Clip": _clip,
    "Gemm": _gemm,
    "PRelu": _prelu,
    **dict.fromkeys(_OLD, _arithmetic),
}
