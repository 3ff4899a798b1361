"""Element-wise functions on vectors, by the names in engine/ops/unary.py.

Each takes (x, a, b): a vector and the two parameters as float32 scalars. NaN gives NaN, and
infinity what the formula gives (Gelu of minus infinity is NaN, as in numpy's). Against float64,
tests/engine/test_kernels.py holds all of them to 3e-6 relative or 4e-7 absolute, over the whole
range. Polynomials are the functions' own Taylor series, on intervals short enough for float32,
unless a source is named.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

import numpy as np
from numba import njit

from engine.kernels.compiling import PART
from engine.kernels.registers import register_lanes, shuffles_are_free
from engine.kernels.vector import (
    absolute,
    at_least,
    at_most,
    broadcast,
    copysign,
    fma,
    if_less,
    like,
    load_four,
    nearest,
    pick,
    power_of_two,
    split_exponent,
    sqrt,
)

F = np.float32
_LOG2_E = F(1.44269504088896)
# ln 2 in two parts, the first short enough that a whole number times it is exact.
_LN2_HIGH, _LN2_LOW = F(0.693359375), F(-2.12194440054690e-4)
_LN2 = F(0.693147180559945)
_EXP_VANISHED = F(-88.0)
"""e to this is 2 ** -127, and no normal float32."""
_EXP_LOWEST, _EXP_HIGHEST = F(-104.0), F(88.72284)  # beyond: zero, infinity
_SQRT_HALF = F(0.707106781186548)
_ERF_END, _ERF_SCALE = F(3.832), F(2 / 3.832**2)
_SQRT_TWO_OVER_PI = F(0.797884560802865)
_SMALLEST_NORMAL = F(1.17549435e-38)
_INFINITY = F(np.inf)
_NAN = F(np.nan)

inline = njit(error_model="numpy", nogil=True, **PART)
"""Compiled into whatever kernel calls it; LLVM inlines it there."""
forced = njit(error_model="numpy", nogil=True, forceinline=True, **PART)
"""The same however long it is, so that constants of the kernel end up in its instructions."""


@inline
def _four_shuffled(shape, address):
    four = load_four(shape, address)
    return pick(shape, four, 0), pick(shape, four, 1), pick(shape, four, 2), pick(shape, four, 3)


@inline
def _four_broadcast(shape, address):
    return (
        broadcast(shape, address),
        broadcast(shape, address + 4),
        broadcast(shape, address + 8),
        broadcast(shape, address + 12),
    )


four_weights_for_few = _four_broadcast if register_lanes() == 16 else _four_shuffled
"""Four floats at an address, each in every lane of a vector like `shape`, of eight lanes, where one
input is loaded for many weights. With AVX-512 a multiply-add reads a weight itself: 2.6 cycles for
four weights of dense4 on Zen 4, 3.2 by shuffles; AVX2's code there takes 2.5 by shuffles and 5 by
loads."""
four_weights = _four_shuffled if shuffles_are_free() else _four_broadcast
"""The same for any lanes, and where there are many other loads. On AVX2 a shuffle is free where
the loads bind, and with AVX-512 on Zen 4 (1024x1024, 90 % zeros, 32 points: 84 against 73
GFLOP/s); on a Xeon it takes a port from the multiply-adds, and loads are cheap (2048x2048, 90 %
zeros, 16 points: 76 against 62 GFLOP/s)."""


@inline
def _exp_rest(n, x):
    """e ** (x - n ln 2), for the n that is nearest to x / ln 2: its series, seven terms long."""
    r = fma(n, like(x, -_LN2_HIGH), x)
    r = fma(n, like(x, -_LN2_LOW), r)
    p = like(x, F(1 / 5040))
    p = fma(p, r, like(x, F(1 / 720)))
    p = fma(p, r, like(x, F(1 / 120)))
    p = fma(p, r, like(x, F(1 / 24)))
    p = fma(p, r, like(x, F(1 / 6)))
    p = fma(p, r, like(x, F(0.5)))
    p = fma(p, r, like(x, F(1)))
    return fma(p, r, like(x, F(1)))


@inline
def exp(x):
    """e ** x; results under 1e-38 are denormal, then zero."""
    clamped = at_most(at_least(x, like(x, _EXP_LOWEST)), like(x, _EXP_HIGHEST))
    n = nearest(clamped * _LOG2_E)
    p = _exp_rest(n, clamped)
    # 2 ** n in two factors: n reaches 128 and -150, one factor would leave the exponent's range
    half = nearest(n * F(0.5))
    y = p * power_of_two(half) * power_of_two(n - half)
    y = if_less(like(x, _EXP_HIGHEST), x, like(x, _INFINITY), y)
    return if_less(x, like(x, _EXP_LOWEST), like(x, F(0)), y)


@inline
def exp_falling(x):
    """e ** x for x <= 0, where results under 1e-38 are zero: half the work of `exp`.

    As 2 ** y: in base two the nearest whole number leaves a rest without ln 2 in two parts. The
    polynomial is a least-squares fit of 2 ** r between -1/2 and 1/2, weighted towards the largest
    relative error until that was even (9.2e-8 before rounding), exact at zero.
    """
    low = at_least(x, like(x, _EXP_VANISHED))
    n = nearest(low * _LOG2_E)
    r = fma(low, like(x, _LOG2_E), n * F(-1))
    p = like(x, F(0.001326472731307149))
    p = fma(p, r, like(x, F(0.009671512991189957)))
    p = fma(p, r, like(x, F(0.05550733581185341)))
    p = fma(p, r, like(x, F(0.24022242426872253)))
    p = fma(p, r, like(x, F(0.6931470036506653)))
    p = fma(p, r, like(x, F(1)))
    return p * power_of_two(n)  # which is zero of -127


@inline
def log(x):
    """Natural logarithm; minus infinity of zero, NaN below it."""
    # denormals have no exponent of their own: 2 ** 23 makes them normal
    tiny = like(x, _SMALLEST_NORMAL)
    m, e = split_exponent(if_less(x, tiny, x * F(8388608), x))
    e = if_less(x, tiny, e - F(23), e)
    # to sqrt(1/2)..sqrt(2), where the series in t = (m - 1) / (m + 1) is short
    small = like(x, _SQRT_HALF)
    e = if_less(m, small, e - F(1), e)
    m = if_less(m, small, m + m, m)
    t = (m - F(1)) / (m + F(1))
    s = t * t
    p = like(x, F(2 / 9))
    p = fma(p, s, like(x, F(2 / 7)))
    p = fma(p, s, like(x, F(2 / 5)))
    p = fma(p, s, like(x, F(2 / 3)))
    y = fma(p * s, t, t + t)
    y = fma(e, like(x, _LN2_LOW), y)
    y = fma(e, like(x, _LN2_HIGH), y)
    y = if_less(like(x, F(3.4028235e38)), x, x, y)  # infinity stays
    y = if_less(x, like(x, F(1e-45)), like(x, -_INFINITY), y)
    y = if_less(x, like(x, F(0)), like(x, _NAN), y)
    return if_less(absolute(x), like(x, _INFINITY), y, x + y)  # NaN in, NaN out


@inline
def log1p_exp(x):
    """log(1 + e) for e = exp(x), x <= 0: a series where e is small, so that no digit is lost."""
    e = exp(x)
    series = e * fma(e, fma(e, like(x, F(1 / 3)), like(x, F(-0.5))), like(x, F(1)))
    return if_less(e, like(x, F(0.01)), series, log(e + F(1)))


@inline
def expm1(x):
    """exp(x) - 1 for x <= 0, by its series near zero."""
    p = like(x, F(1 / 5040))
    p = fma(p, x, like(x, F(1 / 720)))
    p = fma(p, x, like(x, F(1 / 120)))
    p = fma(p, x, like(x, F(1 / 24)))
    p = fma(p, x, like(x, F(1 / 6)))
    p = fma(p, x, like(x, F(0.5)))
    near = fma(p * x, x, x)
    return if_less(like(x, F(-0.5)), x, near, exp(x) - F(1))


@inline
def sigmoid(x, a, b):
    # exp(-|x|) never overflows, so both tails keep their digits
    e = exp(like(x, F(0)) - absolute(x))
    return if_less(x, like(x, F(0)), e, like(x, F(1))) / (e + F(1))


@inline
def silu(x, a, b):
    return x * sigmoid(x, a, b)


@inline
def tanh(x, a, b):
    s = x * x
    p = like(x, F(62 / 2835))
    p = fma(p, s, like(x, F(-17 / 315)))
    p = fma(p, s, like(x, F(2 / 15)))
    p = fma(p, s, like(x, F(-1 / 3)))
    near = fma(p * s, x, x)
    magnitude = absolute(x)
    e = exp(magnitude * F(-2))
    far = copysign((F(1) - e) / (e + F(1)), x)
    return if_less(magnitude, like(x, F(0.3)), near, far)


@inline
def erf(x, a, b):
    """x times a polynomial in x * x, as far as erf is not 1 in float32; 16 multiply-adds.

    The polynomial is a least-squares fit of erf(x) / x in u = 2 (x / 3.832)^2 - 1, weighted
    towards the largest error of erf until that was even (1.2e-8 before rounding). In u, between
    -1 and 1, its coefficients fall, so that float32 loses nothing: 1.7e-7 at most.
    """
    end = like(x, _ERF_END)
    inside = at_most(at_least(x, like(x, -_ERF_END)), end)
    u = fma(inside * inside, like(x, _ERF_SCALE), like(x, F(-1)))
    p = like(x, F(-0.000505730533))
    p = fma(p, u, like(x, F(0.0013829714)))
    p = fma(p, u, like(x, F(-0.00128033569)))
    p = fma(p, u, like(x, F(0.00190084267)))
    p = fma(p, u, like(x, F(-0.00593353611)))
    p = fma(p, u, like(x, F(0.0114819126)))
    p = fma(p, u, like(x, F(-0.0176689183)))
    p = fma(p, u, like(x, F(0.0272266195)))
    p = fma(p, u, like(x, F(-0.0405965539)))
    p = fma(p, u, like(x, F(0.0560972216)))
    p = fma(p, u, like(x, F(-0.0729020121)))
    p = fma(p, u, like(x, F(0.0908108195)))
    p = fma(p, u, like(x, F(-0.110684307)))
    p = fma(p, u, like(x, F(0.13676257)))
    p = fma(p, u, like(x, F(-0.184137979)))
    p = fma(p, u, like(x, F(0.369006731)))
    # beyond, it is exactly 1: Gelu multiplies what is left by a large x
    return if_less(end, absolute(x), copysign(like(x, F(1)), x), inside * p)


@inline
def gelu(x, a, b):
    """x times the normal distribution's share below x, which for x < 0 is 1/2 / (1 + z) ** 16.

    The form is Hastings' (Abramowitz and Stegun, 7.1.28), z a polynomial in -x. It is a
    least-squares fit, weighted towards the largest error of the whole until that was even (3.9e-9
    before rounding). What is squared is kept without its 1, so that no digit of z is lost: 5e-8 at
    most for x < 0, where erf's polynomial left 3.6e-7, and 5e-7 relative from -2 on. It takes 13
    multiply-adds and a division, where that takes 21: on Zen 4 4 of BERT-base's 250 ms less.
    """
    far = absolute(x)
    z = like(x, F(1.5867941272063035e-07))
    z = fma(z, far, like(x, F(-1.1284848824288929e-06)))
    z = fma(z, far, like(x, F(7.450033535860712e-06)))
    z = fma(z, far, like(x, F(5.0875009037554264e-05)))
    z = fma(z, far, like(x, F(2.7712041628547013e-05)))
    z = fma(z, far, like(x, F(0.0032889654394239187)))
    z = fma(z, far, like(x, F(0.021136313676834106)))
    z = fma(z, far, like(x, F(0.049867935478687286)))
    z = z * far
    z = fma(z, z, z + z)  # (1 + z) ** 2 - 1
    z = fma(z, z, z + z)
    z = fma(z, z, z + z)
    z = fma(z, z, z + z)
    tail = F(0.5) / (z + F(1))
    return x * if_less(x, like(x, F(0)), tail, F(1) - tail)


@inline
def gelu_tanh(x, a, b):
    inner = _SQRT_TWO_OVER_PI * fma(x * x * x, like(x, F(0.044715)), x)
    return F(0.5) * x * (tanh(inner, a, b) + F(1))


@inline
def relu(x, a, b):
    return at_least(x, like(x, F(0)))


@inline
def leaky_relu(x, a, b):
    return if_less(x, like(x, F(0)), x * a, x)


@inline
def clip(x, a, b):
    return at_most(at_least(x, like(x, a)), like(x, b))


@inline
def hard_sigmoid(x, a, b):
    return at_least(at_most(fma(x, like(x, a), like(x, b)), like(x, F(1))), like(x, F(0)))


@inline
def hard_swish(x, a, b):
    return x * hard_sigmoid(x, F(1 / 6), F(0.5))


@inline
def elu(x, a, b):
    return if_less(x, like(x, F(0)), expm1(at_most(x, like(x, F(0)))) * a, x)


@inline
def softplus(x, a, b):
    return log1p_exp(like(x, F(0)) - absolute(x)) + at_least(x, like(x, F(0)))


@inline
def exp_(x, a, b):
    return exp(x)


@inline
def log_(x, a, b):
    return log(x)


@inline
def sqrt_(x, a, b):
    return sqrt(x)


@inline
def negative(x, a, b):
    return x * F(-1)


@inline
def absolute_(x, a, b):
    return absolute(x)


@inline
def reciprocal(x, a, b):
    return F(1) / x


@inline
def select(x, a, b):
    # nothing but zero lies below the smallest denormal
    return if_less(absolute(x), like(x, F(1e-45)), like(x, a), like(x, b))


@inline
def square(x, a, b):
    return x * x


VECTOR_FUNCTIONS = {
    "Abs": absolute_,
    "Clip": clip,
    "Elu": elu,
    "Erf": erf,
    "Exp": exp_,
    "Gelu": gelu,
    "GeluTanh": gelu_tanh,
    "HardSigmoid": hard_sigmoid,
    "HardSwish": hard_swish,
    "LeakyRelu": leaky_relu,
    "Log": log_,
    "Neg": negative,
    "Reciprocal": reciprocal,
    "Relu": relu,
    "Select": select,
    "Sigmoid": sigmoid,
    "Silu": silu,
    "Softplus": softplus,
    "Sqrt": sqrt_,
    "Square": square,
    "Tanh": tanh,
}
