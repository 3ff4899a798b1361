"""What the repository claims of examples/digits: the rows, the zeros and the accuracy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from onnx import numpy_helper
from small_models import onnxruntime_session

from scripts.digits import DATA, MODELS, held_out, read_digits

FILES = sorted(DATA.glob("*.parquet"))


LAYERS = {
    "mlp": {"fc1": (512, 784), "fc2": (512, 512), "fc3": (10, 512)},
    "cnn": {"conv1": (16, 1, 3, 3), "conv2": (32, 16, 3, 3), "fc1": (128, 1568), "fc2": (10, 128)},
}
"""Shapes of the weights."""

DENSE = {"mlp": [], "cnn": ["conv1"]}
"""Layers that keep all their weights."""

LEAST_ACCURACY = {"mlp": 0.96, "cnn": 0.95}

OPERATORS = {
    "mlp": "Cast Mul Flatten Gemm Relu Gemm Relu Gemm",
    "cnn": "Cast Mul Conv Relu Conv Relu MaxPool Flatten Gemm Relu Gemm",
}


@pytest.fixture(scope="module", params=sorted(MODELS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def model(kind: str) -> onnx.ModelProto:
    return onnx.load(MODELS[kind])


def test_there_are_five_files_of_four_row_groups_and_nothing_else_in_the_folder() -> None:
    assert sorted(DATA.iterdir()) == FILES
    assert [path.name for path in FILES] == [f"digits-{n}.parquet" for n in range(5)]
    for path in FILES:
        footer = pq.ParquetFile(path).metadata
        rows = [footer.row_group(n).num_rows for n in range(footer.num_row_groups)]
        assert rows == [250] * 4, path.name
        assert footer.row_group(0).column(0).compression == "ZSTD"
    assert 500_000 < sum(path.stat().st_size for path in FILES) < 1_200_000


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_each_file_has_the_same_three_fields(path: Path) -> None:
    schema = pq.read_schema(path)
    assert schema.names == ["id", "image", "label"]
    assert schema.field("id").type == pa.int64()
    assert schema.field("image").type == pa.fixed_shape_tensor(pa.uint8(), [28, 28])
    assert schema.field("label").type == pa.int64()


def test_the_rows_are_five_thousand_distinct_digits_five_hundred_of_each() -> None:
    ids, images, labels = read_digits()
    assert ids.tolist() == list(range(5_000))
    assert np.bincount(labels).tolist() == [500] * 10
    assert images.shape == (5_000, 28, 28)
    assert images.min() == 0 and images.max() == 255
    assert len(np.unique(images.reshape(5_000, -1), axis=0)) == 5_000
    assert np.bincount(labels[held_out(ids)]).tolist() == [100] * 10


def test_nine_weights_in_ten_are_zero(kind: str, model: onnx.ModelProto) -> None:
    arrays = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    weights = {name: a for name, a in arrays.items() if name.endswith(".weight")}
    assert {n.removesuffix(".weight"): w.shape for n, w in weights.items()} == LAYERS[kind]
    for name, w in weights.items():
        if name.removesuffix(".weight") in DENSE[kind]:
            assert np.all(w != 0), name
        else:
            assert np.mean(w == 0) >= 0.90, name
        assert not np.signbit(w[w == 0]).any(), name
    zeros = sum(int(np.sum(w == 0)) for w in weights.values())
    share = zeros / sum(w.size for w in weights.values())
    assert 0.90 <= share < 0.91
    assert float(properties(model)["sparsity"]) == pytest.approx(share, abs=1e-4)


def test_the_held_out_accuracy_is_what_the_model_says_and_enough(
    kind: str, model: onnx.ModelProto
) -> None:
    ids, images, labels = read_digits()
    out = held_out(ids)
    session = onnxruntime_session(MODELS[kind])
    feed = images if kind == "mlp" else images[:, None]
    (logits,) = session.run(["logits"], {"image": feed})
    right = logits.argmax(axis=1) == labels
    assert right[out].mean() >= LEAST_ACCURACY[kind]
    assert float(properties(model)["accuracy_held_out"]) == pytest.approx(
        right[out].mean(), abs=0.002
    )
    assert right[~out].mean() >= right[out].mean(), "held-out rows fit better than trained ones"


def test_the_model_takes_bytes_and_any_number_of_rows(kind: str, model: onnx.ModelProto) -> None:
    onnx.checker.check_model(model, full_check=True)
    (image,), (logits,) = model.graph.input, model.graph.output
    assert (image.name, logits.name) == ("image", "logits")
    assert image.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert dims(image) == (["N", 28, 28] if kind == "mlp" else ["N", 1, 28, 28])
    assert dims(logits) == ["N", 10]
    operators = [node.op_type for node in model.graph.node]
    assert operators == OPERATORS[kind].split()


def properties(model: onnx.ModelProto) -> dict[str, str]:
    return {p.key: p.value for p in model.metadata_props}


def dims(value: onnx.ValueInfoProto) -> list[str | int]:
    shape = value.type.tensor_type.shape.dim
    return [d.dim_param or d.dim_value for d in shape]
