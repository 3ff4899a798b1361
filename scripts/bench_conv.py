"""Convolution kernels over layers and sparsities, as a fraction of the core's multiply-add peak.

`python -m scripts.bench_conv` prints, for one core and one lane group of T images, GFLOP/s of
useful work (non-zeros only). A visit computes a row of the layer's output, or `--rows`, from a ring
that holds the rows of its windows: as in a network that runs depth first, x lies in L2 and not in
L1.

A layer is `3x3:128:128:28`: the window, input channels, output channels, pixels of a row of y, and
where it is not 1 the stride. Depthwise layers have `dw` for their output channels.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np

from engine.kernels.building import compiled
from engine.kernels.peak import clock_ghz, peak_gflops
from engine.kernels.registers import register_lanes
from engine.kernels.row import Kernel
from engine.kernels.table import kernels_of
from engine.weights import aligned
from engine.window_packing import Taps, pack_conv

Array = np.ndarray[Any, Any]
LAYERS = (
    "3x3:64:64:56",
    "3x3:128:128:28",
    "3x3:256:256:14",
    "3x3:512:512:7",
    "1x1:64:256:56",
    "1x1:256:64:56",
    "1x1:256:1024:14",
    "1x1:1024:256:14",
    "1x1:512:2048:7",
    "3x3:128:128:28:2",
    "3x3:512:dw:14",
    "3x3:64:dw:112:2",
)


@dataclass(frozen=True, slots=True)
class Layer:
    """A convolution, square in window and stride, padded so that nothing is lost."""

    window: tuple[int, int]
    channels: int
    outputs: int
    """0 for a depthwise one."""
    pixels: int
    stride: int = 1

    @classmethod
    def of(cls, text: str) -> Layer:
        window, channels, outputs, pixels, *stride = text.split(":")
        kh, kw = (int(n) for n in window.split("x"))
        made = 0 if outputs == "dw" else int(outputs)
        return cls((kh, kw), int(channels), made, int(pixels), *(int(s) for s in stride))

    @property
    def width(self) -> int:
        """Pixels of a row of x, with its padding; odd, so that channels spread over L1's sets."""
        return ((self.pixels - 1) * self.stride + self.window[1]) | 1

    def weights(self, sparsity: float) -> Array:
        """Seeded random W[M, C, kh, kw]."""
        rng = np.random.default_rng(0)
        depthwise = self.outputs == 0
        shape = (self.outputs or self.channels, 1 if depthwise else self.channels, *self.window)
        keep = rng.random(shape) >= (0.0 if depthwise else sparsity)
        return (rng.standard_normal(shape) * keep).astype(np.float32)


class Visit:
    """A few rows of a layer's output: the words of a step, and what they point to."""

    def __init__(self, kernel: Kernel, layer: Layer, weights: Array, rows: int = 1) -> None:
        outputs, lanes, (kh, kw) = len(weights), kernel.points, layer.window
        size = lanes * 4
        slots = (rows - 1) * layer.stride + kh
        x = aligned(slots * layer.channels * layer.width * size).view(np.float32)
        x[:] = np.random.default_rng(1).standard_normal(len(x))
        y_width = layer.pixels | 1
        y = aligned(rows * outputs * y_width * size)
        last = layer.pixels - kernel.pixels
        firsts = np.array([min(p, last) for p in range(0, layer.pixels, kernel.pixels)])
        groups = (firsts[:, None] * (layer.stride * size, size)).astype(np.int32)
        bias, clamp = np.zeros(outputs, np.float32), np.array((0.0, np.inf), np.float32)
        channel = layer.width * size
        rest: list[Array | int]
        if kernel.family == "depthwise":
            flat = np.ascontiguousarray(weights)
            rest = [flat, kh, kw, 1, size, 1, bias, clamp]
        else:
            window = Taps(lanes, channel, (1, 1), kernel.pixels, layer.stride)
            packed = pack_conv(kernel.structure, weights, window)
            rest = [*packed.streams, *packed.numbers, bias, clamp, 0]
        grids: list[Array | int] = [x, 0, slots, layer.channels * channel, channel]
        grids += [y, 0, rows, outputs * y_width * size, y_width * size]
        self.held: list[Array | int] = [
            *grids,
            0,
            0,
            1,
            0,
            0,
            rows,
            layer.stride,
            groups,
            len(groups),
            outputs,
            *rest,
        ]
        words = [w.ctypes.data if isinstance(w, np.ndarray) else w for w in self.held]
        self.step = np.zeros(32, np.int64)
        self.step[1 : 1 + len(words)] = words
        self.code = compiled(kernel.name).ctypes
        self.lanes = lanes

    def seconds(self, budget: float) -> float:
        """The shortest of as many tries as there is time for."""
        times: list[float] = []
        end = perf_counter() + budget
        while len(times) < 3 or perf_counter() < end:
            began = perf_counter()
            for _ in range(4):
                self.code(self.step.ctypes.data, 0, 0, self.lanes, 0)
            times.append((perf_counter() - began) / 4)
        return min(times)


def kernels_for(layer: Layer, lanes: int) -> list[Kernel]:
    """Those of its stride whose groups fit into a row."""
    family = kernels_of("conv" if layer.outputs else "depthwise", lanes)
    return [k for k in family if k.stride == layer.stride and 1 < k.pixels <= layer.pixels]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layer", nargs="+", default=LAYERS)
    parser.add_argument("--sparsity", type=float, nargs="+", default=[0.0, 0.8, 0.9])
    parser.add_argument("--lanes", type=int, default=register_lanes())
    parser.add_argument("--rows", type=int, default=1, help="of y, in a visit")
    parser.add_argument("--kernel", default="", help="only those whose name has this in it")
    parser.add_argument("--budget", type=float, default=0.05, help="seconds for each")
    args = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    peak = peak_gflops()
    print(f"peak: {peak:.1f} GFLOP/s; clock: {clock_ghz():.2f} GHz")
    print(f"{'kernel':<24} {'layer':<18} zeros   useful  peak       us  cycles a tap and pixel")
    for text in args.layer:
        layer = Layer.of(text)
        for sparsity in args.sparsity if layer.outputs else [0.0]:
            weights = layer.weights(sparsity)
            for kernel in kernels_for(layer, args.lanes):
                if args.kernel in kernel.name:
                    seconds = Visit(kernel, layer, weights, args.rows).seconds(args.budget)
                    seconds /= args.rows
                    print(line(kernel, text, layer, sparsity, weights, seconds, peak), flush=True)


def line(
    kernel: Kernel,
    text: str,
    layer: Layer,
    sparsity: float,
    weights: Array,
    seconds: float,
    peak: float,
) -> str:
    taps = int(np.count_nonzero(weights))
    useful = 2 * taps * layer.pixels * kernel.points / seconds / 1e9
    cycles = seconds * clock_ghz() * 1e9 / taps / layer.pixels
    return (
        f"{kernel.name:<24} {text:<18} {sparsity:5.0%} {useful:8.1f} {useful / peak:5.0%} "
        f"{seconds * 1e6:8.1f} {cycles:8.2f}"
    )


if __name__ == "__main__":
    main()
