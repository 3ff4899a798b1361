"""ConvTranspose with constant weights becomes a Conv and a `colonnade.DepthToSpace`.

Along each dimension a pixel o of the result, strides s apart from the next of its phase, is

    y[o] = sum over k of W[k] * x[(o + pad - k * dilation) / s]        where that divides

For o = s * q + p the pixel of x is q plus an offset that depends on the phase p and on k alone: a
Conv of stride 1, with s results for each channel, one a phase. Where a phase has no weight for an
offset stands a zero, which a sparse kernel skips. DepthToSpace puts the phases side by side:

    y[m, s * q + p] = x[m * s + p, q], cut to the size of the result
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.graph import NATIVE, Node, Shape, Value
from engine.rewrites.conv import conv_attributes
from engine.rewrites.geometry import Pair, explicit_pads, pair, pixels
from engine.rewrites.rewrite import Array, Edit, Rewrite, View


@dataclass(frozen=True, slots=True)
class _Phases:
    """One dimension: which weight stands at which offset in which phase."""

    places: tuple[tuple[int, int, int], ...]
    """(phase, offset from the first, k)."""
    kernel: int
    before: int
    after: int
    """Zeros before and after x."""
    outputs: int
    """Pixels of each phase."""


def _phases(size: int, result: int, kernel: int, stride: int, dilation: int, pad: int) -> _Phases:
    found = [
        (phase, (phase + pad - k * dilation) // stride, k)
        for phase in range(stride)
        for k in range(kernel)
        if (phase + pad - k * dilation) % stride == 0
    ]
    first, last = min(0, *(o for _, o, _ in found), 0), max(0, *(o for _, o, _ in found), 0)
    outputs = -(-result // stride)
    # a Conv cannot cut its input: it reads on, times zero
    last = max(last, size - outputs)
    places = tuple((phase, offset - first, k) for phase, offset, k in found)
    return _Phases(places, last - first + 1, -first, outputs - size + last, outputs)


def _befores(node: Node, x: Shape, y: Shape, kernel: Pair) -> list[int] | str:
    """Pixels cut off in front, of height and width; where the result's size is given, or is that
    of x times the strides, half of what is too many, the odd one in front but for SAME_UPPER."""
    auto = node.attributes.get("auto_pad", "NOTSET")
    if auto in ("NOTSET", "VALID") and not node.attributes.get("output_shape"):
        pads = node.attributes.get("pads") or [0] * (2 * len(x) - 4)
        return [before for before, _ in explicit_pads(pads)]
    strides, more = pair(node, "strides"), (0, *(node.attributes.get("output_padding") or (0, 0)))
    full = tuple(n * s for n, s in zip(pixels(x), strides, strict=True))
    if not node.attributes.get("output_shape") and pixels(y) != full:
        return f"its result {list(y)} is not of its input's size times the strides"
    each = zip(
        *(pixels(x), pixels(y), kernel, strides, pair(node, "dilations"), more[-2:]), strict=True
    )
    cut = [max(0, s * (n - 1) + m + (k - 1) * d + 1 - size) for n, size, k, s, d, m in each]
    return [total // 2 if auto == "SAME_UPPER" else total - total // 2 for total in cut]


def _at(node: Node, view: View) -> Edit | str | None:
    x, y = view.value(node.inputs[0]), view.value(node.outputs[0])
    weights, name = view.constant(node.inputs[1]), node.inputs[1]
    if x is None or y is None or y.shape is None or x.shape is None or x.dtype != np.float32:
        return "its input and result are not known to be float32"
    if weights is None or weights.dtype != np.float32 or weights.ndim not in (3, 4):
        return f"its weights {name} are no float32 constant of one or two spatial dimensions"
    bias = view.constant(node.inputs[2]) if len(node.inputs) > 2 else None
    if bias is None and len(node.inputs) > 2 and node.inputs[2]:
        return f"its bias {node.inputs[2]} is not constant"
    if len(x.shape) != len(y.shape) or 0 in (*pixels(x.shape), *pixels(y.shape), *weights.shape):
        return f"the size of its images is not known: {x} to {y}"
    strides, dilations = pair(node, "strides"), pair(node, "dilations")
    kernel = (1, *weights.shape[2:])[-2:]
    befores = _befores(node, x.shape, y.shape, kernel)
    if isinstance(befores, str):
        return befores
    each = zip(pixels(x.shape), pixels(y.shape), kernel, strides, dilations, befores, strict=True)
    both = [_phases(*numbers) for numbers in each]
    group = int(node.attributes.get("group", 1))
    wide = weights.reshape(*weights.shape[:2], *kernel)
    constants = {view.fresh(f"{node.name}.weights"): _weights(wide, group, both, strides)}
    if bias is not None:
        constants[view.fresh(f"{node.name}.bias")] = np.repeat(bias, strides[0] * strides[1])
    return _edit(node, view, constants, both, strides)


def _weights(old: Array, group: int, both: list[_Phases], strides: Pair) -> Array:
    """W[C, M/group, kh, kw] as W[M * phases, C/group, ...], the phases of an m side by side."""
    inputs, each, *_ = old.shape
    high, wide = both
    shape = (group, each, *strides, inputs // group, high.kernel, wide.kernel)
    new = np.zeros(shape, np.float32)
    grouped = old.reshape(group, inputs // group, each, *old.shape[2:])
    for p, at, ky in high.places:
        for q, to, kx in wide.places:
            new[:, :, p, q, :, at, to] = grouped[..., ky, kx].transpose(0, 2, 1)
    return new.reshape(-1, *shape[4:])


def _edit(
    node: Node, view: View, constants: dict[str, Array], both: list[_Phases], strides: Pair
) -> Edit:
    x, y = view.value(node.inputs[0]), view.value(node.outputs[0])
    assert x is not None and y is not None and x.shape is not None and y.shape is not None
    high, wide = both
    weights, bias = (*constants, "")[:2]
    pads = [(side.before, side.after) for side in both]
    attributes = conv_attributes(pads=pads, group=int(node.attributes.get("group", 1)))
    phases = view.fresh(f"{node.name}.phases")
    shape = (
        x.shape[0],
        len(constants[weights]),
        *[side.outputs for side in both][4 - len(y.shape) :],
    )
    conv = Node(node.name, "Conv", (x.name, weights, bias, ""), (phases,), NATIVE, attributes)
    apart = {"block": strides, "size": pixels(y.shape)}
    last = Node(
        view.fresh_node(f"{node.name}.space"),
        "DepthToSpace",
        (phases,),
        node.outputs,
        NATIVE,
        apart,
    )
    values = {phases: Value(phases, x.dtype, shape)}
    reason = f"{strides[0] * strides[1]} phases of {high.kernel} x {wide.kernel} weights"
    return Edit((node,), (conv, last), values, constants, reason=reason)


CONV_TRANSPOSE = Rewrite(
    "conv_transpose",
    "turns ConvTranspose into a Conv of all phases and DepthToSpace",
    _at,
    frozenset({"ConvTranspose"}),
)
