"""Two pixels of 8 images in a register: onnxruntime's numbers, whatever lies beside them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import small_models as small
from rewritten import floats

import engine
from engine import compiler
from engine.images import lanes
from engine.images.layout import LINE, Layout
from engine.images.schedule import Ring
from engine.images.segment import Images
from engine.ops.image_work import Plane
from engine.reader import graph_of


@pytest.fixture(autouse=True)
def groups_of_eight(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs as Zen 4 plans them, wherever this runs."""
    monkeypatch.setattr(compiler, "lanes_here", lambda: (16, 8))
    monkeypatch.setattr(lanes, "ALIKE", 100.0)  # the smallest rings


def sparse(share: float, *shape: int) -> Any:
    return floats(*shape) * (np.random.default_rng(2).random(shape) < share).astype(np.float32)


def net(width: int, share: float) -> onnx.ModelProto:
    """Windows, a dilated one, a residual, a group and strides, over rows of `width` pixels."""
    nodes = [
        small.node("Conv", "x w0", "a", pads=[1, 1, 1, 1]),
        small.node("Relu", "a", "b"),
        small.node("Conv", "b w1", "c", pads=[2, 2, 2, 2], dilations=[2, 2], group=2),
        small.node("Conv", "c w2", "d"),
        small.node("Add", "d b", "e"),
        small.node("Relu", "e", "f"),
        small.node("Conv", "f w2", "g", strides=[2, 2]),
        small.node("Conv", "g w3", "y"),
    ]
    constants = {
        "w0": sparse(share, 12, 8, 3, 3),
        "w1": sparse(share, 12, 6, 3, 3),
        "w2": sparse(share, 12, 12, 1, 1),
        "w3": sparse(share, 5, 12, 1, 1),
    }
    half = -(-width // 2)
    shapes = {"x": ["N", 8, 6, width]}, {"y": ["N", 5, 3, half]}
    return small.model(nodes, *shapes, constants)


@pytest.mark.parametrize("width", [4, 6, 11, 14, 28, 30])
@pytest.mark.parametrize("share", [0.1, 0.4, 1.0])
def test_it_means_what_onnxruntime_computes(width: int, share: float) -> None:
    proto = net(width, share)
    program = engine.compile(graph_of(proto))
    (segment,) = (s for s in program.segments if isinstance(s, Images))
    assert segment.lanes == 8
    assert any("x16s1" in step.kernel for step in segment.steps)
    x = floats(11, 8, 6, width)
    x[3] = np.nan  # an image beside the others, which must not see it
    with engine.Session(program, cpus=[0]) as session:
        got, alone = session.run({"x": x})["y"], session.run({"x": x[4:5]})["y"]
    want = small.onnxruntime_run(proto, {"x": x})["y"]
    others, large = np.arange(11) != 3, float(np.nanmax(np.abs(want)))
    np.testing.assert_allclose(got[others], want[others], rtol=1e-4, atol=1e-5 * large)
    assert np.isnan(got[3]).any()
    assert got[4:5].tobytes() == alone.tobytes()


@pytest.mark.parametrize("left", [0, 1, 3])
@pytest.mark.parametrize("width", [4, 14, 28, 56, 112])
def test_rows_of_whole_lines_begin_on_one(width: int, left: int) -> None:
    ring = Ring("v", 3, 1, 1, left, 1, 0, 1, ((0, 1),), "v")
    layout = Layout(ring, Plane(5, width, width), 8)
    for row in (0, 1, 5):
        base, slot, slots, slot_nbytes, channel_nbytes = layout.grid(LINE, row, 2)
        assert (base + slot * slot_nbytes) % LINE == 0 and channel_nbytes % LINE == 0
        end = base + (slots - 1) * slot_nbytes + 2 * channel_nbytes
        assert end + (width + 1) * layout.pixel_nbytes <= LINE + layout.nbytes
    assert channel_nbytes // LINE % 2 == 1
