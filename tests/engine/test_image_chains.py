"""Networks of images put together at random: rewrites keep their meaning, whatever meets."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rewritten import floats, unchanged
from small_models import Array, model, node

Shape = tuple[int, int, int]


class Chain:
    """Nodes drawn one after another; any earlier value may be read again."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, Array] = {}
        self.shapes: dict[str, Shape] = {"x": (4, 5, 6)}
        self.at = "x"

    def add(self, op: str, inputs: str, shape: Shape, **attributes: object) -> None:
        self.at = f"v{len(self.nodes)}"
        self.nodes.append(node(op, inputs, self.at, name=f"{op}.{self.at}", **attributes))
        self.shapes[self.at] = shape

    def constant(self, array: Array) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = array
        return name

    def positive(self, *shape: int) -> str:
        return self.constant(np.abs(floats(*shape)) + np.float32(0.5))

    def pick(self, *choices: str) -> str:
        return self.draw(st.sampled_from(choices))

    def some(self, *choices: int) -> int:
        return self.draw(st.sampled_from(choices))

    def like(self, shape: Shape) -> str:
        """Some value of this shape."""
        return self.pick(*(n for n, s in self.shapes.items() if s == shape))

    # one method an operator; each reads the last result

    def conv(self) -> None:
        c, h, w = self.shapes[self.at]
        outputs, group = self.some(2, 4), self.some(1, 2 if c % 2 == 0 else 1)
        weights = self.constant(floats(outputs, c // group, 3, 3) / np.float32(3))
        self.add("Conv", f"{self.at} {weights}", (outputs, h, w), group=group, pads=[1] * 4)

    def transposed(self) -> None:
        c, h, w = self.shapes[self.at]
        if h * w < 200:
            weights = self.constant(floats(c, 2, 2, 2))
            self.add("ConvTranspose", f"{self.at} {weights}", (2, 2 * h, 2 * w), strides=[2, 2])

    def norm(self) -> None:
        shape = self.shapes[self.at]
        names = " ".join(self.positive(shape[0]) for _ in range(4))
        self.add("BatchNormalization", f"{self.at} {names}", shape)

    def arithmetic(self) -> None:
        c, h, w = self.shapes[self.at]
        wide = [(), (1,), (c, 1, 1), (1, c, 1, 1), (1, 1, 1, w), (c, h, w)][
            self.draw(st.integers(0, 5))
        ]
        names = [self.at, self.positive(*wide)]
        op = self.pick("Add", "Sub", "Mul", "Div")
        if op != "Div" and self.draw(st.booleans()):
            names.reverse()
        self.add(op, " ".join(names), (c, h, w))

    def function(self) -> None:
        op = self.pick("Relu", "HardSwish", "Sigmoid", "Neg", "LeakyRelu")
        self.add(op, self.at, self.shapes[self.at])

    def residual(self) -> None:
        shape = self.shapes[self.at]
        self.add(self.pick("Add", "Sum", "Mul"), f"{self.at} {self.like(shape)}", shape)

    def pad(self) -> None:
        c, h, w = self.shapes[self.at]
        if h * w < 200:
            pads = self.constant(np.array([0, 0, 1, 0, 0, 0, 0, 1]))
            self.add("Pad", f"{self.at} {pads}", (c, h + 1, w + 1))

    def pool(self) -> None:
        c, h, w = self.shapes[self.at]
        op = self.pick("MaxPool", "AveragePool")
        self.add(op, self.at, (c, h, w), kernel_shape=[3, 3], auto_pad="SAME_UPPER")

    def gate(self) -> None:
        c, h, w = self.shapes[self.at]
        x = self.at
        self.add("ReduceMean", x, (c, 1, 1), axes=[2, 3])
        self.conv()
        if self.shapes[self.at][0] == c:
            self.add("Mul", f"{x} {self.at}", (c, h, w))
        else:
            self.at = x

    def split(self) -> None:
        c, h, w = self.shapes[self.at]
        if c % 2 == 0:
            half = (c // 2, h, w)
            self.nodes.append(node("Split", self.at, f"{self.at}l {self.at}r", axis=1))
            self.shapes |= {f"{self.at}l": half, f"{self.at}r": half}
            self.at = f"{self.at}{self.pick('l', 'r')}"

    def join(self) -> None:
        c, h, w = self.shapes[self.at]
        if c < 9:
            self.add("Concat", f"{self.at} {self.like((c, h, w))}", (2 * c, h, w), axis=1)

    def last(self) -> None:
        """There and back, with something between."""
        c, h, w = self.shapes[self.at]
        self.add("Transpose", self.at, (0, 0, 0), perm=[0, 2, 3, 1])
        other = self.draw(st.integers(0, 3))
        if other == 0:
            self.add("Add", f"{self.at} {self.positive(c)}", (0, 0, 0))
        elif other == 1:
            self.add("Relu", self.at, (0, 0, 0))
        elif other == 2:
            kept = self.at
            self.add("Sigmoid", kept, (0, 0, 0))
            self.add("Mul", f"{self.at} {kept}", (0, 0, 0))
        self.add("Transpose", self.at, (c, h, w), perm=[0, 3, 1, 2])


KINDS = [n for n in vars(Chain) if not n.startswith("_")]
STEPS = [n for n in KINDS if n not in ("add", "constant", "positive", "pick", "some", "like")]


@st.composite
def chains(draw: st.DrawFn) -> onnx.ModelProto:
    chain = Chain(draw)
    for step in draw(st.lists(st.sampled_from(STEPS), min_size=2, max_size=9)):
        getattr(chain, step)()
    extra = draw(st.sampled_from(["", *(n for n in chain.shapes if n.startswith("v"))]))
    chain.nodes.append(node("Neg", chain.at, "y"))
    inputs = {"x": ["batch", 4, 5, 6]}
    return model(chain.nodes, inputs, " ".join(["y", extra]), chain.constants)


@pytest.mark.slow
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(chains())
def test_any_chain_means_the_same(proto: onnx.ModelProto) -> None:
    unchanged(proto)
