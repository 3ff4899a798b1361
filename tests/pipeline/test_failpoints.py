from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import failpoints
from pipeline.failpoints import FailpointError, reach


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    failpoints._reached.clear()


def test_nothing_happens_without_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(failpoints.VARIABLE, raising=False)
    for name in failpoints.NAMES:
        reach(name)


def test_only_the_nth_time_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(failpoints.VARIABLE, "after_run:3=raise")
    reach("after_run")
    reach("before_run")
    reach("after_run")
    with pytest.raises(FailpointError, match="after_run"):
        reach("after_run")
    reach("after_run")


def test_a_wrong_name_or_action_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(failpoints.VARIABLE, "after_lunch")
    with pytest.raises(FailpointError, match="expected one of before_read"):
        reach("before_read")
    monkeypatch.setenv(failpoints.VARIABLE, "before_read=explode")
    with pytest.raises(FailpointError, match="expected kill, crash, raise or stop"):
        reach("before_read")


def test_it_kills_one_process_only(tmp_path: Path) -> None:
    code = "from pipeline.failpoints import reach; reach('before_fsync')"
    env = {
        failpoints.VARIABLE: "before_fsync",
        failpoints.ONCE: str(tmp_path / "once"),
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    codes = [subprocess.run([sys.executable, "-c", code], env=env).returncode for _ in range(2)]
    assert codes == [-signal.SIGKILL, 0]
