"""Images [N, H, W, C] of TensorFlow's exports become [N, C, H, W] all through a network.

Such a network transposes before each Conv and behind it:

    f(last(x))          =  last(f'(x))            last:  [N, C, H, W] -> [N, H, W, C]
    first(f(x))         =  f'(first(x))           first: [N, H, W, C] -> [N, C, H, W]
    first(last(x))      =  x
    flatten(last(x)) W  =  flatten(x) W'          W' has the columns of W in another order

So `last` moves down and `first` moves up, until they meet, or stand at an input or output of the
graph. f' is f with its axes and constants moved (layout_rules.py). Where an image is one pixel,
transposing it is a Reshape. Graphs without convolutions or pools are left alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from engine.graph import NATIVE, Node, Shape, Value
from engine.rewrites.layout_rules import RULES, TO_FIRST, TO_LAST, Change, rank
from engine.rewrites.rewrite import Array, Edit, Rewrite, View

_SHAPERS = ("Flatten", "Reshape", "Squeeze", "Unsqueeze")
_OF_IMAGES = frozenset(
    ("Conv", "ConvTranspose", "AveragePool", "MaxPool", "GlobalAveragePool", "GlobalMaxPool")
)


def _at(node: Node, view: View) -> Edit | str | None:
    found = _ROOTS[node.label](node, view)
    if found is None or any(n.op in _OF_IMAGES for n in view.graph.nodes):
        return found
    return None


def _transposed(name: str, perm: tuple[int, ...], view: View) -> str | None:
    """x, where `name` is x transposed so."""
    node = view.producer(name)
    if node is None or node.label != "Transpose":
        return None
    return node.inputs[0] if tuple(node.attributes.get("perm", ())) == perm else None


def _permuted(value: Value, name: str, perm: tuple[int, ...]) -> Value:
    shape: Shape = tuple((value.shape or ())[axis] for axis in perm)
    return Value(name, value.dtype, shape)


class _Making:
    """The nodes, values and constants of an edit, as they are made."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.nodes: list[Node] = []
        self.values: dict[str, Value] = {}
        self.constants: dict[str, Array] = {}

    def transpose(self, name: str, into: str, perm: tuple[int, ...]) -> None:
        new = self.view.fresh_node(f"{into}.layout")
        self.nodes.append(Node(new, "Transpose", (name,), (into,), "", {"perm": list(perm)}))

    def channels_first(self, name: str) -> str:
        """The image with its channels first: what was transposed, or what is now."""
        source = _transposed(name, TO_LAST, self.view)
        value = self.view.value(name)
        if source is not None or value is None:
            return source or name
        into = self.view.fresh(f"{name}.first")
        self.transpose(name, into, TO_FIRST)
        self.values[into] = _permuted(value, into, TO_FIRST)
        return into

    def node(self, node: Node, change: Change, outputs: tuple[str, ...]) -> None:
        """f' in the place of f."""
        inputs = list(node.inputs)
        for index in change.images:
            inputs[index] = self.channels_first(inputs[index])
        for index, array in change.constants.items():
            inputs += [""] * (index + 1 - len(inputs))
            inputs[index] = self.view.fresh(f"{inputs[index] or node.name}.first")
            self.constants[inputs[index]] = array
        attributes = {**node.attributes, **change.attributes}
        self.nodes.append(
            replace(node, inputs=tuple(inputs), outputs=outputs, attributes=attributes)
        )

    def edit(self, removes: tuple[Node, ...], reason: str) -> Edit:
        return Edit(removes, tuple(self.nodes), self.values, self.constants, reason=reason)


def _down(node: Node, view: View) -> Edit | str | None:
    """f(last(x)) = last(f'(x))."""
    if not any(_transposed(name, TO_LAST, view) for name in node.inputs):
        return None
    change = RULES[node.label](node, view)
    if isinstance(change, str):
        return change
    if not any(_transposed(node.inputs[i], TO_LAST, view) for i in change.images):
        return None
    making, results = _Making(view), {n: view.value(n) for n in node.writes}
    if change.flat:
        making.node(node, change, node.outputs)
        return making.edit((node,), "the same in both layouts")
    if any(rank(name, view) != 4 for name in results):
        return f"its results are no images: {list(results)}"
    names = {n: view.fresh(f"{n}.first") for n in results}
    making.node(node, change, tuple(names.get(n, "") for n in node.outputs))
    for name, value in results.items():
        assert value is not None
        making.values[names[name]] = _permuted(value, names[name], TO_FIRST)
        making.transpose(names[name], name, TO_LAST)
    return making.edit((node,), "channels first, transposed behind it")


def _transpose(node: Node, view: View) -> Edit | str | None:
    """first(last(x)) = x, and first(f(x)) = f'(first(x)); twice the same is once."""
    perm, source = tuple(node.attributes.get("perm", ())), node.inputs[0]
    if perm not in (TO_FIRST, TO_LAST):
        return None
    inverse = TO_LAST if perm == TO_FIRST else TO_FIRST
    original = _transposed(source, inverse, view)
    if original is not None:
        new = Node(node.name, "Identity", (original,), node.outputs)
        return Edit((node,), (new,), reason=f"{node.outputs[0]} is {original}")
    twin = next(n for n in view.readers(source) if _transposed(n.outputs[0], perm, view) == source)
    if twin is not node:
        new = Node(node.name, "Identity", twin.outputs, node.outputs)
        return Edit((node,), (new,), reason=f"{twin.name} does the same")
    return _up(node, view) if perm == TO_FIRST else None


def _up(node: Node, view: View) -> Edit | str | None:
    source, result = node.inputs[0], view.value(node.outputs[0])
    f = view.producer(source)
    if f is None or result is None:
        return None
    if f.label in _SHAPERS:
        return _as_reshape((f, node), view)
    if f.label not in RULES or len(f.writes) != 1:
        return None
    change = RULES[f.label](f, view)
    reason = change if isinstance(change, str) else view.shared(source)
    if reason or isinstance(change, str):
        return reason
    if change.flat or not change.images:
        return f"{f.name} gives no image"
    making = _Making(view)
    making.node(f, change, node.outputs)
    return making.edit((f, node), f"moved before {f.name}")


def _shaper(node: Node, view: View) -> Edit | str | None:
    """A change of shape that reads last(x)."""
    source = _transposed(node.inputs[0], TO_LAST, view)
    transpose = view.producer(node.inputs[0])
    if source is None or transpose is None:
        return None
    x = view.value(source)
    if x is not None and x.shape is not None and x.shape[2:] == (1, 1):
        return _as_reshape((transpose, node), view)
    return _before_linear(node, source, view)


def _as_reshape(nodes: tuple[Node, Node], view: View) -> Edit | str | None:
    """A change of shape and a Transpose of one pixel are one Reshape; dead_code takes the first."""
    first, last = nodes
    pixel = view.value(first.outputs[0])
    x, y = view.value(first.inputs[0]), view.value(last.outputs[0])
    ones = pixel is not None and pixel.shape is not None and pixel.shape[1:3] == (1, 1)
    if not ones or x is None or y is None or not x.has_rows or not y.has_rows:
        return None
    if y.features is None or y.lead != 1 or 0 in (y.shape or ()):
        return f"the shape of {last.outputs[0]} is not known"
    target = view.fresh(f"{last.name}.shape")
    new = Node(last.name, "Reshape", (x.name, target), last.outputs)
    shape = np.array([0, *(y.shape or ())[1:]], np.int64)
    return Edit((last,), (new,), initializers={target: shape}, reason=f"{x.name} of one pixel")


def _before_linear(node: Node, source: str, view: View) -> Edit | str | None:
    """flatten(last(x)) W = flatten(x) W'."""
    x, flat = view.value(source), view.value(node.outputs[0])
    readers = view.readers(node.outputs[0])
    if x is None or x.shape is None or flat is None or x.features is None:
        return None
    if flat.shape != (*x.shape[:1], x.features) or not readers:
        return f"it takes the pixels of {node.inputs[0]} apart"
    (linear, *others) = readers
    if others or linear.label != f"{NATIVE}.Linear" or view.is_output(node.outputs[0]):
        return f"{node.outputs[0]} is read by others than one Linear"
    names = [view.fresh(f"{n}.first") for n in (node.outputs[0], linear.inputs[1])]
    channels, height, width = (int(d) for d in x.shape[1:])
    by_pixel = view.graph.initializers[linear.inputs[1]].reshape(-1, height, width, channels)
    weights = np.ascontiguousarray(by_pixel.transpose(TO_FIRST)).reshape(len(by_pixel), -1)
    return Edit(
        (node, linear),
        (
            Node(node.name, "Flatten", (source,), (names[0],), "", {"axis": 1}),
            replace(linear, inputs=(*names, *linear.inputs[2:])),
        ),
        {names[0]: Value(names[0], flat.dtype, flat.shape)},
        {names[1]: weights},
        reason=f"{linear.name} takes channels first",
    )


_ROOTS: dict[str, Callable[[Node, View], Edit | str | None]] = {
    **dict.fromkeys(RULES, _down),
    **dict.fromkeys(_SHAPERS, _shaper),
    "Transpose": _transpose,
}

LAYOUT = Rewrite(
    "layout",
    "moves the transposes of channels-last networks to their inputs and outputs",
    _at,
    frozenset(_ROOTS),
)
