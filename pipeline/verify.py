"""Checks a finished output folder: manifest, parts, checksums, and the inputs they came from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from numa.notation import size
from pipeline.dataset import Dataset
from pipeline.durable import checksum
from pipeline.errors import InputError, OutputError
from pipeline.footers import read_footer
from pipeline.parts import read_marks
from pipeline.records import MANIFEST, SUCCESS, Manifest, ManifestEntry, RunRecord, read_run
from pipeline.resume import PART_NAME
from pipeline.wire import from_plain

READ_THREADS = 4
"""Hashing lets go of the interpreter's lock; more threads than that only seek more."""


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """`problems` is empty when all is well; str() prints a summary and each problem."""

    output: str
    parts: int
    rows_in: int
    rows_out: int
    rejects: int
    nbytes: int
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.problems

    def __str__(self) -> str:
        head = (
            f"{self.output}: {self.parts} parts, {size(self.nbytes)}, {self.rows_in} rows in, "
            f"{self.rows_out} out, {self.rejects} rejects"
        )
        verdict = "all is well" if self.ok else f"{len(self.problems)} problems"
        return "\n".join([f"{head}: {verdict}", *(f"  {p}" for p in self.problems)])


def verify(output: Path, inputs: Sequence[str] | None = None) -> VerifyReport:
    """Re-reads every part. `inputs` None checks against the files that the run recorded.

    Raises OutputError only when there is no run in the folder at all.
    """
    run = read_run(output)
    if run is None:
        raise OutputError(f"{output}: expected the output of a run, got none; check the path")
    try:
        manifest = from_plain(Manifest, json.loads((output / MANIFEST).read_text()))
    except FileNotFoundError:
        problem = "the run is not finished: run the same command again"
        return VerifyReport(str(output), 0, 0, 0, 0, 0, (problem,))
    except ValueError as e:
        problem = f"{MANIFEST} is damaged: {e}"
        return VerifyReport(str(output), 0, 0, 0, 0, 0, (problem,))
    problems = [
        *_whole_run(output, run, manifest),
        *_parts(output, run, manifest),
        *_inputs(run, manifest, inputs),
    ]
    entries = manifest.entries
    return VerifyReport(
        output=str(output),
        parts=len(entries),
        rows_in=sum(e.rows_in for e in entries),
        rows_out=sum(e.rows_out for e in entries),
        rejects=sum(e.rejects for e in entries),
        nbytes=sum(e.nbytes for e in entries),
        problems=tuple(problems),
    )


def _whole_run(output: Path, run: RunRecord, manifest: Manifest) -> Iterator[str]:
    """Marker, fingerprint, the manifest's own sums, files that it does not know."""
    if not (output / SUCCESS).exists():
        yield f"{SUCCESS} is missing: the run was not finished"
    if manifest.fingerprint != run.fingerprint.digest:
        yield f"{MANIFEST} is of run {manifest.fingerprint}, not {run.fingerprint.digest}"
    entries = manifest.entries
    sums = (
        len(entries),
        sum(e.rows_in for e in entries),
        sum(e.rows_out for e in entries),
        sum(e.rejects for e in entries),
    )
    said = (manifest.shards, manifest.rows_in, manifest.rows_out, manifest.rejects)
    if sums != said:
        yield f"{MANIFEST} says {said} shards, rows in, out and rejects; its entries have {sums}"
    known = {e.path for e in entries}
    for path in sorted(output.iterdir()):
        if PART_NAME.fullmatch(path.name) and path.name not in known:
            yield f"{path.name} is not in the manifest"


def _parts(output: Path, run: RunRecord, manifest: Manifest) -> list[str]:
    with ThreadPoolExecutor(READ_THREADS) as pool:
        checked = pool.map(lambda e: _part(output, run, e), manifest.entries)
        return [problem for problems in checked for problem in problems]


def _part(output: Path, run: RunRecord, entry: ManifestEntry) -> list[str]:
    """What is wrong with one part and its rejects."""
    problems = []
    files = [(entry.path, entry.nbytes, entry.checksum, entry.rows_out, run.format)]
    if entry.rejects_path:
        facts = (entry.rejects_nbytes, entry.rejects_checksum, entry.rejects, "parquet")
        files.append((entry.rejects_path, *facts))
    for name, nbytes, expected, rows, format in files:
        path = output / name
        try:
            if (found := path.stat().st_size) != nbytes:
                problems.append(f"{name}: expected {nbytes} bytes, got {found}")
            elif (hashed := checksum(path)) != expected:
                problems.append(f"{name}: expected {expected}, got {hashed}")
            elif (footer := read_marks(path, format))[1] != rows:
                problems.append(f"{name}: expected {rows} rows, got {footer[1]}")
            elif footer[0].get("colonnade.fingerprint") != run.fingerprint.digest:
                problems.append(f"{name}: its footer names another run")
        except (pa.ArrowException, OSError) as e:
            problems.append(f"{name}: cannot be read: {e}")
    if entry.rows_in - entry.rows_out not in (0, entry.rejects):
        problems.append(
            f"{entry.path}: {entry.rows_in} rows in, but {entry.rows_out} out and "
            f"{entry.rejects} rejects"
        )
    return problems


def _inputs(run: RunRecord, manifest: Manifest, inputs: Sequence[str] | None) -> Iterator[str]:
    """Files that changed since, and rows of theirs that are in no part, or in two."""
    planned = run.fingerprint.files
    try:
        if inputs is not None:
            files = {f.path: f for f in Dataset.discover(inputs).files}
        else:
            files = {p: read_footer(p)[0] for p in planned}
    except InputError as e:
        yield str(e)
        return
    for path in sorted(set(files) ^ set(planned)):
        yield f"{path}: {'is not in the input' if path in planned else 'was not scored'}"
    by_source: dict[str, list[ManifestEntry]] = {}
    for entry in manifest.entries:
        by_source.setdefault(entry.source, []).append(entry)
    for path in sorted(set(files) & set(planned)):
        file = files[path]
        if (file.nbytes, file.mtime_ns) != tuple(planned[path]):
            yield f"{path}: changed since it was scored"
        row = 0
        for entry in sorted(by_source.get(path, []), key=lambda e: (e.first_row, e.rows_in)):
            if entry.first_row != row:
                yield f"{path}: expected a part from row {row}, got one from {entry.first_row}"
            row = entry.first_row + entry.rows_in
        if row != file.rows:
            yield f"{path}: expected parts of {file.rows} rows, got {row}"
