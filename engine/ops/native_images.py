"""IMAGE_OPS: the operators that have kernels over images, and how each asks for them.

A function gives the work, or the reason why the node is left to others. Which values are images is
decided for the whole graph (`image_values`): a picture may be [N, C, H, W], but so may be a table
that a fully connected network reads. What no other kernels take is tried as an image, too.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from engine.graph import Graph, Node
from engine.kernels.image_table import IMAGE_BINARY_NAMES
from engine.kernels.table import IMPORTS, UNARY_NAMES
from engine.ops.image_work import (
    Convolution,
    Gathered,
    ImageWork,
    Laid,
    Plane,
    Pointwise,
    Pool,
    Read,
    Spread,
    Total,
    Turned,
    Window,
    plane_of,
)
from engine.ops.native_picking import (
    concat_space,
    gathering,
    pad,
    place_of,
    resize,
    slicing,
)
from engine.ops.unary import unary_of
from engine.ops.work import Refusal

Array = np.ndarray[Any, Any]
Planes = Mapping[str, Plane]

SEEDS = frozenset(
    (
        "colonnade.Conv",
        "colonnade.DepthToSpace",
        *("AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool"),
        *("Resize", "Upsample"),
    )
)
"""Operators whose inputs are images whatever stands around them."""


def image_values(graph: Graph, seeds: Collection[str] = ()) -> dict[str, Plane]:
    """Every image value: what convolutions and pools touch, or the nodes `seeds`, and what
    element-wise operators, concatenations and gates carry on from there, in both directions."""
    known = {n: p for n, v in graph.values.items() if (p := plane_of(v)) is not None}
    found: set[str] = set()
    changed = True
    while changed:
        before = len(found)
        for node in graph.nodes:
            names = {n for n in _touched(node, graph) if n in known}
            mine = node.label in IMAGE_OPS and (node.name in seeds or names & found)
            if node.label in SEEDS or mine:
                found |= names
        changed = len(found) > before
    return {n: known[n] for n in known if n in found}


def _touched(node: Node, graph: Graph) -> tuple[str, ...]:
    """What is an image where the node is one of ours: of a Transpose, what it reads, unless that is
    an input, which is read in the other order."""
    if node.label == "Transpose" and graph.producer(node.inputs[0]) is not None:
        return node.reads if _source(node.inputs[0], graph) is None else node.writes
    return (*node.reads, *node.writes)


def lower_image(node: Node, graph: Graph, planes: Planes) -> ImageWork | Refusal | None:
    """The work of a node over images, why it has none, or None where it is none of theirs."""
    rule = IMAGE_OPS.get(node.label)
    if rule is None or not any(n in planes for n in (*node.reads, *node.writes)):
        return None
    if len(node.writes) != 1:
        return Refusal(f"expected one output, got {len(node.writes)}")
    for name in (*node.reads, *node.writes):
        value = graph.values.get(name)
        foreign = name not in planes and (value is None or value.has_rows or name in node.writes)
        if foreign and name not in graph.initializers and node.label not in ("Cast", "Transpose"):
            return Refusal(f"{value or name} is no image of known size")
    if graph.values[node.outputs[0]].dtype != np.float32:
        return Refusal(f"{graph.values[node.outputs[0]]}: kernels compute in float32")
    return rule(node, graph, planes)


def convolution(node: Node, graph: Graph, planes: Planes) -> ImageWork | Refusal:
    x, y = planes[node.inputs[0]], planes[node.outputs[0]]
    weights = graph.initializers[node.inputs[1]]
    bias = graph.initializers.get(node.inputs[2], np.zeros(len(weights), np.float32))
    a = node.attributes
    group = int(a["group"])
    rows, pixels = (
        Window(weights.shape[2 + i], a["strides"][i], a["dilations"][i], a["pads"][i])
        for i in (0, 1)
    )
    reads = [Read(node.inputs[0], x, rows, pixels)]
    if len(node.inputs) > 3 and node.inputs[3]:
        reads.append(Read(node.inputs[3], planes[node.inputs[3]]))
    activations = tuple(tuple(act) for act in a["activations"])
    unknown = [name for name, *_ in activations if name not in UNARY_NAMES]
    if unknown:
        return Refusal(f"no kernel for the activation {unknown[0]}")
    return Convolution(
        tuple(reads),
        node.outputs[0],
        y,
        weights,
        bias,
        group,
        activations,
    )


def pool(node: Node, graph: Graph, planes: Planes) -> ImageWork | Refusal:
    x, y = planes[node.inputs[0]], planes[node.outputs[0]]
    a = node.attributes
    rank = len(a["kernel_shape"])
    if a.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return Refusal(f"its padding is not worked out ({a['auto_pad']})")
    ones, pads = [1] * rank, a.get("pads") or [0] * (2 * rank)
    sizes = zip(
        a["kernel_shape"], a.get("strides") or ones, a.get("dilations") or ones, pads, strict=False
    )
    rows, pixels = ([Window(), *(Window(*s) for s in sizes)])[-2:]
    behind = ([0, *pads[rank:]])[-2:]
    counted = (behind[0], behind[1]) if a.get("count_include_pad", 0) else None
    read = Read(node.inputs[0], x, rows, pixels, padded=False)
    return Pool((read,), node.outputs[0], y, node.op == "AveragePool", counted)


def total(node: Node, graph: Graph, planes: Planes) -> ImageWork | Refusal:
    x, y = planes[node.inputs[0]], planes[node.outputs[0]]
    largest = node.op == "GlobalMaxPool"
    scale = 1.0 if largest else 1.0 / (x.height * x.width)
    read = Read(node.inputs[0], x, padded=False, whole=True)
    return Total((read,), node.outputs[0], y, largest, scale)


def unary(node: Node, graph: Graph, planes: Planes) -> ImageWork | Refusal:
    found = unary_of(node, graph.initializers)
    if not isinstance(found, tuple) or found[0] not in planes:
        return Refusal(found if isinstance(found, str) else "no function of one image")
    source, (name, *pair) = found
    read = Read(source, planes[source], padded=False)
    operands = (np.array(pair, np.float32),)
    return Pointwise((read,), node.outputs[0], read.plane, f"{name.lower()}_f32", operands)


def binary(node: Node, graph: Graph, planes: Planes) -> ImageWork | Refusal:
    y = planes[node.outputs[0]]
    one, two = node.inputs
    stem = node.op.lower()
    for constant, other, first in ((two, one, False), (one, two, True)):
        if constant in graph.initializers:
            if planes.get(other) != y:
                return Refusal(f"{other} is broadcast to {node.outputs[0]}")
            return _with_constant(node, other, graph.initializers[constant], y, first)
    if planes.get(one) == planes.get(two) == y:
        reads = tuple(Read(n, y, padded=False) for n in (one, two))
        return Pointwise(reads, node.outputs[0], y, f"{stem}_f32")
    if node.op in ("Add", "Mul"):  # they commute, so the gate may stand on either side
        for x, gate in ((one, two), (two, one)):
            pixel = Plane(y.channels, 1, 1)
            if planes.get(x) == y and planes.get(gate) == pixel:
                reads = (Read(x, y, padded=False), Read(gate, pixel, whole=True))
                return Pointwise(reads, node.outputs[0], y, f"{stem}_gate_f32")
    return Refusal(f"{one} and {two} are broadcast in a way that has no kernel over images")


def _with_constant(
    node: Node, x: str, constant: Array, y: Plane, first: bool
) -> ImageWork | Refusal:
    per_channel = _per_channel(constant, y)
    if per_channel is None:
        return Refusal(f"its constant {list(constant.shape)} is not one for each channel")
    kernel = f"{node.op.lower()}_constant{'_first' if first else ''}_f32"
    operands = (per_channel, 0 if per_channel.size == 1 else 4)
    return Pointwise((Read(x, y, padded=False),), node.outputs[0], y, kernel, operands)


def _per_channel(constant: Array, y: Plane) -> Array | None:
    """A constant that broadcasts over channels alone, as float32[C] or float32[1]."""
    if constant.size == 1:
        return constant.reshape(1).astype(np.float32)
    shape = (1,) * (4 - constant.ndim) + constant.shape
    if constant.ndim > 4 or shape != (1, y.channels, 1, 1):
        return None
    return np.ascontiguousarray(constant.reshape(-1), np.float32)


def concat(node: Node, graph: Graph, planes: Planes) -> ImageWork | Refusal:
    rank = len(graph.values[node.outputs[0]].shape or ())
    if any(n not in planes for n in node.inputs):
        return Refusal("not all of its inputs are images")
    if (place := place_of(node.attributes["axis"], rank)) > 0:
        return concat_space(node.inputs, node.outputs[0], planes, place)
    found = [planes[n] for n in node.inputs]
    reads = tuple(Read(n, p, padded=False) for n, p in zip(node.inputs, found, strict=True))
    orders = tuple(np.arange(p.channels) for p in found)
    return Gathered(reads, node.outputs[0], planes[node.outputs[0]], orders)


def channels(node: Node, graph: Graph, planes: Planes) -> ImageWork | Refusal:
    order = np.array(node.attributes["order"], np.int64)
    read = Read(node.inputs[0], planes[node.inputs[0]], padded=False)
    return Gathered((read,), node.outputs[0], planes[node.outputs[0]], (order,))


def depth_to_space(node: Node, graph: Graph, planes: Planes) -> ImageWork | Refusal:
    x, y = planes[node.inputs[0]], planes[node.outputs[0]]
    high, wide = node.attributes["block"]
    orders = tuple(
        tuple(np.arange(y.channels) * high * wide + i * wide + j for j in range(wide))
        for i in range(high)
    )
    return _spread(node, x, y, (high, wide), orders)


def _spread(
    node: Node, x: Plane, y: Plane, block: tuple[int, int], orders: tuple[tuple[Array, ...], ...]
) -> ImageWork:
    read = Read(node.inputs[0], x, Window(up=block[0]), Window(up=block[1]), padded=False)
    return Spread((read,), node.outputs[0], y, block, orders)


def _source(name: str, graph: Graph) -> tuple[str, list[list[int]]] | None:
    """The input that a value is, and the orders of axes in which it is transposed, the last first;
    None where more than transposes and casts lies between them."""
    orders = []
    while (maker := graph.producer(name)) is not None:
        if maker.label == "Transpose":
            orders.append(_order(maker, graph))
        elif maker.label != "Cast":
            return None
        name = maker.inputs[0]
    return name, orders


def _order(transpose: Node, graph: Graph) -> list[int]:
    rank = len(graph.values[transpose.outputs[0]].shape or ())
    return list(transpose.attributes.get("perm") or range(rank)[::-1])


def transposed(node: Node, graph: Graph, planes: Planes) -> ImageWork | Refusal:
    """Transposes and casts: of an input how its array is read, of a value that is computed how the
    array is written, where nothing in a segment of images reads that."""
    found, (name,) = _source(node.outputs[0], graph), node.writes
    if found is not None:
        return _laid(node, found, graph, planes)
    readers = [n.label for n in graph.consumers(name) if n.label in IMAGE_OPS]
    if node.label != "Transpose" or node.inputs[0] not in planes:
        return Refusal(f"{node.inputs[0]} is computed, and no image whose axes could be turned")
    if readers or _order(node, graph)[0] != 0:
        return Refusal(f"{name} is read as an image by {readers}, or its rows are moved")
    read = Read(node.inputs[0], planes[node.inputs[0]], padded=False)
    dims = [int(d) for d in (graph.values[name].shape or ())[1:]]
    strides = [0] * (len(dims) + 1)
    for place, axis in enumerate(_order(node, graph)):
        strides[axis] = int(np.prod(dims[place:]))
    return Turned((read,), name, read.plane, _of_plane(strides))


def _laid(
    node: Node, found: tuple[str, list[list[int]]], graph: Graph, planes: Planes
) -> ImageWork | Refusal:
    name, orders = found
    plane, source = planes.get(node.outputs[0]), graph.values.get(name)
    axes = list(range(len(graph.values[node.outputs[0]].shape or ())))
    for order in orders:
        axes = [order[a] for a in axes]
    if plane is None or source is None or source.features is None or axes[0] != 0:
        return Refusal(f"{name} is no batch of images of known size")
    if source.dtype.name not in IMPORTS:
        return Refusal(f"{source.dtype.name} cannot be imported")
    dims = [1, *(int(d) for d in (source.shape or ())[1:])]
    strides = [int(np.prod(dims[a + 1 :])) for a in axes]
    return Laid(name, node.outputs[0], plane, _of_plane(strides))


def _of_plane(strides: Sequence[int]) -> tuple[int, int, int, int]:
    """Of an image, a channel, a row and a pixel, of a value [N, C, H, W] or [N, C, L]."""
    image, channel, *space = strides
    row, pixel = space if len(space) == 2 else (0, space[0])
    return image, channel, row, pixel


Rule = Callable[[Node, Graph, Planes], ImageWork | Refusal]
_UNARY_LABELS = ("Gelu", "Select", "Silu", "Square")
IMAGE_OPS: dict[str, Rule] = {
    "colonnade.Conv": convolution,
    **dict.fromkeys(("MaxPool", "AveragePool"), pool),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool"), total),
    **{n: unary for n in UNARY_NAMES if n not in ("GeluTanh", "Select", "Silu", "Square")},
    **{f"colonnade.{name}": unary for name in ("Clip", *_UNARY_LABELS)},
    **dict.fromkeys(IMAGE_BINARY_NAMES, binary),
    "Concat": concat,
    "colonnade.Channels": channels,
    "colonnade.DepthToSpace": depth_to_space,
    **dict.fromkeys(("Resize", "Upsample"), resize),
    "Gather": gathering,
    "Pad": pad,
    "Slice": slicing,
    **dict.fromkeys(("Cast", "Transpose"), transposed),
}
