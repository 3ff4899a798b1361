"""Which files an input means: links, loops, hidden names, globs, and outputs among inputs."""

from __future__ import annotations

import os
from pathlib import Path
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.dataset import PARTS, Dataset
from pipeline.errors import InputError, OutputError
from pipeline.parts import FORMATS, part_name


def write(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"id": [1, 2, 3]}), path)
    return path


def found(*inputs: Path | str) -> list[str]:
    return [f.path for f in Dataset.discover([str(i) for i in inputs]).files]


@pytest.mark.parametrize("pattern", ["", "**", "**/*.parquet", "*", "*/**/*.parquet"])
def test_loops_of_links_do_not_multiply_rows(tmp_path: Path, pattern: str) -> None:
    names = [str(write(tmp_path / f"in/{d}/{d}.parquet")) for d in "abc"]
    for folder in "abc":
        for other in "abc":
            (tmp_path / "in" / folder / f"to_{other}").symlink_to(tmp_path / "in" / other)
        (tmp_path / "in" / folder / "up").symlink_to("..")
    assert found(tmp_path / "in" / pattern) == names


def test_a_file_under_many_names_is_read_once_under_its_real_one(tmp_path: Path) -> None:
    real = write(tmp_path / "in/m.parquet")
    (tmp_path / "in/a.parquet").symlink_to("m.parquet")
    os.link(write(tmp_path / "in/y.parquet"), tmp_path / "in/x.parquet")
    (tmp_path / "in/z").symlink_to("..")
    dataset = Dataset.discover([str(tmp_path / "in")])
    assert [f.path for f in dataset.files] == [str(real), str(tmp_path / "in/x.parquet")]
    assert dataset.doubles == (str(tmp_path / "in/a.parquet"), str(tmp_path / "in/y.parquet"))
    # Whatever is named first: the order of inputs is no part of a run.
    every = [str(p) for p in sorted((tmp_path / "in").glob("*.parquet"))]
    assert found(*every) == found(*reversed(every)) == [f.path for f in dataset.files]


def test_a_dataset_made_of_links_keeps_its_names(tmp_path: Path) -> None:
    write(tmp_path / "store/one.parquet")
    write(tmp_path / "store/more/two.parquet")
    (tmp_path / "in").mkdir()
    (tmp_path / "in/1.parquet").symlink_to(tmp_path / "store/one.parquet")
    (tmp_path / "in/more").symlink_to(tmp_path / "store/more")
    expected = [str(tmp_path / "in" / n) for n in ("1.parquet", "more/two.parquet")]
    assert found(tmp_path / "in") == found(tmp_path / "in/**/*.parquet") == expected


def test_numbers_of_files_that_are_not_unique_lose_no_rows(tmp_path: Path) -> None:
    """Some network file systems number files badly: two files must stay two."""
    paths = [str(write(tmp_path / f"{n}.parquet")) for n in "ab"]
    same = Path(paths[0]).stat()
    with mock.patch("pipeline.dataset._stat", return_value=same):
        assert found(*paths) == paths


HIDDEN = ("_x.parquet", ".y.parquet", "_colonnade/rejects/r.parquet", ".tmp/t.parquet")


@pytest.mark.parametrize("pattern", ["**/*.parquet", "*", "**", "*/*.parquet", "**/?*.parquet"])
def test_globs_pass_over_hidden_names(tmp_path: Path, pattern: str) -> None:
    seen = write(tmp_path / "in/sub/a.parquet")
    for name in HIDDEN:
        write(tmp_path / "in" / name)
        write(tmp_path / "in/sub" / name)
        (tmp_path / "in/_SUCCESS").touch()
        (tmp_path / "in/sub/_SUCCESS").touch()
    assert found(tmp_path / "in" / pattern) == [str(seen)]


@pytest.mark.parametrize(
    "pattern", ["_colonnade/rejects/*.parquet", "_*/*/r.parquet", "[_]colonnade/**", "**/_colonn*"]
)
def test_hidden_names_are_found_by_who_writes_them(tmp_path: Path, pattern: str) -> None:
    rejects = write(tmp_path / "out/_colonnade/rejects/r.parquet")
    if pattern.startswith("["):
        with pytest.raises(InputError, match=r"names that begin with _ or \. are passed over"):
            found(tmp_path / "out" / pattern)
    else:
        assert found(tmp_path / "out" / pattern) == [str(rejects)]


def test_a_glob_takes_folders_whole_and_files_whatever_their_name(tmp_path: Path) -> None:
    data = write(tmp_path / "in/a.parquet/part.0")
    named = write(tmp_path / "in/a.parquet/part-1.parquet")
    assert found(tmp_path / "in/*") == [str(named)]
    assert found(tmp_path / "in/*/part.[0-9]") == [str(data)]


@pytest.mark.parametrize("pattern", ["", "*", "**"])
def test_data_under_a_name_without_an_ending_is_not_passed_over(
    tmp_path: Path, pattern: str
) -> None:
    write(tmp_path / "in/day/a.parquet")
    (tmp_path / "in/day/LICENSE").write_text("free")
    (tmp_path / "in/day/_SUCCESS").touch()
    assert len(found(tmp_path / "in" / pattern)) == 1
    bare = write(tmp_path / "in/day/000000_0")
    with pytest.raises(InputError, match=r"in/day/000000_0: holds data, but .*/in/day/\*$"):
        found(tmp_path / "in" / pattern)
    assert str(bare) in found(tmp_path / "in/day/0*")


@pytest.mark.parametrize("pattern", ["", "run", "*", "**/*.parquet", "run/*.parquet", "run/part-*"])
def test_an_unfinished_output_is_no_input_however_named(tmp_path: Path, pattern: str) -> None:
    write(tmp_path / "in/a.parquet")
    write(tmp_path / "in/run/part-000000.parquet")
    (tmp_path / "in/run/_colonnade").mkdir()
    with pytest.raises(InputError, match=r"in/run: .* unfinished run"):
        found(tmp_path / "in" / pattern)
    (tmp_path / "in/run/_SUCCESS").touch()
    assert found(tmp_path / "in" / pattern)


@pytest.mark.parametrize(
    ("pattern", "output", "refused"),
    [
        ("**/*.parquet", "in/out", True),
        ("**/*.parquet", "in", True),
        ("**", "in/deep/out", True),
        ("*", "in/out", True),
        ("*/*.parquet", "in/out", True),
        ("*/*.parquet", "in/deep/out", False),
        ("*.parquet", "in/out", False),
        ("*.parquet", "in", True),
        ("**/rows-*.parquet", "in/out", False),
        ("**/*.parquet", "in/_out", False),
        ("**/*.parquet", "out", False),
        ("**/*.parquet", "link/out", True),
    ],
)
def test_the_output_may_not_be_found_by_a_glob(
    tmp_path: Path, pattern: str, output: str, refused: bool
) -> None:
    write(tmp_path / "in/rows-1.parquet")
    write(tmp_path / "in/sub/rows-2.parquet")
    (tmp_path / "link").symlink_to(tmp_path / "in")
    dataset = Dataset.discover([str(tmp_path / "in" / pattern)])
    if not refused:
        dataset.refuse_output(tmp_path / output)
        return
    with pytest.raises(OutputError, match="expected a folder outside the input"):
        dataset.refuse_output(tmp_path / output)


def test_the_output_is_looked_for_by_the_names_of_its_parts() -> None:
    assert tuple(part_name(0, format) for format in FORMATS) == PARTS


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path) -> None:
    write(tmp_path / "in/a.parquet")
    write(tmp_path / "in/sub/b.parquet")
    listing = os.scandir

    def scandir(path: str) -> object:
        if path.endswith("sub"):
            raise PermissionError(13, "Permission denied", path)
        return listing(path)

    with (
        mock.patch("os.scandir", scandir),
        pytest.raises(InputError, match="in/sub: cannot be read: Permission denied; check"),
    ):
        found(tmp_path / "in")
