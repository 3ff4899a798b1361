"""The ledger gives back what was put in, in little memory."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.checksums import ALGORITHMS
from pipeline.ledger import Ledger
from pipeline.records import ManifestEntry
from pipeline.shards import Shard

SHARDS = tuple(
    Shard(i, f"/in/{i // 4}.parquet", "parquet", (i % 4,), 10, 100, i % 4 * 10, 400, 7)
    for i in range(2000)
)
HASHES = st.sampled_from(sorted(ALGORITHMS)).flatmap(
    lambda name: st.binary(min_size=ALGORITHMS[name].nbytes, max_size=ALGORITHMS[name].nbytes).map(
        lambda digest: f"{name}:{digest.hex()}"
    )
)
COUNTS = st.integers(0, 2**62)


def entry(index: int, checksum: str = f"xxh3-128:{'0f' * 16}") -> ManifestEntry:
    shard = SHARDS[index]
    return ManifestEntry(
        index, f"part-{index:06d}.parquet", shard.path, shard.first_row, 10, 10, 0, 99, checksum,
        "", 0, "",
    )  # fmt: skip


@given(COUNTS, COUNTS, COUNTS, COUNTS, HASHES, st.none() | st.tuples(COUNTS, HASHES))
def test_an_entry_comes_back_as_it_was(
    rows_in: int, rows_out: int, count: int, nbytes: int, hash: str, rejects: tuple[int, str] | None
) -> None:
    put = replace(entry(3, hash), rows_in=rows_in, rows_out=rows_out, rejects=count, nbytes=nbytes)
    if rejects:
        put = replace(
            put, rejects_path="_colonnade/rejects/part-000003.parquet",
            rejects_nbytes=rejects[0], rejects_checksum=rejects[1],
        )  # fmt: skip
    ledger = Ledger(SHARDS, "parquet")
    ledger[3] = put
    assert ledger[3] == put


def test_it_is_a_mapping_of_what_was_put_in() -> None:
    ledger = Ledger(SHARDS, "parquet")
    assert not ledger and 5 not in ledger and -1 not in ledger and ledger == {}
    for index in (7, 5, 7):
        ledger[index] = entry(index)
    assert list(ledger) == [5, 7] and len(ledger) == 2
    assert ledger == {5: entry(5), 7: entry(7)}
    del ledger[5]
    assert list(ledger) == [7] and len(ledger) == 1
    for absent in (5, -1):
        with pytest.raises(KeyError):
            ledger[absent]


def test_an_entry_takes_little_memory() -> None:
    tracemalloc.start()
    try:
        ledger = Ledger(SHARDS, "parquet")
        for index in range(len(SHARDS)):
            ledger[index] = entry(index)
        taken = tracemalloc.get_traced_memory()[0] / len(SHARDS)
    finally:
        tracemalloc.stop()
    assert taken < 100, "a ManifestEntry takes 500 bytes"


def test_an_entry_that_does_not_account_for_its_rows_is_found() -> None:
    ledger = Ledger(SHARDS, "parquet")
    for index in (2, 4, 6):
        ledger[index] = entry(index)
    assert ledger.odd() is None
    ledger[4] = replace(entry(4), rows_out=6, rejects=3, filtered=1)
    assert ledger.odd() is None, "six in the output, three in the rejects, one left out"
    for odd in (replace(entry(4), rows_out=9), replace(entry(4), rows_in=9, rows_out=9)):
        ledger[4] = odd
        assert ledger.odd() == odd


def test_what_is_missing_and_no_checksum_of_ours() -> None:
    ledger = Ledger(SHARDS[:4], "parquet")
    ledger.take(entry(1, "sha256:00ff"))
    assert not ledger, "such a line of a journal is passed over"
    ledger.take(entry(9))
    ledger.take(entry(2, ""))
    assert ledger[2].checksum == "" and ledger.missing.tolist() == [0, 1, 3]
