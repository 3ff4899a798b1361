"""Checks a finished output folder: manifest, parts, checksums, and the inputs they came from."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from numa.notation import size
from pipeline.checksums import UnknownAlgorithm, algorithm_of, shortened
from pipeline.dataset import Dataset
from pipeline.errors import InputError, OutputError
from pipeline.footers import DataFile, read_footer
from pipeline.journal import replay
from pipeline.parts import read_marks
from pipeline.records import (
    JOURNAL,
    LOCK,
    MANIFEST,
    SUCCESS,
    Manifest,
    ManifestEntry,
    RunRecord,
    read_run,
)
from pipeline.resume import PART_NAME
from pipeline.shards import plan_shards
from pipeline.stores import Store, checksum, store_at
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
    filtered: int
    nbytes: int
    problems: tuple[str, ...]
    repair: tuple[str, ...] = ()
    """What to do about them."""

    @property
    def ok(self) -> bool:
        return not self.problems

    def __str__(self) -> str:
        parts = f"{self.parts:,} part{'' if self.parts == 1 else 's'}"
        head = (
            f"{self.output}: {parts}, {size(self.nbytes)}, {self.rows_in:,} rows in, "
            f"{self.rows_out:,} out, {self.rejects:,} rejects"
            + (f", {self.filtered:,} left out" if self.filtered else "")
        )
        count = len(self.problems)
        verdict = "all is well" if self.ok else f"{count} problem{'s' if count > 1 else ''}"
        advice = [f"  do: {r}" for r in self.repair]
        return "\n".join([f"{head}: {verdict}", *(f"  {p}" for p in self.problems), *advice])


AGAIN = "give the command again that made this folder"


@dataclass(frozen=True, slots=True)
class _Problem:
    what: str
    remedy: str
    """"delete FILE": a run makes it again. Others are shown as they are."""


def _repair(problems: Sequence[_Problem]) -> tuple[str, ...]:
    """Files that must go first, in one line; then what else there is to do, each once."""
    remedies = dict.fromkeys(p.remedy for p in problems)
    gone = [r.removeprefix("delete ") for r in remedies if r.startswith("delete ")]
    advice = [r for r in remedies if not r.startswith("delete ")]
    if gone:
        only = "only what is missing is computed"
        advice.insert(0, f"delete {', '.join(gone)}; then {AGAIN}: {only}")
    return tuple(advice)


def verify(output: str | Path, inputs: Sequence[str] | None = None) -> VerifyReport:
    """Re-reads every part. `inputs` None checks against the files that the run recorded.

    Raises OutputError only when there is no run in the folder at all, or its store does not
    answer.
    """
    store = store_at(output)
    try:
        return _verify(store, inputs)
    except OSError as e:
        raise store.trouble(e) from e


def _verify(output: Store, inputs: Sequence[str] | None) -> VerifyReport:
    run = read_run(output)
    if run is None:
        raise OutputError(f"{output.where}: expected the output of a run, got none; check the path")
    committed = replay(output.read_log(JOURNAL))
    try:
        manifest = from_plain(Manifest, json.loads(output.read(MANIFEST)))
    except FileNotFoundError:
        if output.nbytes(SUCCESS) >= 0:
            problem = _Problem(f"{MANIFEST} is missing", f"delete {SUCCESS}")
            return _report(output, tuple(committed.values()), [problem])
        return _report(output, tuple(committed.values()), [_unfinished(output, run, committed)])
    except ValueError as e:
        problem = _Problem(f"{MANIFEST} is damaged: {e}", f"delete {SUCCESS}")
        return _report(output, tuple(committed.values()), [problem])
    problems = [
        *_whole_run(output, run, manifest),
        *_parts(output, run, manifest),
        *_inputs(run, manifest, inputs),
    ]
    return _report(output, manifest.entries, problems)


def _report(
    output: Store, entries: Sequence[ManifestEntry], problems: Sequence[_Problem]
) -> VerifyReport:
    return VerifyReport(
        output=output.where,
        parts=len(entries),
        rows_in=sum(e.rows_in for e in entries),
        rows_out=sum(e.rows_out for e in entries),
        rejects=sum(e.rejects for e in entries),
        filtered=sum(e.filtered for e in entries),
        nbytes=sum(e.nbytes for e in entries),
        problems=tuple(p.what for p in problems),
        repair=_repair(problems),
    )


def _unfinished(output: Store, run: RunRecord, committed: Mapping[int, ManifestEntry]) -> _Problem:
    """How far a run is; of how many shards, its inputs tell if they are still there."""
    done = f"{len(committed)}"
    with contextlib.suppress(InputError):
        done += f" of {len(plan_shards(Dataset.discover(list(run.fingerprint.files))))}"
    done += " shards are committed"
    if name := output.holder(LOCK):
        return _Problem(f"the run is not finished: {done}, {name} is at work", "wait for it")
    return _Problem(f"the run is not finished: {done}", f"to go on, {AGAIN}")


def _whole_run(output: Store, run: RunRecord, manifest: Manifest) -> Iterator[_Problem]:
    """Marker, fingerprint, the manifest's own sums, files that it does not know."""
    if output.nbytes(SUCCESS) < 0:
        yield _Problem(f"{SUCCESS} is missing: the run was not finished", f"to go on, {AGAIN}")
    if manifest.fingerprint != run.fingerprint.digest:
        what = f"{MANIFEST} is of run {manifest.fingerprint:.12}, not {run.fingerprint.digest:.12}"
        yield _Problem(what, f"delete {SUCCESS}")
    entries = manifest.entries
    sums = (
        len(entries),
        sum(e.rows_in for e in entries),
        sum(e.rows_out for e in entries),
        sum(e.rejects for e in entries),
        sum(e.filtered for e in entries),
    )
    said = (
        manifest.shards, manifest.rows_in, manifest.rows_out, manifest.rejects, manifest.filtered
    )  # fmt: skip
    if sums != said:
        names = "shards, rows in, out, rejects and left out"
        what = f"{MANIFEST} says {said} {names}; its entries have {sums}"
        yield _Problem(what, f"delete {SUCCESS}")
    known = {e.path for e in entries}
    for name in output.files():
        if PART_NAME.fullmatch(name.rpartition("/")[2]) and name not in known:
            yield _Problem(f"{name} is not in the manifest", f"delete {name}")


def _parts(output: Store, run: RunRecord, manifest: Manifest) -> list[_Problem]:
    digest = run.fingerprint.digest  # of all files: once, and not for each part
    with ThreadPoolExecutor(READ_THREADS) as pool:
        checked = pool.map(lambda e: _part(output, run.format, digest, e), manifest.entries)
        return [problem for problems in checked for problem in problems]


def _part(output: Store, parts: str, digest: str, entry: ManifestEntry) -> list[_Problem]:
    """What is wrong with one part and its rejects."""
    problems = []
    files = [(entry.path, entry.nbytes, entry.checksum, entry.rows_out, parts)]
    if entry.rejects_path:
        facts = (entry.rejects_nbytes, entry.rejects_checksum, entry.rejects, "parquet")
        files.append((entry.rejects_path, *facts))
    for name, nbytes, expected, rows, format in files:
        what = ""
        try:
            if (found := output.nbytes(name)) < 0:
                problems.append(_Problem(f"{name} is missing", f"to make it again, {AGAIN}"))
            elif found != nbytes:
                what = f"expected {nbytes} bytes, got {found}"
            elif (hashed := checksum(output, name, algorithm_of(expected, name))) != expected:
                what = f"expected {shortened(expected)}, got {shortened(hashed)}: its bytes changed"
            elif (footer := read_marks(output, name, format))[1] != rows:
                what = f"expected {rows} rows, got {footer[1]}"
            elif footer[0].get("colonnade.fingerprint") != digest:
                what = "its footer names another run"
        except UnknownAlgorithm as e:
            problems.append(_Problem(e.what, e.remedy))
        except (pa.ArrowException, OSError) as e:
            what = f"cannot be read: {e}"
        if what:
            problems.append(_Problem(f"{name}: {what}", f"delete {name}"))
    if not entry.adds_up:
        what = (
            f"{entry.rows_in} rows in, but {entry.rows_out} out, {entry.rejects} rejects and "
            f"{entry.filtered} left out"
        )
        problems.append(_Problem(f"{entry.path}: {what}", f"delete {entry.path}"))
    return problems


def _inputs(run: RunRecord, manifest: Manifest, inputs: Sequence[str] | None) -> Iterator[_Problem]:
    """Files that changed since, and rows of theirs that are in no part, or in two."""
    planned = run.fingerprint.files
    anew = "if the input is right as it is now, score it anew: --restart, or another output"
    try:
        if inputs is not None:
            files = {f.path: f for f in Dataset.discover(inputs).files}
        else:
            files = {p: read_footer(p).file for p in planned}
    except InputError as e:
        yield _Problem(str(e), anew)
        return
    for path in sorted(set(files) ^ set(planned)):
        what = f"{path}: {'is not in the input' if path in planned else 'was not scored'}"
        yield _Problem(what, anew)
    by_source: dict[str, list[ManifestEntry]] = {}
    for entry in manifest.entries:
        by_source.setdefault(entry.source, []).append(entry)
    for path in sorted(set(files) & set(planned)):
        file = files[path]
        if (file.nbytes, file.mtime_ns) != tuple(planned[path]):
            yield _Problem(f"{path}: changed since it was scored", anew)
        yield from _rows(file, by_source.get(path, []))


def _rows(file: DataFile, entries: Sequence[ManifestEntry]) -> Iterator[_Problem]:
    """Whether the parts of a file have each of its rows once."""
    row = 0
    for entry in sorted(entries, key=lambda e: (e.first_row, e.rows_in)):
        if entry.first_row != row:
            what = f"{file.path}: expected a part from row {row}, got one from {entry.first_row}"
            yield _Problem(what, f"delete {SUCCESS}")
        row = entry.first_row + entry.rows_in
    if row != file.rows:
        what = f"{file.path}: expected parts of {file.rows} rows, got {row}"
        yield _Problem(what, f"delete {SUCCESS}")
