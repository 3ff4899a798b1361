"""Compare scored digits with their labels: `python -m scripts.digits_accuracy FOLDER ...`."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
from rich.columns import Columns
from rich.console import Console
from rich.text import Text

from scripts.digits import EXAMPLE, SIDE, held_out, read_digits

INK = 96
"""From this value of 0..255 on, a pixel is drawn."""

SHOWN_RIGHT, SHOWN_WRONG = 3, 2
"""Held-out digits drawn at the end, so that a row of them fits 80 columns."""


@dataclass(frozen=True, slots=True)
class Scored:
    """The rows of an output dataset, in order of id."""

    ids: np.ndarray[Any, Any]
    labels: np.ndarray[Any, Any]
    digits: np.ndarray[Any, Any]
    """The predicted digit of each row: the place of its largest logit."""

    @classmethod
    def read(cls, folder: Path) -> Scored:
        """From a Parquet dataset with the fields id, label and logits."""
        table = ds.dataset(folder, format="parquet").to_table(["id", "label", "logits"])
        table = table.sort_by("id").combine_chunks()
        logits = table["logits"].combine_chunks()
        if isinstance(logits, pa.ExtensionArray):
            logits = logits.storage
        scores = logits.flatten().to_numpy().reshape(len(table), -1)
        return cls(table["id"].to_numpy(), table["label"].to_numpy(), scores.argmax(axis=1))

    @property
    def right(self) -> np.ndarray[Any, Any]:
        """For each row, whether the prediction is the label."""
        verdict: np.ndarray[Any, Any] = self.digits == self.labels
        return verdict


def braille(image: np.ndarray[Any, Any]) -> str:
    """image[28, 28] as 7 lines of 14 characters, a dot a pixel."""
    dots = [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1), (3, 0), (3, 1)]  # bits 0..7 of U+2800
    ink = image >= INK
    lines = []
    for y in range(0, SIDE, 4):
        cells = (
            sum(int(ink[y + dy, x + dx]) << bit for bit, (dy, dx) in enumerate(dots))
            for x in range(0, SIDE, 2)
        )
        lines.append("".join(chr(0x2800 + cell) for cell in cells))
    return "\n".join(lines)


def gallery(scored: Scored, images: np.ndarray[Any, Any]) -> Columns:
    """A few held-out digits with their predictions, some of them wrong on purpose."""
    out = held_out(scored.ids)
    right = np.flatnonzero(out & scored.right)
    spread = right[:: max(1, len(right) // SHOWN_RIGHT)][:SHOWN_RIGHT]
    pictures = []
    for row in [*spread, *np.flatnonzero(out & ~scored.right)[:SHOWN_WRONG]]:
        good = bool(scored.right[row])
        verdict = f"{scored.digits[row]}" + ("" if good else f"  (is {scored.labels[row]})")
        caption = Text(f"-> {verdict}", style="green" if good else "red")
        pictures.append(Text(braille(images[row]) + "\n").append_text(caption))
    return Columns(pictures, padding=(0, 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", type=Path, nargs="*", default=[EXAMPLE / "out" / "mlp"])
    folders = parser.parse_args().folders
    ids, images, labels = read_digits()
    console = Console(highlight=False)
    for number, folder in enumerate(folders):
        scored = checked(folder, ids, labels)
        if number == 0 and console.encoding.startswith("utf"):
            console.print(gallery(scored, images))
        out, label = held_out(ids), folder.name if len(folders) > 1 else "accuracy"
        console.print(
            f"{label:8}  [bold]{scored.right[out].mean():.1%}[/] on the {out.sum():,} digits held "
            f"out of training, {scored.right.mean():.1%} on all {len(ids):,}"
        )


def checked(folder: Path, ids: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> Scored:
    """The folder's rows, which are every digit once; anything else ends the command."""
    scored = Scored.read(folder)
    if not (np.array_equal(scored.ids, ids) and np.array_equal(scored.labels, labels)):
        raise SystemExit(
            f"{folder}: expected each of {len(ids):,} digits once, got {len(scored.ids):,} rows"
        )
    return scored


if __name__ == "__main__":
    main()
