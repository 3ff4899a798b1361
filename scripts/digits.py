"""The digits example, as the scripts see it: where it lies, and how its rows are split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "digits"
DATA = EXAMPLE / "data"
MODELS = {kind: EXAMPLE / f"digits-{kind}-s90.onnx" for kind in ("mlp", "cnn")}
MODEL = MODELS["mlp"]

SIDE = 28
"""Pixels a side of an image."""

HELD_OUT_EVERY = 5
"""Rows with id % 5 == 0 are held out: 1,000 of 5,000, and 100 of each digit."""


def held_out(ids: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """For each row, whether the model was trained without it."""
    out: np.ndarray[Any, Any] = ids % HELD_OUT_EVERY == 0
    return out


def read_digits(
    folder: Path = DATA,
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """ids[n], images[n, 28, 28] uint8 and labels[n], in order of id."""
    table = ds.dataset(folder, format="parquet").to_table()
    table = table.sort_by("id").combine_chunks()
    pixels = table["image"].combine_chunks()
    return (
        table["id"].to_numpy(),
        pixels.to_numpy_ndarray(),
        table["label"].to_numpy(),
    )
