from __future__ import annotations

import io
import json
from contextlib import nullcontext
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.durable import sync_folder
from pipeline.journal import Journal, replay
from pipeline.records import ManifestEntry
from pipeline.stores import whole_lines
from pipeline.stores.local import FileLog, LocalStore
from pipeline.wire import to_plain


def entry(shard: int, nbytes: int = 10) -> ManifestEntry:
    return ManifestEntry(
        shard,
        f"part-{shard:06d}.parquet",
        "/in/ü.parquet",
        0,
        5,
        5,
        0,
        nbytes,
        "sha256:0",
        "",
        0,
        "",
    )


def lines_of(path: Path) -> list[bytes]:
    return list(LocalStore(path.parent).read_log(path.name))


def line(e: ManifestEntry) -> bytes:
    return json.dumps(to_plain(e)).encode() + b"\n"


@given(st.lists(st.integers(0, 9), max_size=12), st.data())
def test_a_journal_cut_anywhere_replays_its_whole_lines(
    shards: list[int], data: st.DataObject
) -> None:
    lines = [line(entry(s, i)) for i, s in enumerate(shards)]
    whole = b"".join(lines)
    cut = data.draw(st.integers(0, len(whole)))
    data_left = list(whole_lines(io.BytesIO(whole[:cut])))
    entries, nbytes = replay(data_left), sum(map(len, data_left))
    assert nbytes <= cut
    kept = whole[:nbytes].count(b"\n")
    assert sum(map(len, lines[:kept])) == nbytes
    assert kept == len(lines) or nbytes + len(lines[kept]) > cut
    expected = {s: entry(s, i) for i, s in enumerate(shards[:kept])}
    assert entries == expected


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 10**4), min_size=1, max_size=6))
def test_appending_goes_on_after_any_series_of_cuts(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int]
) -> None:
    path = tmp_path_factory.mktemp("journal") / "journal.jsonl"
    for shard, cut in enumerate(cuts):
        before = replay(lines_of(path))
        journal = Journal(FileLog(path))
        journal.append([entry(shard), entry(shard + 100)])
        journal.close()
        added = {shard: entry(shard), shard + 100: entry(shard + 100)}
        assert replay(lines_of(path)) == before | added
        path.write_bytes(path.read_bytes()[: max(0, path.stat().st_size - cut)])


@pytest.mark.parametrize("torn", [1, 100, 1 << 16, 200_000])
def test_a_torn_line_of_any_length_is_cut_off(tmp_path: Path, torn: int) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(line(entry(0)) + b"x" * torn)
    journal = Journal(FileLog(path))
    assert path.read_bytes() == line(entry(0))
    journal.append([entry(1)])
    journal.close()
    assert path.read_bytes() == line(entry(0)) + line(entry(1))


@given(st.integers(0, 2), st.binary(max_size=20))
def test_a_damaged_line_costs_only_itself(position: int, garbage: bytes) -> None:
    lines = [line(entry(s)) for s in range(3)]
    lines[position] = garbage.replace(b"\n", b"") + b"\n"
    entries = replay(lines)
    assert set(entries) == {0, 1, 2} - {position}


def test_a_failed_append_leaves_no_half_line(tmp_path: Path) -> None:
    journal = Journal(FileLog(tmp_path / "journal.jsonl"))
    journal.append([entry(0)])
    with (
        mock.patch("os.fsync", side_effect=OSError(28, "No space left on device")),
        pytest.raises(OSError),
    ):
        journal.append([entry(1)])
    journal.append([entry(2)])
    journal.close()
    assert set(replay(lines_of(tmp_path / "journal.jsonl"))) == {0, 2}


@pytest.mark.parametrize("number", [22, 5])
def test_folders_that_cannot_be_synced_are_tolerated_and_broken_ones_not(
    tmp_path: Path, number: int
) -> None:
    failing = mock.patch("os.fsync", side_effect=OSError(number, "fsync"))
    with failing, nullcontext() if number == 22 else pytest.raises(OSError, match="fsync"):
        sync_folder(tmp_path)
