"""The rules that rows.py names: each shows from shapes and attributes that rows stay apart.

A rule is asked only where some input has rows and all shapes are known, and need not look at the
result's shape: that it has the rows in front is checked for all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from engine.graph import ROWS, Graph, Node, Shape
from engine.ops.numbers import numbers

ROWS_AXIS = "axis 0 is the rows of the batch"
_END = 2**31 - 1
"""Exporters write this, or more, for "to the end"."""


def _shape(node: Node, index: int, graph: Graph) -> Shape:
    """The shape of an input; () where it is absent."""
    name = node.inputs[index] if index < len(node.inputs) else ""
    value = graph.value(name) if name else None
    return value.shape if value is not None and value.shape is not None else ()


def rows_in(node: Node, graph: Graph) -> list[int]:
    """Which inputs have rows."""
    return [i for i in range(len(node.inputs)) if _shape(node, i, graph)[:1] == (ROWS,)]


def broadcast(node: Node, graph: Graph) -> str | None:
    """Inputs with rows have the highest rank; the others do not reach the first dimension."""
    # CastLike's second input is a type only, Expand's a shape
    names = node.inputs[:1] if node.op in ("CastLike", "Expand") else node.inputs
    rank = max(len(_shape(node, i, graph)) for i in range(len(names)))
    for index, name in enumerate(names):
        dims = _shape(node, index, graph)
        if dims[:1] == (ROWS,) and len(dims) != rank:
            return f"the rows of {name} meet a later dimension of its result"
        if dims[:1] != (ROWS,) and len(dims) >= rank and dims and dims[0] != 1:
            return f"{name} has {dims[0]} in the place of the rows"
    return None


def row_by_row(node: Node, graph: Graph) -> str | None:
    """Operators of our own: they are defined for one row."""
    return None


def rotary(node: Node, graph: Graph) -> str | None:
    """Ids of positions have a row for each of x; tables have one, or none at all."""
    for index in range(1, len(node.inputs)):
        dims = _shape(node, index, graph)
        if dims and dims[0] != ROWS and (index == 3 or len(dims) == 3):
            return f"{node.inputs[index]} has {dims[0]} in the place of the rows"
    return None


def first_input_only(node: Node, graph: Graph) -> str | None:
    rows = rows_in(node, graph)
    return None if rows == [0] else f"{node.inputs[rows[-1]]}, a parameter, has rows"


def weighted(node: Node, graph: Graph) -> str | None:
    """Of a `colonnade.Conv` or Linear: its images or rows, and what is added to its results."""
    wanted = [0, 3] if any(node.inputs[3:]) else [0]
    rows = rows_in(node, graph)
    return None if rows == wanted else f"expected rows in the inputs {wanted}, got them in {rows}"


def max_pool(node: Node, graph: Graph) -> str | None:
    if len(node.writes) > 1:
        return "the indices it gives count through the whole batch"
    return first_input_only(node, graph)


def dropout(node: Node, graph: Graph) -> str | None:
    """Random in training mode: before opset 7 unless `is_test`, since 12 by its third input."""
    old = graph.opsets.get("", 1) < 7 and not node.attributes.get("is_test", 0)
    mode = numbers(node, "training_mode", 2, graph)
    return "it may draw random numbers" if old or mode not in (None, [0]) else None


def rows_by_features(node: Node, graph: Graph) -> str | None:
    if len(_shape(node, 0, graph)) < 2:
        return "it takes a vector for one row"
    if node.op == "FeatureVectorizer":
        return None if len(rows_in(node, graph)) == len(node.inputs) else "not all inputs have rows"
    return first_input_only(node, graph)


def axis_rule(
    default: int | None, by_input: int | None = None
) -> Callable[[Node, Graph], str | None]:
    """Operators that work along one axis, which must not be the first."""

    def rule(node: Node, graph: Graph) -> str | None:
        rank = max(len(_shape(node, i, graph)) for i in rows_in(node, graph))
        rank += node.op == "OneHot"  # whose axis is one of its result's
        found = numbers(node, "axis", len(node.inputs) if by_input is None else by_input, graph)
        if found is None and default is not None:
            old = node.op in ("Softmax", "LogSoftmax", "Hardmax") and graph.opsets.get("", 1) < 13
            found = [1 if old else default]
        if found is None or isinstance(found, str):
            return found or "its axis is not given"
        axis = found[0] + rank if found[0] < 0 else found[0]
        if axis == 0:
            return ROWS_AXIS
        if node.op in ("Concat", "GatherElements", "ScatterElements"):
            together = len(rows_in(node, graph)) == len(node.inputs)
            return None if together else "not all of its inputs have rows"
        return first_input_only(node, graph)

    return rule


def reduction(node: Node, graph: Graph) -> str | None:
    axes = numbers(node, "axes", 1, graph)
    if isinstance(axes, str):
        return axes
    if not axes:
        return None if node.attributes.get("noop_with_empty_axes") else "it reduces all dimensions"
    return _without_rows_axis(axes, len(_shape(node, 0, graph)))


def _without_rows_axis(axes: Sequence[int], rank: int) -> str | None:
    return ROWS_AXIS if 0 in axes or -rank in axes else None


def mean_variance(node: Node, graph: Graph) -> str | None:
    axes = node.attributes.get("axes", [0, 2, 3])
    return _without_rows_axis(axes, len(_shape(node, 0, graph)))


def transpose(node: Node, graph: Graph) -> str | None:
    rank = len(_shape(node, 0, graph))
    perm = node.attributes.get("perm") or list(range(rank))[::-1]
    return None if perm[0] == 0 else "it moves the rows from the front"


def squeeze(node: Node, graph: Graph) -> str | None:
    axes = numbers(node, "axes", 1, graph)
    if axes is None:
        return "without axes it drops the rows of a batch of one"
    return axes if isinstance(axes, str) else _without_rows_axis(axes, len(_shape(node, 0, graph)))


def slicing(node: Node, graph: Graph) -> str | None:
    """Starts, ends, axes, steps: attributes before opset 10, inputs since."""
    axes = numbers(node, "axes", 3, graph)
    starts = numbers(node, "starts", 1, graph)
    if axes is None and isinstance(starts, list):
        axes = list(range(len(starts)))
    if not isinstance(axes, list):
        return axes or "its axes are not given"
    if _without_rows_axis(axes, len(_shape(node, 0, graph))) is None:
        return first_input_only(node, graph)
    at = next(i for i, a in enumerate(axes) if a in (0, -len(_shape(node, 0, graph))))
    ends, steps = numbers(node, "ends", 2, graph), numbers(node, "steps", 4, graph)
    if isinstance(starts, list) and isinstance(ends, list) and not isinstance(steps, str):
        step = steps[at] if steps else 1
        if starts[at] == 0 and ends[at] >= _END and step == 1:
            return None
    return "it takes some of the rows"


def pad(node: Node, graph: Graph) -> str | None:
    pads = numbers(node, "pads", 1, graph)
    axes = numbers(node, "axes", 3, graph)
    if not isinstance(pads, list) or isinstance(axes, str):
        return "its pads are computed"
    rank = len(_shape(node, 0, graph))
    places = [a + rank if a < 0 else a for a in axes] if axes else list(range(rank))
    half = len(pads) // 2
    touched = [a for i, a in enumerate(places) if pads[i] or pads[i + half]]
    return "it adds or drops rows" if 0 in touched else first_input_only(node, graph)


def quantize(node: Node, graph: Graph) -> str | None:
    scale, rank = _shape(node, 1, graph), len(_shape(node, 0, graph))
    axis = node.attributes.get("axis", 1)
    if len(scale) > 1 or (scale not in ((), (1,)) and axis in (0, -rank)):
        return ROWS_AXIS
    return first_input_only(node, graph)


def gather(node: Node, graph: Graph) -> str | None:
    """Rows of data keep apart along other axes; rows of indices where they come out in front."""
    rows, axis = rows_in(node, graph), node.attributes.get("axis", 0)
    if rows == [1]:
        return None if axis in (0, -len(_shape(node, 0, graph))) else "its indices move the rows"
    if rows == [0]:
        return _without_rows_axis([axis], len(_shape(node, 0, graph)))
    return "each row of its indices is taken from all rows of its data"


def gather_nd(node: Node, graph: Graph) -> str | None:
    if rows_in(node, graph) == [1]:
        return None
    together = rows_in(node, graph) == [0, 1] and node.attributes.get("batch_dims", 0) > 0
    return None if together else "its indices choose among rows"


def gemm(node: Node, graph: Graph) -> str | None:
    if _shape(node, 1, graph)[:1] == (ROWS,):
        return "its second input has rows, over which it sums or which it moves"
    if _shape(node, 0, graph)[:1] != (ROWS,):
        return "its first input has no rows"
    if node.attributes.get("transA", 0):
        return "it sums over the rows (transA)"
    c = _shape(node, 2, graph)
    if len(c) == 2 and c[0] not in (1, ROWS):
        return f"{node.inputs[2]} has {c[0]} in the place of the rows"
    return "the rows of its C meet the features" if c == (ROWS,) else None


def matmul(node: Node, graph: Graph) -> str | None:
    """Of a[..., T, K] @ b[..., K, M], rows may be T or any dimension before; never K or M."""
    a, b = _shape(node, 0, graph), _shape(node, 1, graph)
    rows = rows_in(node, graph)
    if rows[-1] > 1:
        return "a zero point has rows"
    if rows == [0]:
        if len(a) < 2:
            return "it sums over the rows"
        fits = len(b) < max(len(a), 3) or (len(b) == len(a) and b[0] == 1)
        return None if fits else f"{node.inputs[1]} has {b[0]} in the place of the rows"
    if len(b) < 3:
        return "it sums over the rows of its second input"
    if rows == [1]:
        fits = len(a) < len(b) or (len(a) == len(b) and a[0] == 1)
        return None if fits else f"{node.inputs[0]} has {a[0]} in the place of the rows"
    return None if len(a) == len(b) else "the rows of its inputs do not meet"


def einsum(node: Node, graph: Graph) -> str | None:
    """The rows' letter stands first in each operand with rows and in the result, and only there."""
    left, arrow, right = node.attributes["equation"].replace(" ", "").partition("->")
    if not arrow or "." in left:
        return "its equation has no result, or an ellipsis"
    terms, rows = left.split(","), rows_in(node, graph)
    letter = right[:1]
    for index, term in enumerate(terms):
        first = index in rows and term[:1] == letter and letter not in term[1:]
        if not first and (index in rows or letter in term):
            return f"its equation {node.attributes['equation']} does not keep the rows in front"
    return None


def batch_normalization(node: Node, graph: Graph) -> str | None:
    old = graph.opsets.get("", 1) < 7 and not node.attributes.get("is_test", 0)
    if old or node.attributes.get("training_mode", 0) or len(node.writes) > 1:
        return "in training mode it takes its statistics from the batch"
    if len(_shape(node, 0, graph)) < 2:
        return "it takes the rows for its channels"
    return first_input_only(node, graph)


def recurrent(node: Node, graph: Graph) -> str | None:
    if node.attributes.get("layout", 0) != 1:
        return "its first dimension is time, not rows (layout 0)"
    parameters = [i for i in rows_in(node, graph) if i in (1, 2, 3, 7)]
    return "a parameter has rows" if parameters else None


def reverse_sequence(node: Node, graph: Graph) -> str | None:
    if node.attributes.get("batch_axis", 1) != 0 or node.attributes.get("time_axis", 0) == 0:
        return "it reverses the rows (batch_axis is not 0)"
    return None if rows_in(node, graph) == [0, 1] else "its input and lengths need rows both"


def attention(node: Node, graph: Graph) -> str | None:
    rows, mask = rows_in(node, graph), _shape(node, 3, graph)
    if rows == [0, 1, 2, 3] and len(mask) == 4:  # of fewer dimensions, the first is not the rows
        return None
    return None if rows == [0, 1, 2] else "not exactly its query, key and value have rows"


def trilu(node: Node, graph: Graph) -> str | None:
    if len(_shape(node, 0, graph)) < 3:
        return "it takes the rows for a side of its matrix"
    return first_input_only(node, graph)
