"""A short soak (scripts/soak.py runs a long one), and that its check tells bad from good."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import pytest

from scripts.soak import HUNG, ROOT, Event, Job, broken, counted, faults, make, soak

SECONDS = 12.0


@pytest.mark.slow
def test_every_row_once_after_any_kills(tmp_path: Path) -> None:
    seed = random.randrange(1000)
    job = Job(tmp_path, groups=10, pause=(0.3, 1.2), patience=60.0)
    make(job)
    quiet = tmp_path / "quiet"
    subprocess.run(job.words(quiet), cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    history = soak(job, SECONDS, seed)
    print(f"seed {seed}: {counted(history)}")  # shown when the test fails
    assert not broken(job, history, quiet)


def lent(index: int) -> Event:
    return {"event": "ShardLent", "lease": {"shard": {"index": index}}}


def committed(index: int) -> Event:
    return {"event": "PartCommitted", "shard": index}


def begun(*finals: int) -> Event:
    return {"event": "Life", "number": 0, "finals": list(finals)}


def ended(code: int | str) -> Event:
    return {"event": "Death", "number": 0, "code": code}


GOOD = [
    begun(),
    lent(0),
    lent(1),
    lent(1),
    committed(0),
    ended(-9),
    begun(0),
    lent(1),
    committed(1),
]


@pytest.mark.parametrize(
    ("history", "fault"),
    [
        ([*GOOD, ended(0)], ""),
        ([*GOOD, lent(1), ended(0)], "shard 1: lent after it was committed"),
        ([*GOOD, begun(0, 1, 2), lent(2)], "shard 2: lent after it was committed"),
        ([*GOOD, committed(0)], "shard 0: committed 2 times"),
        ([*GOOD, begun(1)], "shard 0: its part is gone again"),
        ([*GOOD, ended(1)], "life 0: ended with 1"),
        ([*GOOD, ended(HUNG)], "life 0: ended with hung"),
    ],
)
def test_the_check_tells_bad_histories_from_good(history: list[Event], fault: str) -> None:
    assert faults(history) == ([fault] if fault else [])
