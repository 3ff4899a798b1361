from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.dataset import Dataset
from pipeline.errors import InputError, OutputError
from pipeline.footers import FOREIGN

TABLE = pa.table({"id": np.arange(10), "x": np.ones(10, np.float32)})


def write(path: Path, table: pa.Table = TABLE, rows: int = 4) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".arrow":
        with pa.ipc.new_file(str(path), table.schema) as writer:
            writer.write_table(table, max_chunksize=rows)
    else:
        pq.write_table(table, path, row_group_size=rows)
    return path


def discover(*inputs: Path | str) -> Dataset:
    return Dataset.discover([str(i) for i in inputs])


def test_folders_globs_and_files_name_each_file_once_in_sorted_order(tmp_path: Path) -> None:
    for name in ("b.parquet", "a.parquet", "sub/c.parquet", "sub/d.arrow"):
        write(tmp_path / name)
    write(tmp_path / "_hidden.parquet")
    write(tmp_path / ".hidden/e.parquet")
    (tmp_path / "README.md").write_text("read me")
    expected = [
        str(tmp_path / n) for n in ("a.parquet", "b.parquet", "sub/c.parquet", "sub/d.arrow")
    ]
    assert [f.path for f in discover(tmp_path).files] == expected
    twice = discover(tmp_path / "*.parquet", tmp_path / "sub", tmp_path / "a.parquet")
    assert [f.path for f in twice.files] == expected
    assert [f.path for f in discover(f"{tmp_path}/**/*.parquet").files] == expected[:3]


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_footers_tell_rows_and_decoded_bytes(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name)
    dataset = discover(path)
    (file,) = dataset.files
    assert file.format == path.suffix[1:]
    assert (file.nbytes, file.mtime_ns) == (path.stat().st_size, path.stat().st_mtime_ns)
    assert [g.rows for g in file.row_groups] == [4, 4, 2]
    assert dataset.rows == file.rows == 10
    for group in file.row_groups:
        assert 12 * group.rows <= group.nbytes < 12 * group.rows + 300


def test_decoded_bytes_see_through_dictionary_pages(tmp_path: Path) -> None:
    x = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(64_000, np.float32)), 64)
    path = write(tmp_path / "a.parquet", pa.table({"x": x, "id": np.arange(1000)}), rows=1000)
    group = discover(path).files[0].row_groups[0]
    assert group.field_nbytes[0] >= 256_000
    assert group.field_nbytes[1] >= 8_000


def test_nested_fields_do_not_shift_the_sizes_of_the_next(tmp_path: Path) -> None:
    table = pa.table({"s": [{"a": 1, "b": ["x", "y"]}] * 4, "x": np.ones(4)})
    group = discover(write(tmp_path / "a.parquet", table)).files[0].row_groups[0]
    assert 32 <= group.field_nbytes[1] < 200


def test_a_file_without_rows_keeps_its_schema(tmp_path: Path) -> None:
    dataset = discover(write(tmp_path / "a.parquet", TABLE.slice(0, 0)))
    assert dataset.rows == 0
    assert dataset.schema.names == ["id", "x"]


def refused(*inputs: Path | str) -> str:
    with pytest.raises(InputError) as caught:
        discover(*inputs)
    return str(caught.value)


def test_nothing_to_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("read me")
    told = refused(tmp_path)
    assert "expected Parquet or Arrow files, got none" in told
    assert "names that end with .parquet, .pq," in told
    assert "got nothing" in refused(tmp_path / "gone.parquet")
    assert "got no match" in refused(tmp_path / "*.parquet")
    assert "expected Parquet or Arrow files" in refused()


@pytest.mark.parametrize("name", ["b.parquet", "b.arrow"])
@pytest.mark.parametrize("length", [0, 4, 100, -1])
def test_truncated_files_are_refused_by_name(tmp_path: Path, name: str, length: int) -> None:
    write(tmp_path / f"a{Path(name).suffix}")
    path = write(tmp_path / name)
    path.write_bytes(path.read_bytes()[:length])
    message = refused(tmp_path)
    assert str(path) in message
    assert ("got an empty one" if length == 0 else "truncated or damaged") in message


def test_other_files_are_refused_by_their_first_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_text("id,x\n1,2\n")
    assert "starts with b'id,x'" in refused(path)


def test_an_arrow_stream_is_named_and_its_advice_works(tmp_path: Path) -> None:
    stream, made = tmp_path / "a.arrow", tmp_path / "b.arrow"
    with pa.ipc.new_stream(str(stream), TABLE.schema) as writer:
        writer.write_table(TABLE)
    message = refused(stream)
    assert "got an Arrow IPC stream, which has no footer; write it as a file: pyarrow." in message
    advice = message.rpartition("write it as a file: ")[2]
    exec("import pyarrow, pyarrow.feather\n" + advice, {"OLD": str(stream), "NEW": str(made)})
    assert discover(made).rows == 10


@pytest.mark.parametrize("start", FOREIGN)
def test_what_people_take_for_parquet_is_named(tmp_path: Path, start: bytes) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(start + bytes(100))
    name, advice = FOREIGN[start]
    assert f"a.parquet: expected a Parquet or Arrow IPC file, got {name}; {advice}" in refused(path)


def test_a_dangling_link_is_named(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet")
    (tmp_path / "b.parquet").symlink_to("gone")
    assert "b.parquet: expected a file, got a link to gone, which does not" in refused(tmp_path)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.parquet")
    assert "expected a file, got a pipe" in refused(tmp_path)


def test_field_names_must_be_unique(tmp_path: Path) -> None:
    twice = pa.Table.from_arrays([TABLE["id"], TABLE["id"]], names=["id", "id"])
    assert "each field once" in refused(write(tmp_path / "a.parquet", twice))


def test_an_unfinished_output_is_no_input(tmp_path: Path) -> None:
    write(tmp_path / "part-000000.parquet")
    (tmp_path / "_colonnade").mkdir()
    assert "unfinished run" in refused(tmp_path)
    (tmp_path / "_SUCCESS").touch()
    assert discover(tmp_path).rows == 10


def test_the_output_may_not_lie_in_the_input(tmp_path: Path) -> None:
    write(tmp_path / "in/a.parquet")
    dataset = discover(tmp_path / "in")
    dataset.refuse_output(tmp_path / "out")
    (tmp_path / "link").symlink_to(tmp_path / "in")
    for output in ("in", "in/out", "link/out"):
        with pytest.raises(OutputError, match="outside the input"):
            dataset.refuse_output(tmp_path / output)


def test_relative_inputs_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.parquet")
    monkeypatch.chdir(tmp_path)
    assert [f.path for f in discover("a.parquet").files] == [os.fspath(tmp_path / "a.parquet")]
