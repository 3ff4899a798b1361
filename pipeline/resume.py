"""What an earlier driver left in the output folder: what is ours, what is whole, what is not."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from pipeline.durable import checksum, refuse_unwritable, sync_folder
from pipeline.errors import OutputError
from pipeline.journal import replay
from pipeline.lock import refuse_held
from pipeline.parts import (
    OWN,
    REJECTS,
    TEMP,
    footer_marks,
    part_name,
    read_marks,
    rejects_name,
)
from pipeline.records import (
    JOURNAL,
    MANIFEST,
    REPORT,
    RUN,
    SUCCESS,
    ManifestEntry,
    RunRecord,
    read_run,
)
from pipeline.shards import Shard

PART_NAME = re.compile(r"part-(\d{6,})\.(parquet|arrow)")
FOOTER_THREADS = 16


@dataclass(frozen=True, slots=True)
class Found:
    """A final part in the folder, looked at."""

    shard: Shard
    entry: ManifestEntry | None
    """None when the part is damaged and must be made again."""
    adopted: bool
    """Whether the journal did not know it."""


def refuse_foreign(output: Path) -> None:
    """Raises OutputError for files that no run of ours put there. Creates nothing.

    Names with a leading _ or . are tolerated: readers of datasets pass over them.
    """
    if output.is_symlink() and not output.exists():
        raise OutputError(
            f"{output}: expected a folder, got a link to {output.readlink()}, which does not "
            "exist; make that folder, or choose another output"
        )
    if not output.exists():
        return
    if not output.is_dir():
        raise OutputError(f"{output}: expected a folder, got a file; choose another output")
    ours = (output / RUN).exists()
    foreign = sorted(
        p.name
        for p in output.iterdir()
        if not (ours and _ours(p.name)) and (p.name == SUCCESS or not p.name.startswith(("_", ".")))
    )
    if foreign:
        shown = ", ".join(foreign[:3]) + (f" and {len(foreign) - 3} more" if foreign[3:] else "")
        raise OutputError(
            f"{output}: expected an empty folder or one of our runs, got {shown}; "
            "choose another output (nothing was touched)"
        )


def refuse_other(output: Path, stored: RunRecord, run: RunRecord) -> None:
    """Raises OutputError naming the differences when the folder holds another run."""
    if differences := stored.fingerprint.differences(run.fingerprint):
        raise OutputError(
            f"{output}: expected an empty folder or this very run, got another run's "
            "output:\n  " + "\n  ".join(differences) + "\n"
            "choose another output, or --restart to throw that run away"
        )


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a run is that would be resumed; all 0 in a folder without one."""

    resumed: bool
    """The folder holds this very run."""
    committed_shards: int
    committed_rows: int
    """Of the input."""
    rejects: int
    complete: bool
    """There is nothing to do."""
    damaged: tuple[str, ...] = ()
    """Parts that were committed but are damaged or missing: they are made again."""

    def __str__(self) -> str:
        if not self.resumed:
            return "nothing done yet"
        if self.complete:
            return "done before: nothing to do"
        done = f"resumes: {self.committed_shards:,} shards, {self.committed_rows:,} rows are done"
        if not self.damaged:
            return done
        more = f" and {len(self.damaged) - 3} more" if self.damaged[3:] else ""
        return f"{done}; damaged or lost, so made again: {', '.join(self.damaged[:3])}{more}"


def look(output: Path, run: RunRecord, shards: Sequence[Shard], *, restart: bool) -> Standing:
    """What a driver would find. Raises the OutputError or OSError it would meet."""
    refuse_foreign(output)
    refuse_unwritable(output)
    refuse_held(output)
    stored = None if restart else read_run(output)
    entries: list[ManifestEntry] = []
    damaged: tuple[str, ...] = ()
    if stored is not None:
        refuse_other(output, stored, run)
        journal = output / JOURNAL
        known, _ = replay(journal.read_bytes() if journal.exists() else b"")
        digest = run.fingerprint.digest
        found = survey(output, shards, known, run=digest, format=run.format)
        entries = [f.entry for f in found if f.entry is not None]
        damaged = damaged_parts(found, known, run.format)
    return Standing(
        resumed=stored is not None,
        committed_shards=len(entries),
        committed_rows=sum(e.rows_in for e in entries),
        rejects=sum(e.rejects for e in entries),
        complete=bool(entries) and len(entries) == len(shards) and (output / SUCCESS).exists(),
        damaged=damaged,
    )


def damaged_parts(
    found: Sequence[Found], known: Mapping[int, ManifestEntry], format: str
) -> tuple[str, ...]:
    """Parts that are not whole, and parts that the journal knows and the folder has lost."""
    whole = {f.shard.index for f in found if f.entry is not None}
    broken = {part_name(f.shard.index, format) for f in found if f.entry is None}
    return tuple(sorted(broken | {e.path for i, e in known.items() if i not in whole}))


def _ours(name: str) -> bool:
    return name in (SUCCESS, MANIFEST) or PART_NAME.fullmatch(name) is not None


def survey(
    output: Path,
    shards: Sequence[Shard],
    known: Mapping[int, ManifestEntry],
    *,
    run: str,
    format: str,
) -> list[Found]:
    """Looks at every final part. `run` is the fingerprint's digest, `known` the journal.

    Raises OutputError for a whole part of another run under one of our names.
    """
    indices = sorted(
        int(match[1])
        for path in output.iterdir()
        if (match := PART_NAME.fullmatch(path.name)) and match[2] == format
    )
    for index in indices:
        if index >= len(shards):
            raise OutputError(
                f"{output / part_name(index, format)}: expected parts 0 to {len(shards) - 1}, "
                "got one more; delete it, choose another output, or --restart to throw this run "
                "away"
            )

    def look(index: int) -> Found:
        shard, entry = shards[index], known.get(index)
        now = _look(output, shard, entry, run=run, format=format)
        return Found(shard, now, adopted=now is not None and now is not entry)

    with ThreadPoolExecutor(FOOTER_THREADS) as pool:
        return list(pool.map(look, indices))


def _look(
    output: Path, shard: Shard, entry: ManifestEntry | None, *, run: str, format: str
) -> ManifestEntry | None:
    """The entry of a final part: the journal's if its footer and size agree, else a new one."""
    path = output / part_name(shard.index, format)
    try:
        marks, rows = read_marks(path, format)
        nbytes = path.stat().st_size
    except (pa.ArrowException, OSError):
        return None
    if marks != footer_marks(run, shard):
        raise OutputError(
            f"{path}: expected {shard} as this run makes it, got {_whose(marks, shard)}; "
            "delete it, choose another output, or --restart to throw this run away"
        )
    if entry is not None:
        whole = (nbytes, rows) == (entry.nbytes, entry.rows_out)
        return entry if whole and _rejects_stand(output, entry) else None
    return _adopted(output, shard, rows, nbytes, format)


def _whose(marks: Mapping[str, str], shard: Shard) -> str:
    """Whose part a file is, for people: hashes would tell them nothing."""
    source, rows = marks.get("colonnade.source"), marks.get("colonnade.rows")
    if not source or not rows:
        return "a file that is not ours"
    same = (source, rows) == (shard.path, f"{shard.first_row}:{shard.first_row + shard.rows}")
    return "what another run made of it" if same else f"{source} rows {rows} of another run"


def _rejects_stand(output: Path, entry: ManifestEntry) -> bool:
    path = output / entry.rejects_path
    return not entry.rejects_path or (path.exists() and path.stat().st_size == entry.rejects_nbytes)


def _adopted(
    output: Path, shard: Shard, rows: int, nbytes: int, format: str
) -> ManifestEntry | None:
    """An entry made from the folder alone: the crash fell between the rename and the journal.

    The rejects were renamed before the part, so they are there if there are any.
    """
    path, rejects = output / part_name(shard.index, format), output / rejects_name(shard.index)
    has_rejects = rejects.exists()
    count = 0
    if has_rejects:
        try:
            _, count = read_marks(rejects, "parquet")
        except (pa.ArrowException, OSError):
            return None
    if rows not in (shard.rows, shard.rows - count):
        return None
    return ManifestEntry(
        shard=shard.index,
        path=path.name,
        source=shard.path,
        first_row=shard.first_row,
        rows_in=shard.rows,
        rows_out=rows,
        rejects=count,
        nbytes=nbytes,
        checksum=checksum(path),
        rejects_path=rejects_name(shard.index) if has_rejects else "",
        rejects_nbytes=rejects.stat().st_size if has_rejects else 0,
        rejects_checksum=checksum(rejects) if has_rejects else "",
    )


def sweep(output: Path, committed: Mapping[int, ManifestEntry]) -> None:
    """Removes attempts that no one will commit, and rejects of shards that are not committed."""
    for temp in (output / TEMP).glob("*"):
        temp.unlink(missing_ok=True)
    wanted = {entry.rejects_path for entry in committed.values()}
    for rejects in (output / REJECTS).glob("*"):
        if f"{REJECTS}/{rejects.name}" not in wanted:
            rejects.unlink(missing_ok=True)


def wipe(output: Path) -> None:
    """Removes what runs of ours wrote, and nothing else.

    _SUCCESS first, so that no reader takes what is left for complete; run.json last, so that a
    crash in between leaves a folder that is still known to be ours.
    """
    if not (output / RUN).exists():
        return
    (output / SUCCESS).unlink(missing_ok=True)
    (output / MANIFEST).unlink(missing_ok=True)
    (output / REPORT).unlink(missing_ok=True)
    sync_folder(output)
    for path in list(output.iterdir()):
        if PART_NAME.fullmatch(path.name):
            path.unlink(missing_ok=True)
    sweep(output, {})
    (output / JOURNAL).unlink(missing_ok=True)
    sync_folder(output)
    (output / RUN).unlink(missing_ok=True)
    sync_folder(output / OWN)
