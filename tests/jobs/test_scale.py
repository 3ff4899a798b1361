"""What a shard costs the driver does not grow with their number, nor its memory with rows."""

from __future__ import annotations

import cProfile
import pstats
import tracemalloc
from pathlib import Path
from unittest.mock import Mock, patch

import pytest

from pipeline.fingerprint import Fingerprint
from pipeline.price import SHARD_NBYTES
from scripts.bench_scale import measure, resume

FEW, MANY = 100, 400


@pytest.fixture(scope="module", autouse=True)
def warm(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Imports are no work of the job."""
    measure(tmp_path_factory.mktemp("warm"), 20, 10)


def calls(folder: Path, shards: int) -> int:
    """Functions called by a whole job, executor and all."""
    folder.mkdir()
    profile = cProfile.Profile()
    profile.runcall(measure, folder, shards, 1000)
    return int(pstats.Stats(profile).total_calls)  # type: ignore[attr-defined]


def held(folder: Path, shards: int, rows: int) -> int:
    """Bytes that Python held at most."""
    folder.mkdir()
    tracemalloc.start()
    try:
        measure(folder, shards, rows)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_work_grows_with_shards_and_no_faster(tmp_path: Path) -> None:
    few, many, more = (calls(tmp_path / f"{n}", n) for n in (FEW, MANY, 2 * MANY))
    once = (MANY * few - FEW * many) / (MANY - FEW)  # what a job of no shards would call
    assert more - once < 1.1 * 2 * (many - once), "twice the shards, twice the calls"
    assert (many - few) / (MANY - FEW) < 1000, "a shard: 735 calls when this was written"


def test_memory_grows_with_shards_as_priced_and_not_with_rows(tmp_path: Path) -> None:
    few, many = (held(tmp_path / f"{n}", n, 1000) for n in (FEW, MANY))
    assert (many - few) / (MANY - FEW) < SHARD_NBYTES
    assert abs(held(tmp_path / "rows", MANY, 64_000) - many) < 128 << 10


def test_a_resume_holds_what_is_priced_and_looks_at_footers_some_at_a_time(tmp_path: Path) -> None:
    def resumed(shards: int) -> int:
        folder = tmp_path / f"{shards}"
        folder.mkdir()
        measure(folder, shards, 1000)
        tracemalloc.start()
        try:
            resume(folder, shards, 1000)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    with patch("pipeline.resume.SURVEYED", 16):
        few, many = (resumed(n) for n in (FEW, MANY))
    assert (many - few) / (MANY - FEW) < SHARD_NBYTES


def test_a_resume_hashes_the_run_a_few_times_and_not_for_each_part(tmp_path: Path) -> None:
    """Its fingerprint names every file: once a part would be files times parts."""
    measure(tmp_path, FEW, 1000)
    hashed = Mock(wraps=Fingerprint.digest.fget)
    with patch.object(Fingerprint, "digest", property(lambda run: hashed(run))):
        resume(tmp_path, FEW, 1000)
    assert 0 < hashed.call_count < 10
