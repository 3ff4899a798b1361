"""A job that is looked at, and interfered with, while it runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil
from small_job import ROOT, TIMEOUT, Result


class Watched:
    """The command in a process of its own, what it prints in files; killed after the block.

    Its scorers stop themselves at the second batch if `gated`, until `open_gate`: so a test can
    do what it wants to a job in mid-shard, on a machine of any speed.
    """

    def __init__(
        self, folder: Path, *arguments: str, gated: bool = False, env: Mapping[str, str] = {}
    ) -> None:
        self._stdout, self._stderr = folder / "stdout", folder / "stderr"
        gate = {"COLONNADE_FAILPOINT": "before_run:2=stop"} if gated else {}
        with self._stdout.open("w") as stdout, self._stderr.open("w") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "jobs.cli", *arguments],
                cwd=ROOT, env={**os.environ, **gate, **env}, stdout=stdout, stderr=stderr,
            )  # fmt: skip

    def __enter__(self) -> Watched:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.process.kill()
        self.process.wait()

    @property
    def seen(self) -> Result:
        """What it has printed so far; a line that is not whole is left out."""
        text = self._stdout.read_text()
        code = self.process.returncode
        return Result(
            -1 if code is None else code,
            text[: text.rfind("\n") + 1],
            self._stderr.read_text(),
        )

    def wait_for(self, name: str, count: int = 1) -> list[dict[str, Any]]:
        """The events of that name, once there are so many."""
        until = time.monotonic() + TIMEOUT
        while len(found := self.seen.events(name)) < count:
            assert self.process.poll() is None, self.seen
            assert time.monotonic() < until, f"{count} of {name} did not come: {self.seen}"
            time.sleep(0.05)
        return found

    def finish(self) -> Result:
        self.process.wait(TIMEOUT)
        return self.seen

    def pid(self, scorer: int) -> int:
        """Process id of a scorer, by what it said when it was ready for the first time."""
        ready = self.wait_for("ScorerReady")
        return int(next(e["report"]["pid"] for e in ready if e["scorer"] == scorer))

    def wait_at_gate(self, scorer: int) -> None:
        process = psutil.Process(self.pid(scorer))
        until = time.monotonic() + TIMEOUT
        while process.status() != psutil.STATUS_STOPPED:
            assert time.monotonic() < until, f"scorer {scorer} does not stop"
            time.sleep(0.02)

    def open_gate(self, scorer: int) -> None:
        os.kill(self.pid(scorer), signal.SIGCONT)
