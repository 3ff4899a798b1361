from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pytest

from engine.graph import Value
from numa.placement import Place
from pipeline.binding import bind
from pipeline.dataset import Dataset
from pipeline.errors import BindingError, MemoryPlanError
from pipeline.footers import DataFile
from pipeline.plan import Plan, default_batch_rows, make_plan, price
from pipeline.row_groups import RowGroup, RowGroups

GIB = 1 << 30


@dataclass(frozen=True)
class Program:
    """The prices of a model, as engine.Program gives them."""

    fingerprint: str = "0123456789abcdef"
    held_nbytes: int = 40 << 20
    compiling_nbytes: int = 120 << 20

    def session_nbytes(
        self, threads: int, rows: int, tokens: int = 0, longest: int | None = None
    ) -> int:
        return 2 * self.held_nbytes + threads * (1 << 20) + rows * 64


X = Value("x", np.dtype(np.float32), ("N", 1024))
Y = Value("y", np.dtype(np.float32), ("N", 256))
SCHEMA = pa.schema([("id", pa.int64()), ("x", pa.list_(pa.float32(), 1024))])


def dataset(format: str = "parquet", groups: int = 5, rows: int = 2500) -> Dataset:
    held = RowGroups.of([RowGroup(rows, (8 * rows, 4096 * rows))] * groups)
    files = [DataFile(f"/in/rows-{i}.parquet", format, 40_000_000, 1, held) for i in range(8)]
    return Dataset(tuple(files), SCHEMA, ("/in",))


def plan(limit: int = 16 * GIB, engines: int = 2) -> Plan:
    return make_plan(
        dataset(),
        Program(),
        bind(SCHEMA, (X,), (Y,)),
        tuple(Place(i, i, (2 * i, 2 * i + 1)) for i in range(engines)),
        model="/models/mlp.onnx",
        output="/out",
        format="parquet",
        on_error="fail",
        memory_limit_nbytes=limit,
    )


def test_the_plan_prints_itself(golden: Callable[[str, str], None]) -> None:
    golden("plan", str(plan()))


def test_a_plan_that_does_not_fit_is_refused_with_numbers_and_advice(
    golden: Callable[[str, str], None],
) -> None:
    made = plan(engines=4)
    made.memory.check(made.memory.total)
    with pytest.raises(MemoryPlanError) as caught:
        made.memory.check(made.memory.driver + 3 * made.memory.engine, "machine b")
    golden("plan_refused", str(caught.value))
    with pytest.raises(MemoryPlanError, match="needs a larger machine"):
        replace(made.memory, reading=0, outputs=0, writing=0).check(1 << 20)


def test_smaller_batches_cost_less() -> None:
    bound = bind(SCHEMA, (X,), (Y,))

    def total(rows: int, format: str = "parquet") -> int:
        made = price(dataset(format), Program(), bound, engines=1, threads=2, batch_rows=rows)
        return made.total

    assert total(64) < total(512) < total(2500) == total(100_000), "a shard has 2500 rows"
    assert total(64, "arrow") >= total(64) + 2500 * 4096, "record batches are held whole"


def test_a_part_that_is_gathered_in_memory_is_priced() -> None:
    bound = bind(SCHEMA, (X,), (Y,))

    def writing(output: str) -> int:
        made = price(
            dataset(), Program(), bound, engines=1, threads=1, batch_rows=64, output=output
        )
        return made.writing

    part = 2500 * (8 + sum(o.row_nbytes for o in bound.outputs))
    assert writing("s3://bucket/out") == writing("/out") + 2 * part + (16 << 20)
    assert writing("file:///out") == writing("/out")


def test_a_program_that_takes_more_while_it_is_made_than_when_it_runs() -> None:
    """As where a normalisation goes into weights of which few are left."""
    bound = bind(SCHEMA, (X,), (Y,))
    small, large = (
        price(dataset(), program, bound, engines=1, threads=1, batch_rows=64)
        for program in (Program(), Program(compiling_nbytes=900 << 20))
    )
    assert small.weights == 2 * Program.held_nbytes
    assert large.weights + large.session == Program.held_nbytes + (900 << 20)
    assert large.driver - small.driver == 780 << 20


def test_the_driver_is_priced_where_it_is() -> None:
    bound = bind(SCHEMA, (X,), (Y,))
    far = price(dataset(), Program(), bound, engines=1, threads=1, batch_rows=64, driver=False)
    assert far.driver == 0 and far.total == far.engine


@pytest.mark.parametrize(
    ("width", "rows"), [(1, 4096), (256, 4096), (1024, 3264), (10**6, 64)]
)  # fmt: skip
def test_batches_are_some_megabytes(width: int, rows: int) -> None:
    x = Value("x", np.dtype(np.float32), ("N", width))
    schema = pa.schema([("x", pa.list_(pa.float32(), width))])
    groups = RowGroups.of([RowGroup(10, (40 * width,))])
    files = (DataFile("/in/a", "parquet", 1, 1, groups),)
    assert default_batch_rows(Dataset(files, schema, ()), bind(schema, (x,), (Y,))) == rows


def with_kept(nbytes: int, dictionary: int) -> Dataset:
    """A field `id` of so many bytes a row beside a dictionary, and x, in one row group."""
    group = RowGroup(10_000, (nbytes * 10_000, 40_960_000), (dictionary, 0))
    return Dataset((DataFile("/in/a", "parquet", 1, 1, RowGroups.of([group])),), SCHEMA, ())


def test_kept_fields_count_in_batches_and_bound() -> None:
    bound = bind(SCHEMA, (X,), (Y,))
    assert default_batch_rows(with_kept(8, 0), bound) == 3264
    assert default_batch_rows(with_kept(60_000, 0), bound) == 256

    def total(dictionary: int) -> int:
        data = with_kept(8, dictionary)
        return price(data, Program(), bound, engines=1, threads=1, batch_rows=256).total

    in_flight = 4 + 3 + 4 + 3  # read, being decoded, scored, and a value of that size written
    assert total(5 << 20) - total(1 << 20) == in_flight * (4 << 20)


def test_kept_fields_that_cannot_be_written_are_refused_before_the_start() -> None:
    odd = pa.dense_union([pa.field("a", pa.int8())])
    schema = SCHEMA.append(pa.field("odd", odd))
    with pytest.raises(BindingError, match="field 'odd'"):
        make_plan(
            Dataset(dataset().files, schema, ()),
            Program(),
            bind(schema, (X,), (Y,)),
            (Place(0, 0, (0,)),),
            model="m",
            output="/out",
            format="parquet",
            on_error="fail",
            memory_limit_nbytes=GIB,
        )
