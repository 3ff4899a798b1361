"""Kill something every half second, at random, until the time is up; then let the job end.

Every event of the scorers is a record; afterwards none may be lost and none doubled.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from pathlib import Path

import psutil
import pytest
import small_job
from small_job import SHARDS, Result, words

CHAOS_SECONDS = 12.0
MAY_END_WITH = {0, 3, 4, 130, 143, -signal.SIGKILL, -signal.SIGINT, -signal.SIGTERM}
"""-2 and -15: the signal came before the command had its handlers. Not sooner than 0.3 s after its
start, though: in its first milliseconds Python itself ends with 1."""


def strike(driver: psutil.Process, dice: random.Random) -> None:
    """One misfortune: a signal for the driver, a scorer killed, or a scorer frozen."""
    with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
        scorers = driver.children()
        if dice.random() < 0.3:
            driver.send_signal(dice.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT]))
        elif scorers:
            victim = dice.choice(scorers)
            os.kill(victim.pid, dice.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGSTOP]))


@pytest.mark.slow
def test_every_row_once_after_any_kills(tmp_path: Path) -> None:
    seed = random.randrange(1000)
    print(f"seed {seed}")  # shown when the test fails
    dice = random.Random(seed)
    source = small_job.write(tmp_path)
    output = tmp_path / "out"
    # One row at a time, so that the job is long enough to be struck in the middle.
    arguments = words(source, output, "--batch-rows", "1", "--stall-seconds", "5")
    until = time.monotonic() + CHAOS_SECONDS
    lent: list[int] = []
    for _ in range(100):
        before = small_job.finals(output)
        with small_job.popen(*arguments) as process:
            driver = psutil.Process(process.pid)
            while process.poll() is None and time.monotonic() < until:
                time.sleep(dice.uniform(0.3, 1.2))
                strike(driver, dice)
            run = small_job.finish(process)
        assert run.code in MAY_END_WITH, (run.code, run.stderr)
        whole = run.stdout[: run.stdout.rfind("\n") + 1]  # a killed driver may tear its last line
        lent = Result(run.code, whole, "").lent
        assert not before & set(lent), "a committed shard was computed again"
        if run.code == 0 and time.monotonic() > until:
            break
    assert run.code == 0, run.stderr
    small_job.check_exactly_once(source, output)
    assert len(small_job.finals(output)) == SHARDS
