"""Hooks: imported from the working folder, checked for rows and fields, named where they fail."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.hooks import AFTER, BEFORE, Hook, HookError, LoadedHook
from pipeline.shards import Shard

SHARD = Shard(3, "/in/a.parquet", "parquet", (0,), 2, 10, 40, 100, 1)
BATCH = pa.record_batch({"a": [1, 2], "b": ["x", "y"]})
HOOKS = """
import pyarrow as pa

FACTOR = 1

def double(batch):
    a = pa.compute.multiply(batch["a"], 2)
    return batch.append_column("twice", a)

def fails(batch):
    return batch.select(["gone"])

def drops(batch):
    return batch.slice(1)

def table(batch):
    return pa.Table.from_batches([batch])

def by_rows(batch):
    return batch.append_column("n", pa.array([batch.num_rows] * batch.num_rows) if batch.num_rows
                               else pa.array([], pa.float32()))

def twice(batch):
    return batch.append_column("a", batch["a"])

def ends(batch):
    raise SystemExit(3)

def stops(batch):
    raise KeyboardInterrupt

def strict(batch):
    fields = [f.with_nullable(not batch.num_rows) for f in batch.schema]
    return pa.RecordBatch.from_arrays(batch.columns, schema=pa.schema(fields))

number = 3
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with the module `own_hooks`."""
    (tmp_path / "own_hooks.py").write_text("import pyarrow.compute\n" + HOOKS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "own_hooks", raising=False)
    return tmp_path


def loaded(name: str, option: str = BEFORE) -> LoadedHook:
    hook = Hook.of(option, name)
    assert hook is not None
    return hook.load()


def over(hook: LoadedHook, batch: pa.RecordBatch = BATCH) -> list[Any]:
    return list(hook.over(batch, BATCH.schema, SHARD))


def test_a_hook_is_found_in_the_working_folder(folder: Path) -> None:
    hook = loaded("own_hooks:double")
    assert hook.schema_of(BATCH.schema).names == ["a", "b", "twice"]
    (made,) = over(hook)
    assert made["twice"].to_pylist() == [2, 4]
    assert Hook.of(AFTER, None) is None


def test_dictionaries_are_decoded_for_it(folder: Path) -> None:
    coded = pa.record_batch({"a": BATCH["a"], "b": BATCH["b"].dictionary_encode()})
    (made,) = over(loaded("own_hooks:double"), coded)
    assert made["b"].type == pa.string() and made["b"].to_pylist() == ["x", "y"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("drops", r"rows 40:42: expected 2 rows, got 1; a hook gives a row for each"),
        ("by_rows", r"rows 40:42: expected a: int64, b: string, n: float, as for a batch of no"),
        ("strict", r"rows 40:42: .* got a: int64 not null, b: string not null; give the same"),
    ],
)
def test_what_it_gives_is_checked_and_named_with_file_and_shard(
    folder: Path, name: str, message: str
) -> None:
    with pytest.raises(
        HookError, match=rf"^--before own_hooks:{name}: shard 3: /in/a.parquet {message}"
    ):
        over(loaded(f"own_hooks:{name}"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fails", r"on a batch of no rows, .*KeyError: .*gone.* \(own_hooks\.py:12\)"),
        ("table", "on a batch of no rows, .* expected a pyarrow.RecordBatch, got Table"),
        ("twice", "expected each field once, got a twice"),
        ("ends", r"on a batch of no rows, .*SystemExit: 3 \(own_hooks\.py:\d+\)"),
    ],
)
def test_what_fails_on_an_empty_batch_is_refused_before_the_start(
    folder: Path, name: str, message: str
) -> None:
    with pytest.raises(HookError, match=f"^--after own_hooks:{name}: {message}"):
        loaded(f"own_hooks:{name}", AFTER).schema_of(BATCH.schema)


def test_an_interrupt_is_the_users_in_the_main_thread_and_the_hooks_own_in_others(
    folder: Path,
) -> None:
    hook = loaded("own_hooks:stops")
    with pytest.raises(KeyboardInterrupt):
        hook.schema_of(BATCH.schema)
    with (
        ThreadPoolExecutor() as pool,
        pytest.raises(HookError, match=r"KeyboardInterrupt:  \(own_hooks\.py:\d+\)"),
    ):
        pool.submit(hook.schema_of, BATCH.schema).result()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own_hooks", "--before: expected MODULE:FUNCTION, got 'own_hooks'"),
        (":f", "--before: expected MODULE:FUNCTION, got ':f'"),
        ("nowhere_to_be_found:f", "cannot be imported: ModuleNotFoundError.* looked for in /"),
        ("broken_hooks:f", r"cannot be imported: ZeroDivisionError.*\(broken_hooks\.py:1\)"),
        ("ending_hooks:f", r"cannot be imported: SystemExit: 1 \(ending_hooks\.py:1\)"),
        ("own_hooks:gone", "expected a function 'gone', got none of that name"),
        ("own_hooks:number", "expected a function 'number', got none of that name"),
    ],
)
def test_what_cannot_be_imported_is_named(folder: Path, name: str, message: str) -> None:
    (folder / "broken_hooks.py").write_text("1 / 0\n")
    (folder / "ending_hooks.py").write_text("raise SystemExit(1)\n")
    with pytest.raises(HookError, match=message):
        Hook.of(BEFORE, name)


def test_another_source_is_another_hook(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hook = Hook.of(BEFORE, "own_hooks:double")
    assert hook is not None and len(hook.sha256) == 64
    path = folder / "own_hooks.py"
    path.write_text(path.read_text().replace("FACTOR = 1", "FACTOR = 2"))
    assert Hook.of(BEFORE, "own_hooks:double") != hook
    with pytest.raises(HookError, match="expected the source that was planned, got another in"):
        hook.load()
