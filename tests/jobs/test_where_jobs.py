"""Whole runs with --where: which rows come out, how they are counted, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import small_job
from here import here
from small_job import ROWS, Source, words


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return small_job.write(tmp_path_factory.mktemp("source"))


def test_rows_that_are_left_out_are_counted_and_verified(source: Source, tmp_path: Path) -> None:
    output = tmp_path / "out"
    where = ("--where", "id >= 250 and label in [1, 3]", "--keep", "id")
    run = here(*words(source, output, *where))
    assert run.code == 0, run.stderr
    expected = [n for n in range(250, ROWS) if n % 7 in (1, 3)]
    table = small_job.read_parts(output)
    assert table.column_names == ["id", "y"] and table["id"].to_pylist() == expected
    y = table["y"].combine_chunks().flatten().to_numpy().reshape(-1, 4)
    assert abs(y - source.expected[expected]).max() < 1e-4
    manifest = json.loads((output / "_manifest.json").read_text())
    counted = (manifest["rows_in"], manifest["rows_out"], manifest["filtered"])
    assert counted == (ROWS, len(expected), ROWS - len(expected))
    checked = here("verify", str(output))
    assert checked.code == 0, checked.stdout
    assert f"{ROWS - len(expected):,} left out" in checked.stdout
    other = here(*words(source, output, "--where", "id > 3", "--keep", "id"))
    assert other.code == 1 and "where: the folder has id >= 250" in other.stderr
    # A part whose line is lost is taken over with its count.
    (output / "_colonnade/journal.jsonl").unlink()
    (output / "_SUCCESS").unlink()
    again = here(*words(source, output, *where))
    assert again.code == 0 and not again.lent
    assert json.loads((output / "_manifest.json").read_text()) == manifest


def test_the_plan_says_what_is_not_read(source: Source, tmp_path: Path) -> None:
    dry = words(source, tmp_path / "out", "--dry-run", "--progress", "none", "--where", "id >= 200")
    run = here(*dry)
    assert "where   id >= 200: 4 row groups of 200 rows are not read" in run.stdout, run.stderr
    dry[-1] = "nothere > 3"
    run = here(*dry)
    assert run.code == 1 and "'nothere'; it has id, x, label" in run.stderr


def test_bad_rows_have_their_numbers_in_the_file(source: Source, tmp_path: Path) -> None:
    data = tmp_path / "in"
    data.mkdir()
    table = pq.read_table(source.data / "in-0.parquet").slice(0, 20)
    x = table["x"].to_pylist()
    x[7] = x[12] = None
    table = table.set_column(1, "x", [x]).cast(table.schema)
    with pq.ParquetWriter(data / "x.parquet", table.schema) as writer:
        for first in range(0, 20, 5):
            writer.write_table(table.slice(first, 5))
    more = ("--where", "id >= 5 and id != 6 and id not in [10, 11]", "--on-error", "skip")
    arguments = words(source, tmp_path / "out", *more)
    arguments[arguments.index("--input") + 1] = str(data)
    run = here(*arguments)
    assert run.code == 0, run.stderr
    assert small_job.read_parts(tmp_path / "out")["id"].to_pylist() == [
        5, 8, 9, 13, 14, 15, 16, 17, 18, 19,
    ]  # fmt: skip
    rejects = sorted((tmp_path / "out/_colonnade/rejects").iterdir())
    assert [row for path in rejects for row in pq.read_table(path)["row"].to_pylist()] == [7, 12]
    assert here("verify", str(tmp_path / "out")).code == 0
