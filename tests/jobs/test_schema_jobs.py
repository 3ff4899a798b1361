"""Whole runs over files whose schemas differ. The oracle: the same rows in one file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import small_job
from here import here
from small_job import Result, Source, words


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return small_job.write(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def differing(source: Source, tmp_path_factory: pytest.TempPathFactory) -> Source:
    """Years of files: another order, wider and narrower types, a field that came, one that went,
    and one that changed its meaning."""
    folder = tmp_path_factory.mktemp("differing") / "data"
    folder.mkdir()
    old, next_, last = (pq.read_table(source.data / f"in-{n}.parquet") for n in range(3))
    lists = old["x"].combine_chunks()
    old = old.set_column(1, "x", lists.cast(pa.large_list(pa.float32())))
    old = old.set_column(0, "id", old["id"].cast(pa.int32())).select(["label", "x", "id"])
    next_ = next_.append_column("kind", pa.array(["a", "b"] * 100).dictionary_encode())
    last = last.drop_columns(["label"]).append_column("kind", pa.array(["c", None] * 100))
    last = last.append_column("extra", pa.array([[1]] * 200))
    pq.write_table(old, folder / "in-0.parquet", row_group_size=50)
    with pa.ipc.new_file(folder / "in-1.arrow", next_.schema) as writer:
        writer.write_table(next_, max_chunksize=50)
    pq.write_table(last, folder / "in-2.parquet", row_group_size=50)
    return Source(source.model, folder, source.expected)


def read(path: Path) -> pa.Table:
    if path.suffix == ".arrow":
        return pa.ipc.open_file(path).read_all()
    return pq.read_table(path, partitioning=None)


def as_one(differing: Source, folder: Path) -> Source:
    """The same rows in one file, as pyarrow puts tables together."""
    data = folder / "one"
    data.mkdir()
    tables = []
    for path in sorted(differing.data.iterdir()):
        table = (
            pa.ipc.open_file(path).read_all() if path.suffix == ".arrow" else pq.read_table(path)
        )
        if "kind" in table.column_names:
            plain = table["kind"].cast(pa.string())
            table = table.set_column(table.column_names.index("kind"), "kind", plain)
        x = table["x"].combine_chunks().cast(pa.list_(pa.float32()))
        tables.append(table.set_column(table.column_names.index("x"), "x", x))
    whole = pa.concat_tables(tables, promote_options="permissive")
    pq.write_table(whole, data / "all.parquet", row_group_size=50)
    return Source(differing.model, data, differing.expected)


def rows(output: Path) -> list[dict[str, Any]]:
    found = []
    for part in sorted(output.glob("part-*")):
        found += read(part).to_pylist()
    return sorted(found, key=lambda row: row["id"])


def done(*arguments: str, **more: Any) -> Result:
    run = here(*arguments, **more)
    assert run.code == 0, run.stderr
    return run


HOOK = """
import pyarrow as pa, pyarrow.compute as pc
def known(batch):
    known = pc.fill_null(batch["kind"].cast(pa.string()), "none")
    return batch.set_column(batch.schema.get_field_index("kind"), "kind", known)
"""

WAYS = {
    "as it is": (),
    "one field": ("--keep", "kind"),
    "filtered": ("--where", "id >= 150 and id < 450"),
    "null": ("--on-error", "null"),
    "arrow": ("--format", "arrow"),
    "small batches": ("--batch-rows", "7"),
    "hooked": ("--before", "known_kinds:known"),
}


@pytest.mark.parametrize("way", WAYS)
def test_files_that_differ_give_what_one_file_gives(
    differing: Source, tmp_path: Path, way: str
) -> None:
    one, more, env = as_one(differing, tmp_path), WAYS[way], {"PYTHONPATH": str(tmp_path)}
    (tmp_path / "known_kinds.py").write_text(HOOK)
    if way == "one field":
        more = ("--keep", "kind,id")
    output, other = tmp_path / "out", tmp_path / "other"
    done(*words(differing, output, *more), env=env)
    done(*words(one, other, *more), env=env)
    assert rows(output) == rows(other)
    assert len(rows(output)) == (300 if way == "filtered" else small_job.ROWS)
    checked = here("verify", str(output))
    assert checked.code == 0, checked.stdout
    schemas = [read(part).schema for part in output.glob("part-*")]
    assert all(s.remove_metadata().equals(schemas[0].remove_metadata(), check_metadata=True)
               for s in schemas)  # fmt: skip
    assert schemas[0].field("id").type == pa.int64()


def test_plan_and_explain_say_where_files_differ_in_a_line(
    differing: Source, tmp_path: Path
) -> None:
    dry = words(differing, tmp_path / "out", "--dry-run", "--progress", "none", "--keep", "id,kind")
    (line,) = [text for text in done(*dry).stdout.splitlines() if "differ" in text]
    assert line.startswith("  differ  x is fixed_size_list<")
    assert "id is int64 in 2, int32 in 1, read as int64; kind is " in line
    assert line.endswith("and 2 more fields")
    shown = done("explain", str(differing.model), "--input", str(differing.data)).stdout
    assert shown.splitlines()[-1].startswith("  files differ: ")
    told = done("explain", str(differing.model), "--input", str(differing.data), "--json").stdout
    assert json.loads(told)["differ"].startswith("label is in 2 of 3 files; x is ")


def test_a_field_that_changed_its_meaning_is_left_out_by_keep(
    differing: Source, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for path in differing.data.glob("*.parquet"):
        table = pq.read_table(path)
        kind = pa.array([1.5] * 200 if path.name == "in-0.parquet" else ["a"] * 200)
        names = [name for name in table.column_names if name != "kind"]
        pq.write_table(table.select(names).append_column("kind", kind), data / path.name)
    changed, output = Source(differing.model, data, differing.expected), tmp_path / "out"
    run = here(*words(changed, output))
    assert run.code == 1 and not output.exists()
    assert f"double in 1 file ({data}/in-0.parquet) and string in 1 file (" in run.stderr
    explained = done("explain", str(changed.model), "--input", str(changed.data)).stdout
    assert "kind is double in 1, string in 1: no type holds both exactly" in explained
    assert "kept: label, id, extra\n" in explained
    hooked = here(*words(changed, output, "--before", "copy:copy"))
    assert hooked.code == 1 and "--before copy:copy: field 'kind': expected one type" in (
        hooked.stderr
    )
    done(*words(changed, output, "--keep", "id"))
    assert len(rows(output)) == 400


def test_a_run_goes_on_over_files_that_differ(differing: Source, tmp_path: Path) -> None:
    output = tmp_path / "out"
    done(*words(differing, output))
    before = {p.name: p.read_bytes() for p in output.glob("part-*")}
    (output / "_SUCCESS").unlink()
    gone = sorted(before)[::5]
    for name in gone:
        (output / name).unlink()
    again = done(*words(differing, output, "--engines", "2"))
    assert len(again.lent) == len(gone)
    assert {p.name: p.read_bytes() for p in output.glob("part-*")} == before
