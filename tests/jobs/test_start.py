"""What changes between the plan and the first lease."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import small_job
from click.testing import CliRunner
from small_job import words

from jobs.cli import main
from jobs.executors.local import LocalExecutor
from pipeline.scorer_spec import ScorerSpec


@pytest.mark.parametrize("there", [True, False])
def test_model_replaced_during_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    source = small_job.write(tmp_path)
    start, restarted = LocalExecutor.start, []

    def replaced(self: LocalExecutor, specs: Sequence[ScorerSpec]) -> None:
        source.model.unlink()
        if there:
            w = np.ones((8, 4), np.float32)
            small_job.write_model(source.model, w, np.ones((4, 4), np.float32))
        start(self, specs)

    monkeypatch.setattr(LocalExecutor, "start", replaced)
    monkeypatch.setattr(LocalExecutor, "restart", lambda self, n: restarted.append(n))
    result = CliRunner().invoke(main, words(source, tmp_path / "out"))
    assert result.exit_code == 1, result.stderr
    assert "small.onnx: expected the model that was planned" in result.stderr
    assert not restarted, "at once"
