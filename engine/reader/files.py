"""From a path to a ModelProto, with a clear error for every file that is not one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError, Message  # type: ignore[import-untyped]

from engine.errors import ModelError
from engine.mapped import mapped, release
from engine.reader.outlying import OUTLYING_NBYTES, Lean, lean

Array = np.ndarray[Any, np.dtype[Any]]

MAX_NBYTES = 2**31 - 1
"""Protobuf cannot hold more in one message; larger models keep their weights beside the file."""

# What people pass by mistake, by the first bytes of the file.
_MAGIC = (
    (b"PK\x03\x04", "a ZIP archive (a PyTorch or Keras checkpoint?)"),
    (b"\x89HDF", "an HDF5 file (a Keras model?)"),
    (b"\x1f\x8b", "a gzip file"),
    (b"PAR1", "a Parquet file"),
    (b"ARROW1", "an Arrow file"),
    (b"\x80", "a Python pickle"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file it stands for"),
    (b"{", "a JSON text"),
    (b"<", "an XML or HTML text"),
)


def read_model(path: Path) -> tuple[onnx.ModelProto, Mapping[str, Array]]:
    """Parse the file; nothing is executed, and external data is not touched yet. Nor are large
    initializers in the file itself: the bytes of each lie in a map of it, by name."""
    found = _content(path)
    content, model = found.content, onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError:
        raise _not_onnx(path, content, "the file is truncated or of another kind") from None
    if model.ir_version <= 0 or not model.HasField("graph"):
        raise _not_onnx(path, content, "it holds no graph")
    if not model.opset_import:
        raise _not_onnx(path, content, "it names no operator set (opset_import); truncated?")
    return model, found.outlying


def expect_text(message: Message, where: str) -> None:
    """Protobuf gives bytes where a name is no UTF-8; everything after relies on names as text."""
    if isinstance(message, onnx.TensorProto):  # not its data, which may be large
        found = [(message.DESCRIPTOR.fields_by_name["name"], message.name)]
        found.append((message.DESCRIPTOR.fields_by_name["external_data"], message.external_data))
    else:
        found = message.ListFields()
    for field, value in found:
        several = value if field.is_repeated else (value,)
        if field.message_type is not None:
            for inner in several:
                expect_text(inner, where)
        elif field.type == field.TYPE_STRING:
            broken = [v for v in several if isinstance(v, bytes)]
            if broken:
                raise ModelError(
                    f"{where}: expected UTF-8 text in {field.full_name}, got {broken[0]!r}; "
                    "the file is damaged, export the model again"
                )


def _content(path: Path) -> Lean:
    try:
        if path.is_dir():
            raise ModelError(f"{path}: expected an ONNX file, got a folder; name the .onnx in it")
        if not path.is_file():
            what = "something that is not a file" if path.exists() else "nothing there"
            raise ModelError(f"{path}: expected an ONNX file, got {what}; check the path")
        nbytes = path.stat().st_size
        if nbytes == 0:
            raise ModelError(f"{path}: expected an ONNX model, got an empty file; export it again")
        if nbytes > MAX_NBYTES:
            raise ModelError(
                f"{path}: expected at most {MAX_NBYTES} bytes in one file, got {nbytes}; "
                "save the weights as external data (onnx.save(..., save_as_external_data=True))"
            )
        if nbytes < OUTLYING_NBYTES:
            return Lean(path.read_bytes())
        whole = mapped(path)
        found = lean(whole)
        release(whole)  # the kernel maps more than what was looked at
        return found
    except OSError as error:
        reason = error.strerror or str(error)
        raise ModelError(
            f"{path}: expected a readable file, got '{reason}'; check its permissions"
        ) from error


def _not_onnx(path: Path, content: bytes, found: str) -> ModelError:
    kind = next((name for magic, name in _MAGIC if content.startswith(magic)), None)
    if content[4:8] == b"TFL3":
        kind = "a TensorFlow Lite model"
    return ModelError(
        f"{path}: expected an ONNX model, got {kind or f'{len(content)} bytes where {found}'}; "
        "export the model again, or copy the file again"
    )
