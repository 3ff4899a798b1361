"""What is alike in every style of BERT: linear layers, LayerNorm and GELU.

Where an opset has an operator for it, that is what exporters of the day write: LayerNormalization
from 17 on, Gelu from 20 on. Before, both were written out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from scripts.models.bert_weights import Size, Weights
from scripts.models.writer import Writer


@dataclass(frozen=True, slots=True)
class Net:
    """A graph being written, with the weights that go into it."""

    write: Writer
    size: Size
    weights: Weights
    gelu: str
    """`erf` or `tanh`."""
    prefix: str = ""
    """Goes before the names of weights."""

    def within(self, module: str) -> Net:
        """The same graph, one module deeper; a dot in its name is a level of its own."""
        write = self.write.within(module.replace(".", "/"))
        return replace(self, write=write, prefix=f"{self.prefix}{module}.")

    def parameter(self, name: str) -> str:
        """A weight as it stands in the checkpoint."""
        name = f"{self.prefix}{name}"
        return self.write.weight(name, self.weights[name])

    def linear(self, x: str, name: str) -> str:
        """x W + b with W[K, M]; the bias goes first, as PyTorch's exporter has it."""
        net = self.within(name)
        weight = f"{net.prefix}weight"
        w = net.write.weight(weight, net.weights[weight].T)
        product = net.write.op("MatMul", x, w)
        return net.write.op("Add", net.parameter("bias"), product)

    def norm(self, x: str, name: str = "LayerNorm", output: str = "") -> str:
        """Over the last axis: (x - mean) / sqrt(mean of squares + epsilon) * weight + bias."""
        net, epsilon = self.within(name), self.size.epsilon
        write, scale, shift = net.write, net.parameter("weight"), net.parameter("bias")
        if write.opset >= 17:
            return write.op(
                "LayerNormalization", x, scale, shift, output=output, axis=-1, epsilon=epsilon
            )
        centred = write.op("Sub", x, write.reduce("ReduceMean", x, -1))
        if write.opset >= 13:
            square = write.op("Pow", centred, write.floats(2))
        else:
            square = write.op("Mul", centred, centred)
        variance = write.reduce("ReduceMean", square, -1)
        deviation = write.op("Sqrt", write.op("Add", variance, write.floats(epsilon)))
        scaled = write.op("Mul", write.op("Div", centred, deviation), scale)
        return write.op("Add", scaled, shift, output=output)

    def activation(self, x: str) -> str:
        """GELU of x."""
        if self.write.opset >= 20:
            return self.write.op("Gelu", x, approximate="none" if self.gelu == "erf" else "tanh")
        return {"erf": gelu_erf, "tanh": gelu_tanh}[self.gelu](self.write.within("act"), x)


def gelu_erf(write: Writer, x: str) -> str:
    """x (1 + erf(x / sqrt 2)) / 2"""
    erf = write.op("Erf", write.op("Div", x, write.floats(math.sqrt(2))))
    return write.op(
        "Mul", write.op("Mul", x, write.op("Add", erf, write.floats(1))), write.floats(0.5)
    )


def gelu_tanh(write: Writer, x: str) -> str:
    """x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x³)))"""
    half = write.op("Mul", x, write.floats(0.5))
    cubic = write.op("Mul", write.op("Pow", x, write.floats(3)), write.floats(0.044715))
    inner = write.op("Mul", write.op("Add", x, cubic), write.floats(math.sqrt(2 / math.pi)))
    return write.op("Mul", half, write.op("Add", write.op("Tanh", inner), write.floats(1)))
