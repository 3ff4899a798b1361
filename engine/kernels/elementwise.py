"""Element-wise work on panels: activations, arithmetic of two panels or with constants, softmax.

Points are lanes, so everything here is lane-parallel: a softmax over features needs no exchange
between lanes. Dead lanes of a short column compute on what lies there and are never read.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

from numba import types
from numba.extending import overload

from engine.kernels.compiling import PART
from engine.kernels.functions import VECTOR_FUNCTIONS, exp, inline, log
from engine.kernels.vector import (
    at_least,
    broadcast,
    if_less,
    like,
    load,
    load_float,
    load_i64,
    store,
    zeros,
)


def apply(name, x, a, b):
    """VECTOR_FUNCTIONS[name](x, a, b), chosen when the kernel is compiled."""
    raise NotImplementedError("compiled code only")


@overload(apply, jit_options=PART, prefer_literal=True, strict=False)
def _apply_compiled(name, x, a, b):
    if not isinstance(name, types.StringLiteral):
        return None
    function = VECTOR_FUNCTIONS[name.literal_value]
    return lambda name, x, a, b: function(x, a, b)


def unary(points, name):
    """y[K, T] = f(x[K, T]; a, b); in place where y is x. Words: x, y, K, address of (a, b)."""

    def kernel(step, arena, row, live, borders):
        x, y = arena + load_i64(step + 8), arena + load_i64(step + 16)
        shape = zeros(points)
        pair = load_i64(step + 32)
        a, b = load_float(pair), load_float(pair + 4)
        for _ in range(load_i64(step + 24)):
            store(y, apply(name, load(shape, x), a, b))
            x += 4 * points
            y += 4 * points

    return kernel


@inline
def add(x, y):
    return x + y


@inline
def subtract(x, y):
    return x - y


@inline
def multiply(x, y):
    return x * y


@inline
def divide(x, y):
    return x / y


@inline
def prelu(x, slope):
    return if_less(x, like(x, 0.0), x * slope, x)


BINARY_FUNCTIONS = {
    "Add": add,
    "Div": divide,
    "Mul": multiply,
    "PRelu": prelu,
    "Sub": subtract,
}


def combine(name, x, y):
    """BINARY_FUNCTIONS[name](x, y), chosen when the kernel is compiled."""
    raise NotImplementedError("compiled code only")


@overload(combine, jit_options=PART, prefer_literal=True, strict=False)
def _combine_compiled(name, x, y):
    if not isinstance(name, types.StringLiteral):
        return None
    function = BINARY_FUNCTIONS[name.literal_value]
    return lambda name, x, y: function(x, y)


def binary(points, name):
    """z[K, T] = x[K, T] op y[K, T]. Words: x, y, z, K. In place where z is x or y."""

    def kernel(step, arena, row, live, borders):
        x, y = arena + load_i64(step + 8), arena + load_i64(step + 16)
        z = arena + load_i64(step + 24)
        shape = zeros(points)
        for _ in range(load_i64(step + 32)):
            store(z, combine(name, load(shape, x), load(shape, y)))
            x += 4 * points
            y += 4 * points
            z += 4 * points

    return kernel


def binary_constant(points, name, constant_first):
    """y[K, T] = x op c, or c op x. Words: x, y, K, address of c[K], bytes from one c to the next.

    A stride of 0 bytes is one constant for all features.
    """

    def kernel(step, arena, row, live, borders):
        x, y = arena + load_i64(step + 8), arena + load_i64(step + 16)
        c, stride = load_i64(step + 32), load_i64(step + 40)
        shape = zeros(points)
        for _ in range(load_i64(step + 24)):
            v, w = load(shape, x), broadcast(shape, c)
            if constant_first:
                store(y, combine(name, w, v))
            else:
                store(y, combine(name, v, w))
            x += 4 * points
            y += 4 * points
            c += stride

    return kernel


def binary_broadcast(points, name, single_first):
    """z = x[K, T] op s[1, T], or s op x: one feature for all. Words: x, s, z, outer, K.

    x is [outer, K] and s [outer, 1] features. In place where z is x.
    """

    def kernel(step, arena, row, live, borders):
        x, s = arena + load_i64(step + 8), arena + load_i64(step + 16)
        z = arena + load_i64(step + 24)
        shape = zeros(points)
        for _ in range(load_i64(step + 32)):
            one = load(shape, s)
            for _ in range(load_i64(step + 40)):
                if single_first:
                    store(z, combine(name, one, load(shape, x)))
                else:
                    store(z, combine(name, load(shape, x), one))
                x += 4 * points
                z += 4 * points
            s += 4 * points

    return kernel


def copy(points):
    """y[outer, count, K, T]: each of x[outer, K, T] `count` times over.

    Words: x, y, outer, K, count.
    """

    def kernel(step, arena, row, live, borders):
        x, y = arena + load_i64(step + 8), arena + load_i64(step + 16)
        block = load_i64(step + 32)
        shape = zeros(points)
        for _ in range(load_i64(step + 24)):
            for _ in range(load_i64(step + 40)):
                for k in range(block):
                    store(y, load(shape, x + k * 4 * points))
                    y += 4 * points
            x += block * 4 * points

    return kernel


def softmax(points, logarithm):
    """Softmax over the middle of [outer, axis, inner] features. Words: x, y, outer, axis, inner."""

    def kernel(step, arena, row, live, borders):
        x, y = arena + load_i64(step + 8), arena + load_i64(step + 16)
        outer, axis, inner = load_i64(step + 24), load_i64(step + 32), load_i64(step + 40)
        shape = zeros(points)
        size = 4 * points
        for o in range(outer):
            for i in range(inner):
                start = (o * axis * inner + i) * size
                stride = inner * size
                top = load(shape, x + start)
                for k in range(1, axis):
                    # `top` second: a NaN anywhere reaches the sum through its own exp
                    top = at_least(top, load(shape, x + start + k * stride))
                total = zeros(points)
                for k in range(axis):
                    e = exp(load(shape, x + start + k * stride) - top)
                    total = total + e
                    if not logarithm:
                        store(y + start + k * stride, e)
                if logarithm:
                    sums = log(total)
                    for k in range(axis):  # top first: beside a large one, the sum would be lost
                        low = load(shape, x + start + k * stride) - top
                        store(y + start + k * stride, low - sums)
                else:
                    for k in range(axis):
                        store(y + start + k * stride, load(shape, y + start + k * stride) / total)

    return kernel
