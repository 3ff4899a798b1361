"""Checksums of parts: what is written now, what older folders hold, and what nobody knows."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from part_jobs import Job, output_ids

from pipeline.checksums import (
    ALGORITHMS,
    WRITTEN,
    Checksum,
    UnknownAlgorithm,
    squeezed,
    unsqueezed,
)
from pipeline.errors import OutputError
from pipeline.manifest import RunFolder
from pipeline.records import RUN
from pipeline.stores import checksum, store_at
from pipeline.verify import verify

JOURNAL = "_colonnade/journal.jsonl"

KNOWN = {
    "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
    "xxh3-128": "06b05ab6733a618578af5f94892f3950",
}
"""Of "abc": by sha256sum, and by xxhsum -H2."""


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_checksum_is_what_everyone_has(tmp_path: Path, name: str) -> None:
    found = Checksum(name)
    found.update(b"a")
    found.update(memoryview(b"bc"))
    assert str(found) == f"{name}:{KNOWN[name]}"
    (tmp_path / "file").write_bytes(b"abc")
    assert checksum(store_at(tmp_path), "file", name) == str(found)


def test_large_files_are_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.stores.READ_NBYTES", 10)
    (tmp_path / "file").write_bytes(b"abcdefg" * 9)
    found = Checksum()
    found.update(b"abcdefg" * 9)
    assert checksum(store_at(tmp_path), "file") == str(found)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_squeezed_ones_come_back(name: str) -> None:
    text = f"{name}:{KNOWN[name]}"
    assert unsqueezed(squeezed(text, "part") + bytes(9)) == text
    with pytest.raises(ValueError, match="part: expected"):
        squeezed(text[:-2], "part")


def test_no_checksum_is_none() -> None:
    assert squeezed("", "part") == b"" and unsqueezed(b"") == "" and unsqueezed(bytes(33)) == ""


@pytest.mark.parametrize("text", ["blake3:00", "00ff", "XXH3-128:00"])
def test_an_algorithm_that_nobody_knows_says_what_to_do(text: str) -> None:
    with pytest.raises(UnknownAlgorithm) as caught:
        squeezed(text, "part-000001.parquet")
    said = str(caught.value)
    assert said.startswith("part-000001.parquet: expected a checksum by sha256 or xxh3-128, got ")
    assert "use the version of Colonnade that made this folder, or --restart" in said


def with_checksums_by(name: str, output: Path) -> None:
    """As if another version had written the journal."""
    lines = []
    for line in (output / JOURNAL).read_text().splitlines():
        entry = json.loads(line)
        for path, field in (("path", "checksum"), ("rejects_path", "rejects_checksum")):
            if entry[path]:
                digest = hashlib.sha256((output / entry[path]).read_bytes()).hexdigest()
                entry[field] = f"{name}:{digest}"
        lines.append(json.dumps(entry))
    (output / JOURNAL).write_text("\n".join(lines) + "\n")


def begun(job: Job, shards: int = 3) -> None:
    with job.open() as folder:
        for shard in job.shards[:shards]:
            folder.commit(job.part(shard))


def test_a_folder_begun_with_sha256_is_resumed_and_verified(job: Job) -> None:
    begun(job)
    with_checksums_by("sha256", job.output)
    assert job.write() == [3, 4, 5]
    assert verify(job.output).problems == ()
    entries = json.loads((job.output / "_manifest.json").read_text())["entries"]
    names = [entry["checksum"].partition(":")[0] for entry in entries]
    assert names == ["sha256"] * 3 + [WRITTEN] * 3
    assert entries[1]["rejects_checksum"].startswith("sha256:")
    assert output_ids(job.output) == list(range(24))


@pytest.mark.parametrize(("number", "name"), [(2, "sha256"), (4, WRITTEN)])
def test_damage_is_told_by_either(job: Job, number: int, name: str) -> None:
    begun(job)
    with_checksums_by("sha256", job.output)
    job.write()
    path = job.output / f"part-{number:06d}.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    (problem,) = verify(job.output).problems
    assert problem.startswith(f"{path.name}: expected {name}:"), problem
    assert f", got {name}:" in problem and problem.endswith("its bytes changed")


def test_a_folder_of_an_unknown_version_is_not_resumed(job: Job) -> None:
    begun(job)
    with_checksums_by("blake3", job.output)
    before = (job.output / JOURNAL).read_bytes()
    with pytest.raises(OutputError, match=r"part-000000\.parquet: .*got one by 'blake3'; use the"):
        job.open()
    assert (job.output / JOURNAL).read_bytes() == before
    with job.open(restart=True) as folder:
        assert not folder.committed


def test_a_folder_of_an_unknown_version_is_not_called_damaged(job: Job) -> None:
    job.write()
    path = job.output / "_manifest.json"
    path.write_text(path.read_text().replace(f'"{WRITTEN}:', '"blake3:'))
    report = verify(job.output)
    assert "part-000000.parquet: expected a checksum by sha256 or xxh3-128" in report.problems[0]
    assert report.repair == ("use the version of Colonnade that made this folder",)


def recorded(job: Job) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((job.output / RUN).read_text())
    return record


def as_before(job: Job) -> None:
    """The record of a version that knew sha256 only."""
    record = recorded(job)
    del record["checksums"]
    (job.output / RUN).write_text(json.dumps(record))


def test_the_record_says_what_older_versions_cannot_check(job: Job) -> None:
    """They refuse a record with a field they do not know; parts they would call damaged, and
    tell people to delete."""
    begun(job)
    assert recorded(job)["checksums"] == WRITTEN
    with_checksums_by("sha256", job.output)
    as_before(job)
    RunFolder.look(job.output, job.run, job.shards)
    assert "checksums" not in recorded(job), "a look changes nothing"
    kept = recorded(job)
    job.write()
    assert recorded(job) == kept | {"checksums": WRITTEN}


def test_a_finished_folder_of_an_older_version_stays_as_it_is(job: Job) -> None:
    job.write()
    as_before(job)
    with job.open() as folder:
        assert folder.complete
    assert "checksums" not in recorded(job)


def test_a_record_of_a_newer_version_says_what_to_do(job: Job) -> None:
    begun(job)
    record = recorded(job)
    (job.output / RUN).write_text(json.dumps(record | {"checksums": "blake3"}))
    with pytest.raises(OutputError, match=r"run\.json: .*got one by 'blake3'; use the version"):
        job.open()
    (job.output / RUN).write_text(json.dumps(record | {"news": 1}))
    with pytest.raises(OutputError, match="unknown news; if another version of Colonnade made"):
        verify(job.output)
