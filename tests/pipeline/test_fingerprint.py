from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pipeline.fingerprint import Fingerprint

BASE = Fingerprint(
    model_sha256="m",
    program="p",
    files={"/in/a": (10, 1), "/in/b": (20, 2)},
    schema="id: int64",
    binding="x=id",
    keep="id",
    outputs="y: float32[]",
    format="parquet",
    on_error="fail",
    shards="s",
)


@pytest.mark.parametrize("name", BASE.__slots__)
def test_every_field_changes_the_digest_and_is_named(name: str) -> None:
    changed: Any = {"/in/a": (10, 1)} if name == "files" else "other"
    other = replace(BASE, **{name: changed})
    assert other.digest != BASE.digest
    (line,) = BASE.differences(other)
    assert line.startswith("input /in/b" if name == "files" else f"{name}: ")
    hashed = name in ("model_sha256", "program", "shards", "tokenizer")
    assert ("the folder has " in line) is (not hashed and name != "files"), "hashes say nothing"


def test_what_follows_from_a_difference_is_left_out() -> None:
    (line,) = BASE.differences(replace(BASE, model_sha256="n", program="q"))
    assert line.startswith("model_sha256: the folder was made with another model")
    (line,) = BASE.differences(replace(BASE, outputs="z: float32[]", program="q"))
    assert line == "outputs: the folder has y: float32[], this run has z: float32[]"
    (line,) = BASE.differences(replace(BASE, files={"/in/a": (10, 1)}, shards="t"))
    assert line.startswith("input /in/b")


def test_nothing_is_called_none() -> None:
    (line,) = replace(BASE, keep="").differences(replace(BASE, keep="id"))
    assert line == "keep: the folder has none, this run has id"


def test_equal_fingerprints_have_no_differences() -> None:
    same = replace(BASE, files=dict(reversed(BASE.files.items())))
    assert same.digest == BASE.digest
    assert BASE.differences(same) == ()


def test_differing_inputs_are_named_one_by_one() -> None:
    other = replace(BASE, files={"/in/a": (11, 1), "/in/c": (20, 2)})
    assert BASE.differences(other) == (
        "input /in/b: the folder was made with it, this run is without",
        "input /in/c: the folder was made without it",
        "input /in/a: size differs from when the folder was made",
    )


def test_many_differing_inputs_are_counted() -> None:
    other = replace(BASE, files={f"/in/{i}": (1, 1) for i in range(10)})
    lines = BASE.differences(other)
    assert len(lines) == 6
    assert lines[-1] == "and 7 more inputs"
