"""Claims: one holder a CPU, given back by closing and by death, however it comes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from numa.claims import FOLDER, claim
from numa.errors import NumaError
from numa.placement import Place

ROOT = Path(__file__).resolve().parents[2]
FIRST, SECOND = Place(0, 0, (0, 1)), Place(1, 1, (2, 3))
BOTH = Place(0, 0, (0, 1, 2, 3))


def test_each_gets_a_place_of_its_own(tmp_path: Path) -> None:
    with claim([FIRST, SECOND], tmp_path) as one, claim([FIRST, SECOND], tmp_path) as two:
        assert (one.place, two.place) == (FIRST, SECOND)
        with pytest.raises(NumaError, match="CPUs 0-1 and 2-3, each held by another process"):
            claim([FIRST, SECOND], tmp_path)
        one.close()
        with claim([FIRST, SECOND], tmp_path) as again:
            assert again.place == FIRST


def test_places_that_overlap_are_not_free(tmp_path: Path) -> None:
    with claim([SECOND], tmp_path):
        with pytest.raises(NumaError, match="CPUs 0-3"):
            claim([BOTH], tmp_path)
        with claim([FIRST], tmp_path) as free:  # the failed claim has kept nothing
            assert free.place == FIRST


HOLD = """
import sys, time
from pathlib import Path
from numa.claims import claim
from numa.placement import Place
claim([Place(0, 0, (0, 1))], Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def test_death_gives_a_place_back(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None and holder.stdout.readline() == "held\n"
            with pytest.raises(NumaError, match="held by another process"):
                claim([FIRST], tmp_path)
            os.kill(holder.pid, signal.SIGKILL)
            holder.wait()
            deadline = time.monotonic() + 60
            while True:
                try:
                    claim([FIRST], tmp_path).close()
                    break
                except NumaError:
                    assert time.monotonic() < deadline
                    time.sleep(0.01)
        finally:
            holder.kill()


def test_patience_waits_for_a_holder_that_ends(tmp_path: Path) -> None:
    held = claim([FIRST], tmp_path)
    ending = threading.Timer(0.2, held.close)
    ending.start()
    try:
        with claim([FIRST], tmp_path, patience=60.0) as free:
            assert free.place == FIRST
            assert not held._handles, "given back before it was taken"
    finally:
        ending.join()


def test_children_do_not_keep_it(tmp_path: Path) -> None:
    """A process that the holder started may outlive it, and has no part in the claim."""
    with claim([FIRST], tmp_path):
        child = subprocess.Popen(["sleep", "60"])
    try:
        claim([FIRST], tmp_path).close()
    finally:
        child.kill()
        child.wait()


def test_the_folder_is_the_users_and_can_be_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path / "locks"))
    with claim([FIRST]):
        assert (tmp_path / "locks" / "cpu-0").exists()
        assert (tmp_path / "locks").stat().st_mode & 0o077 == 0
    (tmp_path / "locks" / "cpu-2").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic link"):
        claim([SECOND])
