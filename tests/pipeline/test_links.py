"""A later stage whose process does not start, or ends at once."""

from __future__ import annotations

import errno
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from numa import launch
from pipeline import links
from pipeline.errors import StageLost
from pipeline.links import Link
from pipeline.stage_spec import StageSpec

SPEC = StageSpec("m.onnx", "", 1, ("a", "b"), "program", {}, {}, cpus=(0,), node=0)


def opened() -> set[str]:
    """What this process has open, without what looking opens."""
    handles = [path for path in Path("/proc/self/fd").iterdir() if path.exists()]
    return {f"{path.name} {path.readlink()}" for path in handles}


class Refused(subprocess.Popen[Any]):
    def __init__(self, *words: Any, **options: Any) -> None:
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")


class Over(subprocess.Popen[Any]):
    """Has ended when whoever started it goes on."""

    def __init__(self, *words: Any, **options: Any) -> None:
        super().__init__(*words, **options)
        self.wait()


@pytest.mark.parametrize(
    ("started", "error", "said"),
    [(Refused, OSError, "temporarily unavailable"), (Over, StageLost, "ended with exit code 3")],
)
def test_nothing_stays_open_of_a_process_that_does_not_start(
    monkeypatch: pytest.MonkeyPatch, started: type, error: type[Exception], said: str
) -> None:
    monkeypatch.setattr(launch, "command", lambda place: ["sh", "-c", "exit 3", "sh"])
    monkeypatch.setattr(subprocess, "Popen", started)
    before = opened()
    with pytest.raises(error, match=said):
        Link(SPEC)
    assert opened() == before


def test_a_process_that_ends_by_itself_says_how(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its socket closes before it has ended; killed at once, it would have ended by signal 9."""
    code = "import os, sys, time; os.close(int(sys.argv[-3])); time.sleep(0.2); sys.exit(3)"
    monkeypatch.setattr(launch, "command", lambda place: [sys.executable, "-c", code])
    monkeypatch.setattr(links, "_GRACE_SECONDS", 60.0)
    with pytest.raises(StageLost, match="ended with exit code 3"), closing(Link(SPEC)) as link:
        link.ready()
