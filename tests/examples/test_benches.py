"""The benches run to their end on little data. What they measure then means nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scripts.bench_models import check_agreement

ROOT = Path(__file__).resolve().parents[2]


def bench(*words: str) -> Any:
    """The JSON that a bench prints."""
    done = subprocess.run(
        [sys.executable, "-m", *words, "--json"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_whole_jobs_are_timed_and_their_outputs_compared(tmp_path: Path) -> None:
    figures = bench(
        "scripts.bench_job", "--rows", "200", "--repeats", "1", "--folder", str(tmp_path)
    )
    assert [f["name"] for f in figures] == ["colonnade", "plain"]
    for figure in figures:
        assert len(figure["all_seconds"]) == 1
        assert figure["rows_a_second"] == pytest.approx(200 / figure["all_seconds"][0])
        assert figure["peak_mb"] > 50
    assert len(list((tmp_path / "rows-200").glob("*.parquet"))) == 8
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_models_are_timed_beside_onnxruntime() -> None:
    words = "--sparsity 0.9 --batch 16 --cores 1 --rounds 1 --seconds 0.01"
    (figure,) = bench("scripts.bench_models", *words.split())
    assert (figure["sparsity"], figure["batch"], figure["cores"]) == (0.9, 16, 1)
    assert figure["ratio"] == pytest.approx(figure["colonnade"] / figure["onnxruntime"])


def test_outputs_that_differ_end_the_bench() -> None:
    y = np.linspace(-1, 1, 64, dtype=np.float32)
    check_agreement(y, y + np.float32(1e-5))
    with pytest.raises(SystemExit, match="outputs differ"):
        check_agreement(y + np.float32(0.01), y)
    with pytest.raises(SystemExit, match="outputs differ"):
        check_agreement(np.full(64, np.nan, np.float32), y)
