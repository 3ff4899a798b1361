"""The demo's last words: accuracy, pictures, and the refusal of an incomplete output."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scripts.digits import held_out, read_digits
from scripts.digits_accuracy import Scored, braille, main

IDS, IMAGES, LABELS = read_digits()


def write(folder: Path, ids: np.ndarray[Any, Any], digits: np.ndarray[Any, Any]) -> Path:
    """An output dataset in two parts, rows in a shuffled order, beside files to be skipped."""
    folder.mkdir()
    (folder / "_SUCCESS").touch()
    (folder / "_manifest.json").write_text("{}")
    logits = np.eye(10, dtype=np.float32)[digits]
    order = np.random.default_rng(0).permutation(len(ids))
    for number, rows in enumerate(np.array_split(order, 2)):
        values = pa.FixedSizeListArray.from_arrays(pa.array(logits[rows].reshape(-1)), 10)
        part = pa.table({"id": ids[rows], "label": LABELS[ids[rows]], "logits": values})
        pq.write_table(part, folder / f"part-{number:06d}.parquet")
    return folder


def run(*folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["digits_accuracy", *map(str, folders)])
    main()


def test_accuracy_is_counted_over_all_rows_and_over_the_held_out_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    digits = LABELS.copy()
    wrong = [*np.flatnonzero(held_out(IDS))[:30], *np.flatnonzero(~held_out(IDS))[:70]]
    digits[wrong] = (digits[wrong] + 1) % 10
    run(write(tmp_path / "out", IDS, digits), monkeypatch=monkeypatch)
    words = " ".join(capsys.readouterr().out.split())
    assert "97.0% on the 1,000 digits held out of training, 98.0% on all 5,000" in words
    assert "-> 1 (is 0)" in words


def test_a_perfect_score_has_no_mistakes_to_draw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(write(tmp_path / "out", IDS, LABELS), monkeypatch=monkeypatch)
    out = capsys.readouterr().out
    assert "100.0% on all" in out and "(is" not in out


def test_two_models_are_told_apart_and_digits_are_drawn_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = (LABELS + 1) % 10
    one, two = write(tmp_path / "mlp", IDS, LABELS), write(tmp_path / "cnn", IDS, wrong)
    run(one, two, monkeypatch=monkeypatch)
    words = " ".join(capsys.readouterr().out.split())
    assert "mlp 100.0% on the 1,000 digits" in words and "cnn 0.0% on the 1,000" in words
    assert "(is" not in words


@pytest.mark.parametrize("ids", [IDS[1:], np.append(IDS, 7)], ids=["a row missing", "a row twice"])
def test_an_output_without_each_row_once_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ids: np.ndarray[Any, Any]
) -> None:
    folder = write(tmp_path / "out", ids, LABELS[ids])
    with pytest.raises(SystemExit, match=f"each of 5,000 digits once, got {len(ids):,} rows"):
        run(folder, monkeypatch=monkeypatch)


def test_logits_as_tensors_are_read_like_lists(tmp_path: Path) -> None:
    logits = pa.FixedShapeTensorArray.from_numpy_ndarray(np.eye(10, dtype=np.float32)[LABELS])
    table = pa.table({"id": IDS, "label": LABELS, "logits": logits})
    pq.write_table(table, tmp_path / "part-000000.parquet")
    assert Scored.read(tmp_path).right.all()


def test_a_picture_has_a_dot_for_each_dark_pixel() -> None:
    for image in IMAGES[::500]:
        lines = braille(image).split("\n")
        assert [len(line) for line in lines] == [14] * 7
        dots = sum((ord(c) - 0x2800).bit_count() for line in lines for c in line)
        assert dots == np.sum(image >= 96)


def test_the_dots_of_a_picture_stand_where_the_pixels_do() -> None:
    image = np.zeros((28, 28), np.uint8)
    image[0, 0] = image[27, 27] = image[5, 2] = 255
    lines = braille(image).split("\n")
    assert (lines[0][0], lines[6][13], lines[1][1]) == ("⠁", "⢀", "⠂")
