from __future__ import annotations

from itertools import groupby

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.bound import Binding, FieldBinding, Lengths
from pipeline.dataset import Dataset
from pipeline.footers import DataFile
from pipeline.row_groups import RowGroup, RowGroups
from pipeline.shards import MIN_SHARDS, TARGET_NBYTES, plan_shards
from pipeline.sizes import row_nbytes, token_counts

row_groups = st.lists(
    st.builds(lambda rows, width: RowGroup(rows, (rows * width,)),
              st.integers(0, 10**6), st.integers(1, 4096)),
    max_size=20,
)  # fmt: skip


def dataset(files: list[list[RowGroup]]) -> Dataset:
    made = tuple(
        DataFile(f"/in/{i:03d}.parquet", "parquet", 100 + i, 5, RowGroups.of(groups))
        for i, groups in enumerate(files)
    )
    return Dataset(made, pa.schema({"x": pa.int64()}), ())


@settings(max_examples=40, deadline=None)
@given(st.lists(row_groups, min_size=1, max_size=8))
def test_every_row_group_is_in_exactly_one_shard_in_order(files: list[list[RowGroup]]) -> None:
    shards = plan_shards(dataset(files))
    assert [s.index for s in shards] == list(range(len(shards)))
    for i, groups in enumerate(files):
        own = [s for s in shards if s.path == f"/in/{i:03d}.parquet"]
        assert [g for s in own for g in s.row_groups] == list(range(len(groups)))
        assert own, "a file without rows has a shard too"
        row = 0
        for shard in own:
            assert shard.first_row == row
            assert shard.rows == sum(groups[g].rows for g in shard.row_groups)
            assert shard.nbytes == sum(groups[g].nbytes for g in shard.row_groups)
            row += shard.rows


@settings(max_examples=40, deadline=None)
@given(st.lists(row_groups, min_size=1, max_size=8))
def test_only_a_single_row_group_goes_far_over_the_target(files: list[list[RowGroup]]) -> None:
    total = sum(g.nbytes for groups in files for g in groups)
    target = max(1, min(TARGET_NBYTES, total // MIN_SHARDS))
    for shard in plan_shards(dataset(files)):
        assert len(shard.row_groups) <= 1 or shard.nbytes <= 2 * target


def test_small_datasets_are_cut_into_about_64_shards() -> None:
    groups = [RowGroup(1000, (4_000_000,)) for _ in range(500)]
    shards = plan_shards(dataset([groups[:250], groups[250:]]))
    assert MIN_SHARDS <= len(shards) <= 1.3 * MIN_SHARDS


def test_large_datasets_are_cut_into_shards_of_about_64_mb() -> None:
    groups = [RowGroup(1000, (8 << 20,)) for _ in range(2000)]
    shards = plan_shards(dataset([groups]))
    assert {s.nbytes for s in shards} == {TARGET_NBYTES}


def test_a_file_without_row_groups_yields_an_empty_shard() -> None:
    (shard,) = plan_shards(dataset([[]]))
    assert (shard.row_groups, shard.rows, shard.first_row) == ((), 0, 0)
    assert str(shard) == "shard 0: /in/000.parquet rows 0:0"


@given(st.integers(0, 5), st.integers(0, 4), st.data())
def test_row_groups_come_back_as_they_were(count: int, fields: int, data: st.DataObject) -> None:
    of_fields = st.tuples(*[st.integers(0, 2**40)] * fields)
    group = st.builds(
        RowGroup, st.integers(0, 2**40), of_fields, of_fields, of_fields, st.booleans()
    )
    groups = data.draw(st.lists(group, min_size=count, max_size=count))
    held = RowGroups.of(groups)
    assert list(held) == groups == [held[n] for n in range(len(held))]
    assert held.nbytes.tolist() == [g.nbytes for g in groups]
    assert held.read_nbytes.tolist() == [0 if g.skipped else g.nbytes for g in groups]
    assert held.skipped_in(1, 2) == tuple(
        n for n, g in enumerate(groups) if g.skipped and n in (1, 2)
    )


@settings(max_examples=40, deadline=None)
@given(st.lists(row_groups, min_size=1, max_size=8), st.sets(st.integers(0, 30)))
def test_some_of_the_shards(files: list[list[RowGroup]], done: set[int]) -> None:
    shards = plan_shards(dataset(files))
    left = shards.without(done)
    assert list(left) == [s for s in shards if s.index not in done]
    assert [left[n] for n in range(len(left))] == list(left) == list(left[:])
    assert left.most_rows == max((s.rows for s in left), default=0)
    found = [(file.path, len(own)) for file, own in left.by_file()]
    assert found == [(path, len([*same])) for path, same in groupby(left, lambda s: s.path)]


@settings(max_examples=40, deadline=None)
@given(st.lists(row_groups, min_size=1, max_size=8))
def test_sizes_of_rows_and_of_lists(files: list[list[RowGroup]]) -> None:
    """As by plain loops. Each element of a field counts as a token here."""
    of_all = dataset(files)
    groups = [g for groups in files for g in groups if g.rows]
    assert row_nbytes(of_all, ("x",)) == max((-(-g.nbytes // g.rows) for g in groups), default=0)
    field = FieldBinding("x", "x", "list", "int64", (), False, "", tokens=True)
    binding = Binding((field,), (), (), lengths=Lengths(10**12, False))
    counts = token_counts(of_all, binding)
    assert counts is not None
    totals = (
        sum(files[int(s.path[4:7])][g].nbytes for g in s.row_groups) for s in plan_shards(of_all)
    )
    assert counts.shard == max(totals)
    assert counts.longest == max((g.nbytes for groups in files for g in groups), default=0)
    assert counts.mean == max((-(-g.nbytes // g.rows) for g in groups), default=0)
