"""Small convolutional models and pictures for jobs, and onnxruntime as oracle."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import small_models
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

Array = np.ndarray[Any, np.dtype[Any]]
SIDE = 8
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
IMAGE = f"mean={','.join(map(str, MEAN))},std={','.join(map(str, STD))}"


def model(
    *, channels: int = 3, last: bool = False, dtype: int = TensorProto.FLOAT, side: int | str = SIDE
) -> onnx.ModelProto:
    """x[N, C, H, W], or with `last` x[N, H, W, C] -> Conv, Relu, mean, Flatten -> y[N, 4]."""
    random = np.random.default_rng(3)
    w = random.standard_normal((4, channels, 3, 3), np.float32)
    nodes, value = [], "x"
    if last:
        nodes.append(helper.make_node("Transpose", [value], ["t"], "t", perm=[0, 3, 1, 2]))
        value = "t"
    if dtype != TensorProto.FLOAT:
        nodes.append(helper.make_node("Cast", [value], ["c"], "cast", to=TensorProto.FLOAT))
        value = "c"
    nodes += [
        helper.make_node("Conv", [value, "w"], ["a"], "conv", strides=[2, 2], pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        helper.make_node("GlobalAveragePool", ["b"], ["m"], "pool"),
        helper.make_node("Flatten", ["m"], ["y"], "flat", axis=1),
    ]
    shape = ["N", side, side, channels] if last else ["N", channels, side, side]
    graph = helper.make_graph(
        nodes,
        "picture",
        [helper.make_tensor_value_info("x", dtype, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])],
        [numpy_helper.from_array(w, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def picture(seed: int, height: int = SIDE, width: int = SIDE, channels: int = 3) -> Array:
    """uint8[H, W, C], smooth, so that a JPEG of it looks like it."""
    random = np.random.default_rng(seed)
    small = random.integers(0, 256, (3, 3, channels), np.uint8).squeeze()
    return np.asarray(Image.fromarray(small).resize((width, height))).reshape(height, width, -1)


def encoded(picture: Any, kind: str = "PNG", **options: Any) -> bytes:
    """The file of a picture: an array[H, W, C] or one of Pillow's."""
    data = io.BytesIO()
    image = Image.fromarray(picture.squeeze()) if isinstance(picture, np.ndarray) else picture
    image.save(data, kind, **options)
    return data.getvalue()


def write(folder: Path, field: pa.Array, made: onnx.ModelProto | None = None) -> Path:
    """model.onnx, and data/a.parquet with the fields id and x."""
    (folder / "data").mkdir(parents=True)
    onnx.save(made or model(), folder / "model.onnx")
    table = pa.table({"id": np.arange(len(field)), "x": field})
    pq.write_table(table, folder / "data" / "a.parquet", row_group_size=4)
    return folder


def words(folder: Path, output: Path, *more: str) -> list[str]:
    return [
        "run", "--model", str(folder / "model.onnx"), "--input", str(folder / "data"),
        "--output", str(output), "--engines", "1", "--threads", "1", "--progress", "none", *more,
    ]  # fmt: skip


def normalised(pixels: Array) -> Array:
    """[rows, H, W, 3] uint8 -> [rows, 3, H, W] float32, as torchvision does it."""
    scaled = pixels.astype(np.float32) / np.float32(255)
    return ((scaled - np.float32(MEAN)) / np.float32(STD)).transpose(0, 3, 1, 2)


def expected(feed: Array, made: onnx.ModelProto | None = None) -> Array:
    return small_models.onnxruntime_run(made or model(), {"x": feed})["y"]


def tensors(rows: Sequence[Array] | Array) -> pa.Array:
    return pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(rows))
