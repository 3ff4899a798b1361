"""The digits through whole jobs: onnxruntime's labels and logits, the same bytes with two threads.

That Ray gives the same bytes is in tests/cluster/test_faults.py, where there is a cluster.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import psutil
import pyarrow.dataset as ds
import pytest
from here import driven
from small_job import ROOT
from small_models import onnxruntime_session

DIGITS = ROOT / "examples" / "digits"
MODEL = DIGITS / "digits-mlp-s90.onnx"


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output of the local executor with one thread."""
    return scored(tmp_path_factory.mktemp("digits") / "local", "--threads", "1")


def scored(output: Path, *more: str) -> Path:
    run = driven(
        "run", "--model", str(MODEL), "--input", str(DIGITS / "data"), "--output", str(output),
        "--progress", "json", "--keep", "id,image", "--engines", "1", *more,
    )  # fmt: skip
    assert run.code == 0, run.stderr
    return output


def same_bytes(one: Path, other: Path) -> None:
    names = sorted(p.name for p in one.glob("part-*"))
    assert names == sorted(p.name for p in other.glob("part-*")) and len(names) > 5
    for name in names:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def test_equals_onnxruntime(reference: Path) -> None:
    table = ds.dataset(reference).to_table().combine_chunks()
    images = table["image"].combine_chunks().to_numpy_ndarray()
    logits = table["logits"].combine_chunks().flatten().to_numpy().reshape(len(table), 10)
    theirs = onnxruntime_session(MODEL)
    expected = theirs.run(None, {"image": images})[0]
    assert len(table) == 5000 and sorted(table["id"].to_pylist()) == list(range(5000))
    np.testing.assert_allclose(logits, expected, atol=1e-4, rtol=1e-4)
    assert (logits.argmax(axis=1) == expected.argmax(axis=1)).all(), "every label"


def test_two_threads_write_the_same_bytes(reference: Path, tmp_path: Path) -> None:
    if (psutil.cpu_count(logical=False) or 1) < 2:
        pytest.skip("two threads need two cores")
    same_bytes(reference, scored(tmp_path / "two", "--threads", "2", "--batch-rows", "100"))
