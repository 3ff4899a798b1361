"""--where: rows against an oracle in plain Python, row groups never skipped in vain, refusals."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from part_jobs import no_outputs

from pipeline.dataset import Dataset
from pipeline.fingerprint import fingerprint
from pipeline.reader import ShardReader
from pipeline.shards import plan_shards
from pipeline.where import FilterError, parse

SCHEMA = pa.schema(
    [
        ("i", pa.int32()),
        ("f", pa.float32()),
        ("s", pa.string()),
        ("b", pa.bool_()),
        ("d", pa.date32()),
    ]
)
Row = dict[str, Any]
Oracle = Callable[[Row], bool | None]

ROWS = st.fixed_dictionaries(
    {
        "i": st.none() | st.integers(-3, 3),
        "f": st.none() | st.sampled_from([-1.5, 0.0, 0.5, 2.0, math.nan]),
        "s": st.none() | st.sampled_from(["", "a", "ab", "b"]),
        "b": st.none() | st.booleans(),
        "d": st.none() | st.sampled_from([date(2024, 1, 1), date(2024, 2, 1)]),
    }
)
VALUES = {
    "i": st.integers(-4, 4) | st.sampled_from([-0.5, 2.5]),
    "f": st.sampled_from([-1.5, 0.0, 0.5, 1.0, 2, 3]),
    "s": st.sampled_from(["", "a", "aa", "c"]),
    "b": st.booleans(),
    "d": st.sampled_from(["2024-01-01", "2024-01-15", "2024-02-01"]),
}
TRUTH: dict[str, Callable[[Any, Any], bool]] = {
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
}


@st.composite
def comparisons(draw: st.DrawFn) -> tuple[str, Oracle]:
    name = draw(st.sampled_from(sorted(VALUES)))
    kind = draw(st.sampled_from([*TRUTH, "none", "in"]))
    if kind == "none":
        return f"{name} is None", lambda row: row[name] is None
    if kind == "in":
        values = draw(st.lists(VALUES[name], min_size=1, max_size=3))
        plain = [date.fromisoformat(v) if name == "d" else v for v in values]
        return (
            f"{name} in {values!r}",
            lambda row: None if row[name] is None else any(row[name] == v for v in plain),
        )
    value = draw(VALUES[name])
    right = date.fromisoformat(value) if name == "d" else value
    return (
        f"{name} {kind} {value!r}",
        lambda row: None if row[name] is None else TRUTH[kind](row[name], right),
    )


def both(a: bool | None, b: bool | None) -> bool | None:
    return False if False in (a, b) else None if None in (a, b) else True


def negated(a: bool | None) -> bool | None:
    return None if a is None else not a


def joined(parts: tuple[Any, str, Any]) -> tuple[str, Oracle]:
    (left, a), word, (right, b) = parts
    if word == "and":
        return f"({left}) and ({right})", lambda row: both(a(row), b(row))
    return f"({left}) or ({right})", lambda row: negated(both(negated(a(row)), negated(b(row))))


CONDITIONS = st.recursive(
    comparisons(),
    lambda inner: (
        st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(joined)
        | inner.map(lambda part: (f"not ({part[0]})", lambda row: negated(part[1](row))))
    ),
    max_leaves=4,
)


def write(path: Path, groups: list[list[Row]]) -> None:
    with pq.ParquetWriter(path, SCHEMA) as writer:
        for rows in groups:
            writer.write_table(pa.Table.from_pylist(rows, SCHEMA))


@settings(max_examples=100, deadline=None)
@given(CONDITIONS, st.lists(st.lists(ROWS, min_size=1, max_size=4), min_size=1, max_size=4))
def test_rows_are_those_of_the_oracle_and_no_row_group_is_skipped_in_vain(
    tmp_path_factory: pytest.TempPathFactory,
    condition: tuple[str, Oracle],
    groups: list[list[Row]],
) -> None:
    text, oracle = condition
    path = tmp_path_factory.mktemp("where") / "x.parquet"
    write(path, groups)
    where = parse(text)
    dataset = Dataset.discover([str(path)], where)
    expected = [
        number for number, row in enumerate(row for rows in groups for row in rows) if oracle(row)
    ]
    found: list[int] = []
    names: list[Any] = []
    for shard in plan_shards(dataset):
        with ShardReader(shard, ["s"], 3, where) as reader:
            for numbers, batch in reader.numbered():
                assert batch.schema.names == ["s"], "what only the filter looks at is left out"
                found += numbers
                names += batch["s"].to_pylist()
    assert found == expected
    rows = [row for group in groups for row in group]
    assert names == [rows[number]["s"] for number in expected]
    for group, rows in zip(dataset.files[0].row_groups, groups, strict=True):
        assert not (group.skipped and any(map(oracle, rows)))


@pytest.mark.parametrize(
    ("text", "skipped"),
    [
        ("i < 0", [False, True, True]),
        ("i >= 2 and s == 'a'", [True, True, True]),
        ("3 < i <= 5", [True, True, False]),
        ("not i < 4", [True, True, False]),
        ("i in [1, 2]", [True, False, True]),
        ("s is None", [True, True, False]),
        ("s is not None", [False, False, False]),
        ("f == 0.1", [False, True, True]),
        ("f != 0.1", [False, False, False]),
        ("d > '2024-01-31'", [True, False, True]),
        ("b", [False, True, True]),
        ("field('i') == i", [False, False, False]),
    ],
)
def test_statistics_rule_row_groups_out(tmp_path: Path, text: str, skipped: list[bool]) -> None:
    day = date(2024, 1, 1)
    groups = [
        [{"i": -1, "f": 0.1, "s": "a", "b": True, "d": day}],
        [{"i": 2, "f": 0.2, "s": "b", "b": False, "d": date(2024, 2, 1)}],
        [{"i": 4, "f": 0.3, "s": None, "b": False, "d": day}, {"i": 5, "s": "c", "b": False}],
    ]
    write(tmp_path / "x.parquet", groups)
    dataset = Dataset.discover([str(tmp_path)], parse(text))
    assert [g.skipped for f in dataset.files for g in f.row_groups] == skipped


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("i >", "invalid syntax"),
        ("i = 3", "invalid syntax"),
        ("i + 1 > 3", "neither a field nor a value"),
        ("__import__('os').system('true') == 0", "neither a field nor a value"),
        ("3 > 2", "has no field"),
        ("i == None", "write `is None`"),
        ("i in []", "a list that is empty"),
        ("i in other", r"`in` with something else"),
        ("'text'", "no condition"),
        ("(" * 500 + "i" + ")" * 500, "too many nested"),
    ],
)
def test_what_is_no_condition_is_told(text: str, said: str) -> None:
    with pytest.raises(FilterError, match=said):
        parse(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nothere > 3", "got 'nothere'; it has i, f, s, b, d"),
        ("s > 3", "s is string"),
        ("i == '3'", "i is int32"),
        ("b == 3", "b is bool"),
        ("i == 99999999999999999999", "too large"),
        ("d == '2024-13-01'", "'2024-13-01' is no date32"),
    ],
)
def test_what_does_not_fit_the_dataset_is_told(tmp_path: Path, text: str, said: str) -> None:
    write(tmp_path / "x.parquet", [[{"i": 1}]])
    with pytest.raises(FilterError, match=said):
        Dataset.discover([str(tmp_path)], parse(text))


def test_hashes_of_64_bits_are_numbers(tmp_path: Path) -> None:
    hashes = pa.array([1, 1 << 63, (1 << 64) - 1], pa.uint64())
    pq.write_table(pa.table({"h": hashes}), tmp_path / "x.parquet")
    where = parse(f"h >= {1 << 63} and h != {(1 << 64) - 1}")
    dataset = Dataset.discover([str(tmp_path)], where)
    batch = pa.record_batch({"h": hashes})
    assert where.fitted(batch.schema).mask(batch).to_pylist() == [False, True, False]
    assert not any(g.skipped for f in dataset.files for g in f.row_groups)


def test_views_of_strings_are_compared() -> None:
    batch = pa.record_batch({"s": pa.array(["a", None, "b"], pa.string_view())})
    where = parse("s in ['a', 'c'] or s is None").fitted(batch.schema)
    assert where.mask(batch).to_pylist() == [True, True, False]
    assert parse("s > 'a'").fitted(batch.schema).mask(batch).to_pylist() == [False, None, True]


def test_a_time_without_its_offset_is_told() -> None:
    schema = pa.schema([("t", pa.timestamp("us", "UTC"))])
    parse("t > '2024-01-01T00:05Z'").fitted(schema)
    with pytest.raises(FilterError, match="whose values end in an offset, such as Z"):
        parse("t > '2024-01-01 00:05'").fitted(schema)


def test_a_filter_is_part_of_a_run(tmp_path: Path) -> None:
    write(tmp_path / "x.parquet", [[{"i": 1}], [{"i": 2}]])
    prints = []
    for text in ("i>1", "i >  1", "i > 2", None):
        dataset = Dataset.discover([str(tmp_path)], parse(text) if text else None)
        prints.append(
            fingerprint(
                dataset, plan_shards(dataset), no_outputs(dataset), model_sha256="m", program="p",
                format="parquet", on_error="fail",
            )
        )  # fmt: skip
    assert prints[0] == prints[1]
    assert prints[0].differences(prints[2]) == ("where: the folder has i > 1, this run has i > 2",)
    assert len({p.digest for p in prints}) == 3


def test_files_without_statistics_are_read_and_filtered(tmp_path: Path) -> None:
    table = pa.Table.from_pylist([{"i": n, "s": "a"} for n in range(5)], SCHEMA)
    with pa.ipc.new_file(tmp_path / "x.arrow", SCHEMA) as writer:
        writer.write_table(table, max_chunksize=2)
    pq.write_table(table, tmp_path / "y.parquet", write_statistics=False)
    where = parse("i > 2")
    dataset = Dataset.discover([str(tmp_path)], where)
    assert not any(g.skipped for f in dataset.files for g in f.row_groups)
    for file in dataset.files:
        found: list[int] = []
        for shard in (s for s in plan_shards(dataset) if s.path == file.path):
            with ShardReader(shard, ["i"], 2, where) as reader:
                found += [n for numbers, _ in reader.numbered() for n in numbers]
        assert found == [3, 4]
