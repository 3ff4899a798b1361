"""Networks over images as programs, against onnxruntime; the same bytes however they are run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from native_nets import RNG, Net, check, compiled

import engine
from engine.images.segment import Images


@st.composite
def convs(draw: st.DrawFn) -> tuple[Net, str]:
    """One convolution of any stride, padding, dilation and groups, of one dimension or two."""
    rank = draw(st.sampled_from([1, 2, 2]))
    group = draw(st.sampled_from([1, 1, 2, 4]))
    inputs = group * draw(st.integers(1, 3))
    outputs = group * draw(st.integers(1, 5))
    size = [draw(st.integers(1, 12)) for _ in range(rank)]
    kernel = [draw(st.integers(1, 4)) for _ in range(rank)]
    dilations = [draw(st.integers(1, 2)) for _ in range(rank)]
    reach = [(k - 1) * d for k, d in zip(kernel, dilations, strict=True)]
    pads = [draw(st.integers(0, r)) for r in reach] + [draw(st.integers(0, r)) for r in reach]
    fits = all(s + pads[i] + pads[i + rank] > reach[i] for i, s in enumerate(size))
    if not fits:
        pads = [*reach, *reach]
    net = Net(inputs, *size, zeros=draw(st.sampled_from([0.0, 0.5, 0.9, 1.0])))
    w = net.weights(outputs, inputs // group, *kernel)
    bias = [net.weights(outputs)] if draw(st.booleans()) else []
    y = net.add(
        "Conv", "x", w, *bias, group=group, pads=pads, dilations=dilations,
        strides=[draw(st.integers(1, 3)) for _ in range(rank)],
    )  # fmt: skip
    return net, net.add("Relu", y) if draw(st.booleans()) else y


@settings(max_examples=60, deadline=None)  # kernels are compiled on first use
@given(convs())
def test_convolutions(made: tuple[Net, str]) -> None:
    check(*made)


@pytest.mark.parametrize(
    ("height", "pads", "strides"), [(12, [1, 1, 1, 1], 1), (1, [2, 0, 0, 0], 3)]
)
def test_rows_of_padding_alone(height: int, pads: list[int], strides: int) -> None:
    """In the second lane group, too, whose rings hold what the first one left."""
    net = Net(3, height, 16, zeros=0.0)
    check(net, net.conv("x", 4, 3, 1, pads=pads, strides=[strides, 1]), rows=33)


@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize("stride", [1, 2])
def test_auto_pad(mode: str, stride: int) -> None:
    net = Net(3, 11, 8)
    y = net.conv("x", 5, 3, 3, auto_pad=mode, strides=[stride, stride])
    z = net.add("MaxPool", y, kernel_shape=[2, 3], auto_pad=mode, strides=[stride, 1])
    check(net, z)


@settings(max_examples=40, deadline=None)
@given(
    op=st.sampled_from(["MaxPool", "AveragePool"]),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    pads=st.tuples(*[st.integers(0, 2)] * 4),
    ceil=st.booleans(),
    all_count=st.booleans(),
)
def test_pools(
    op: str,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    pads: tuple[int, int, int, int],
    ceil: bool,
    all_count: bool,
) -> None:
    net = Net(4, 9, 7)
    c = net.conv("x", 6, 4, 1)
    # onnx and onnxruntime do not agree on windows of ceil_mode that begin behind the image
    ceil = ceil and all(k >= s for k, s in zip(kernel, stride, strict=True))
    within = [0 if ceil else min(p, k - 1) for p, k in zip(pads, (*kernel, *kernel), strict=True)]
    extra = {"count_include_pad": int(all_count)} if op == "AveragePool" else {}
    y = net.add(
        op, c, kernel_shape=list(kernel), strides=list(stride), pads=within,
        ceil_mode=int(ceil), **extra,
    )  # fmt: skip
    check(net, y)


def residual_block() -> tuple[Net, str]:
    net = Net(8, 14, 13)
    a = net.add("Relu", net.conv("x", 16, 8, 1))
    b = net.add("Relu", net.conv(a, 16, 16, 3, pads=[1, 1, 1, 1], strides=[2, 2]))
    c = net.conv(b, 24, 16, 1)
    skip = net.conv("x", 24, 8, 1, strides=[2, 2])
    d = net.add("Relu", net.add("Add", c, skip))
    e = net.conv(d, 24, 24, 3, pads=[1, 1, 1, 1])
    return net, net.add("Relu", net.add("Add", e, d))


def stage() -> tuple[Net, str]:
    """Bottlenecks one after the other, of which the last ends in what no convolution can hold."""
    net = Net(8, 15, 14)
    x = net.conv("x", 8, 8, 1)
    for _ in range(3):
        inner = net.add("Relu", net.conv(x, 4, 8, 1))
        inner = net.add("Relu", net.conv(inner, 4, 4, 3, pads=[1, 1, 1, 1]))
        x = net.add("Relu", net.add("Add", net.conv(inner, 8, 4, 1), x))
    return net, net.add("Mul", net.add("Sigmoid", net.add("Neg", x)), x)


def gate_block() -> tuple[Net, str]:
    """Squeeze and excite: the whole image decides about each channel."""
    net = Net(8, 10, 10)
    a = net.add("Relu", net.conv("x", 12, 8, 3, pads=[1, 1, 1, 1]))
    s = net.add("GlobalAveragePool", a)
    s = net.add("Sigmoid", net.conv(net.add("Relu", net.conv(s, 4, 12, 1)), 12, 4, 1))
    return net, net.conv(net.add("Mul", a, s), 6, 12, 1)


def branches() -> tuple[Net, str]:
    """Inception's: convolutions and a pool side by side."""
    net = Net(5, 12, 9)
    a = net.conv("x", 8, 5, 1)
    b = net.add("Relu", net.conv("x", 6, 5, 3, pads=[1, 1, 1, 1]))
    c = net.add("MaxPool", "x", kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    d = net.add("Concat", a, b, c, axis=1)
    e = net.add("LeakyRelu", net.conv(d, 7, 19, 3), alpha=0.1)
    return net, net.add("GlobalMaxPool", e)


def depthwise_block() -> tuple[Net, str]:
    net = Net(6, 15, 15)
    a = net.add("Clip", net.conv("x", 24, 6, 1), net.constant(np.float32(0)),
                net.constant(np.float32(6)))  # fmt: skip
    w = net.weights(24, 1, 3, 3)
    b = net.add("HardSwish", net.add("Conv", a, w, group=24, pads=[1, 1, 1, 1], strides=[2, 2]))
    return net, net.conv(b, 10, 24, 1)


def head() -> tuple[Net, str]:
    net = Net(3, 12, 12)
    a = net.add("MaxPool", net.add("Relu", net.conv("x", 8, 3, 5)), kernel_shape=[2, 2],
                strides=[2, 2])  # fmt: skip
    f = net.add("Flatten", a)
    return net, net.add("Softmax", net.add("Gemm", f, net.weights(128, 10), net.weights(10)))


def spread() -> tuple[Net, str]:
    """Super resolution and segmentation: pixels become blocks of pixels."""
    net = Net(3, 7, 9)
    a = net.conv("x", 12, 3, 3, pads=[1, 1, 1, 1])
    b = net.add("DepthToSpace", a, blocksize=2)
    c = net.add("DepthToSpace", a, blocksize=2, mode="CRD")
    w = net.weights(12, 3, 3, 3)
    d = net.add("ConvTranspose", a, w, strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1])
    sizes = net.constant(np.array([1, 1, 2, 2], np.float32))
    e = net.add("Resize", net.conv(a, 3, 12, 1), "", sizes, mode="nearest")
    f = net.add("Add", net.add("Add", b, c), net.add("Mul", d, e))
    return net, net.conv(f, 5, 3, 1)


def local_response() -> tuple[Net, str]:
    net = Net(9, 8, 8)
    a = net.conv("x", 11, 9, 1)
    return net, net.conv(net.add("LRN", a, size=5, alpha=0.02, beta=0.75, bias=1.0), 4, 11, 1)


def channels_last() -> tuple[Net, str]:
    """As TensorFlow's exports begin: pictures [N, H, W, C]."""
    net = Net(10, 12, 3)
    a = net.add("Transpose", "x", perm=[0, 3, 1, 2])
    w = net.weights(6, 3, 3, 3)
    return net, net.add("Relu", net.add("Conv", a, w, strides=[2, 2]))


NETS = [
    residual_block, stage, gate_block, branches, depthwise_block, head, spread, local_response,
    channels_last,
]  # fmt: skip


@pytest.mark.parametrize("make", NETS)
@pytest.mark.parametrize(
    "switches", [{}, {"columns": False}, {"sparse": False}, {"points": 16}, {"points": 32}]
)
def test_blocks(make: Any, switches: dict[str, Any]) -> None:
    check(*make(), rows=19, **switches)


@pytest.mark.parametrize("make", NETS)
def test_same_bytes_for_any_batch_threads_and_order(make: Any) -> None:
    net, y = make()
    content = net.model(y)
    x = RNG.standard_normal((37, *net.shape)).astype(np.float32)
    cpus = [0, 0]
    with engine.Session(compiled(content), [0]) as session:
        wanted = session.run({"x": x})[y]
        parts = [session.run({"x": x[i : i + 5]})[y] for i in range(0, 37, 5)]
    assert np.concatenate(parts).tobytes() == wanted.tobytes()
    for program in (compiled(content), compiled(content, columns=False)):
        with engine.Session(program, cpus) as session:
            assert session.run({"x": x})[y].tobytes() == wanted.tobytes()


def test_no_images_and_one() -> None:
    net, y = residual_block()
    with engine.Session(compiled(net.model(y)), [0]) as session:
        assert session.run({"x": np.zeros((0, *net.shape), np.float32)})[y].shape == (0, 24, 7, 7)
        assert session.run({"x": np.zeros((1, *net.shape), np.float32)})[y].shape == (1, 24, 7, 7)


def test_nan_and_infinity_reach_only_what_they_touch() -> None:
    net = Net(1, 9, 9, zeros=0.0)
    y = net.conv("x", 1, 1, 3, pads=[1, 1, 1, 1])
    x = np.zeros((3, 1, 9, 9), np.float32)
    x[0, 0, 4, 4], x[1, 0, 0, 0] = np.nan, np.inf
    with engine.Session(compiled(net.model(y)), [0]) as session:
        found = session.run({"x": x})[y]
    assert np.isnan(found[0, 0, 3:6, 3:6]).all() and np.isnan(found).sum() == 9
    assert np.isinf(found[1, 0, :2, :2]).all() and np.isinf(found).sum() == 4


def test_a_column_keeps_few_rows_and_prints_so() -> None:
    net = Net(4, 64, 64)
    a = "x"
    for _ in range(3):
        a = net.add("Relu", net.conv(a, 4, 4, 3, pads=[1, 1, 1, 1]))
    program = compiled(net.model(a))
    (segment,) = program.segments
    assert isinstance(segment, Images)
    assert all(ring.slots < 10 for ring in segment.rings), str(program)
    assert "depth first" in str(program)
    layers = compiled(net.model(a), columns=False).segments[0]
    assert isinstance(layers, Images) and layers.arena.nbytes > 2 * segment.arena.nbytes


def test_a_stage_keeps_its_residuals_in_one_ring() -> None:
    net, y = stage()
    (segment,) = compiled(net.model(y), points=16).segments
    assert isinstance(segment, Images)
    over = [ring for ring in segment.rings if ring.home != ring.value]
    assert len(over) >= 3 + 1, "three residuals, and what is done to pixels"
    first = next(ring for ring in over if ring.home == "v0")
    assert sum(ring.home == "v0" for ring in over) == 3 and f", over {first.home}" in str(segment)
    (apart,) = compiled(net.model(y), points=16, columns=False).segments
    assert isinstance(apart, Images) and all(ring.home == ring.value for ring in apart.rings)


def test_program_prints_its_order_and_rings(golden: Any) -> None:
    net, y = residual_block()
    golden("images_program", str(compiled(net.model(y), points=16)))
