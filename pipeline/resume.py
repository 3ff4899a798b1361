"""What an earlier driver left in the output folder: what is ours, what is whole, what is not."""

from __future__ import annotations

import re
from array import array
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain

import numpy as np
import pyarrow as pa

from pipeline.errors import OutputError, StorageError
from pipeline.journal import entries_of
from pipeline.ledger import Ledger
from pipeline.lock import taken
from pipeline.parts import (
    REJECTS,
    footer_marks,
    part_of,
    read_marks,
    rejects_name,
)
from pipeline.records import (
    JOURNAL,
    LOCK,
    MANIFEST,
    REPORT,
    RUN,
    SUCCESS,
    ManifestEntry,
    RunRecord,
    read_run,
)
from pipeline.shards import Shard
from pipeline.stores import OWN, TEMP, Store, checksum, is_hidden, joined

PART_NAME = re.compile(r"part-(\d{6,})\.(parquet|arrow)")
FOOTER_THREADS = 16


SURVEYED = 4096
"""Parts whose footers are looked at together: of a million, the queue would be a gigabyte."""


@dataclass(frozen=True, slots=True)
class Survey:
    """The final parts in the folder, looked at."""

    whole: Ledger
    adopted: tuple[ManifestEntry, ...]
    """Whole parts that the journal did not know."""
    broken: tuple[str, ...]
    """Names of parts that are damaged and must be made again."""
    lost: tuple[str, ...]
    """Names of parts that the journal knows and the folder has not."""

    @property
    def damaged(self) -> tuple[str, ...]:
        return tuple(sorted({*self.broken, *self.lost}))


def refuse_foreign(output: Store) -> None:
    """Raises OutputError for files that no run of ours put there. Creates nothing.

    Names with a leading _ or . are tolerated: readers of datasets pass over them.
    """
    output.refuse_unfit()
    ours = output.nbytes(RUN) >= 0
    foreign = [
        name
        for name in output.names()
        if not (ours and _ours(name)) and (name == SUCCESS or not is_hidden(name))
    ]
    if foreign:
        shown = ", ".join(foreign[:3]) + (f" and {len(foreign) - 3} more" if foreign[3:] else "")
        raise OutputError(
            f"{output.where}: expected an empty folder or one of our runs, got {shown}; "
            "choose another output (nothing was touched)"
        )


def refuse_other(output: Store, stored: RunRecord, run: RunRecord) -> None:
    """Raises OutputError naming the differences when the folder holds another run."""
    if differences := stored.fingerprint.differences(run.fingerprint):
        raise OutputError(
            f"{output.where}: expected an empty folder or this very run, got another run's "
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


def look(output: Store, run: RunRecord, shards: Sequence[Shard], *, restart: bool) -> Standing:
    """What a driver would find. Raises the OutputError or OSError it would meet."""
    refuse_foreign(output)
    output.refuse_unwritable()
    if who := output.holder(LOCK):
        raise taken(output.where, who)
    stored = None if restart else read_run(output)
    whole = Ledger(shards, run.format)
    damaged: tuple[str, ...] = ()
    if stored is not None:
        refuse_other(output, stored, run)
        found = survey(output, shards, run)
        whole, damaged = found.whole, found.damaged
    totals = whole.totals()
    return Standing(
        resumed=stored is not None,
        committed_shards=len(whole),
        committed_rows=totals.rows_in,
        rejects=totals.rejects,
        complete=0 < len(whole) == len(shards) and output.nbytes(SUCCESS) >= 0,
        damaged=damaged,
    )


def _ours(name: str) -> bool:
    """Whether a run may have put it into the output folder: "year=2024" is a partition's."""
    return name in (SUCCESS, MANIFEST) or PART_NAME.fullmatch(name) is not None or "=" in name


def survey(output: Store, shards: Sequence[Shard], run: RunRecord) -> Survey:
    """Looks at every final part, and at the journal. Changes nothing.

    Raises OutputError for a whole part of another run under one of our names.
    """
    format = run.format
    indices = _parts_in(output, shards, format)
    whole = Ledger(shards, format)
    for entry in entries_of(output.read_log(JOURNAL)):
        whole.take(entry)
    adopted: list[ManifestEntry] = []
    broken: list[str] = []
    digest = run.fingerprint.digest  # of all files: once, and not for each part

    def look(index: int) -> tuple[ManifestEntry | None, ManifestEntry | None]:
        entry = whole.get(index)
        return entry, _look(output, shards[index], entry, run, digest)

    def look_at(some: Sequence[int]) -> list[tuple[ManifestEntry | None, ManifestEntry | None]]:
        return [look(index) for index in some]

    with ThreadPoolExecutor(FOOTER_THREADS) as pool:
        for first in range(0, len(indices), SURVEYED):
            some = indices[first : first + SURVEYED]
            share = -(-len(some) // (4 * FOOTER_THREADS))  # a future a part would cost as much
            pieces = [some[n : n + share] for n in range(0, len(some), share)]
            looked = chain.from_iterable(pool.map(look_at, pieces))
            for index, (before, now) in zip(some, looked, strict=True):
                if now is None:
                    broken.append(part_of(shards[index], format))
                    del whole[index]
                elif now is not before:
                    whole[index] = now
                    adopted.append(now)
    lost = np.setdiff1d(whole.present, indices).tolist()
    for index in lost:
        del whole[index]
    names = (part_of(shards[index], format) for index in lost)
    return Survey(whole, tuple(adopted), tuple(broken), tuple(names))


def _parts_in(output: Store, shards: Sequence[Shard], format: str) -> array[int]:
    """Shards whose part stands under its final name, in order. Raises OutputError for a part of no
    shard."""
    indices = array("q")
    for name in output.files():
        match = PART_NAME.fullmatch(name.rpartition("/")[2])
        if match is None or match[2] != format:
            continue
        index = int(match[1])
        indices.append(index)
        if index >= len(shards) or name != part_of(shards[index], format):
            raise OutputError(
                f"{joined(output.where, name)}: expected parts 0 to {len(shards) - 1} in their "
                "folders, got one more; delete it, choose another output, or --restart to throw "
                "this run away"
            )
    return array("q", sorted(indices))


def refuse_gone(output: Store, shards: Sequence[Shard], committed: Ledger, format: str) -> None:
    """Raises StorageError where somebody deleted what this run has put into the folder."""
    if output.nbytes(RUN) < 0:
        raise StorageError(
            f"{joined(output.where, RUN)}: expected what this run had written there, got nothing: "
            "it was deleted while the job ran; remove what is left of the folder, then run the "
            "same command again"
        )
    gone = np.setdiff1d(committed.present, _parts_in(output, shards, format)).tolist()
    if gone:
        raise StorageError(
            f"{output.where}: expected {len(shards)} parts, {len(gone)} that had been written are "
            f"gone ({part_of(shards[gone[0]], format)} first): they were deleted while the job "
            "ran; run the same command again, which makes them anew"
        )


def _look(
    output: Store, shard: Shard, entry: ManifestEntry | None, run: RunRecord, digest: str
) -> ManifestEntry | None:
    """The entry of a final part: the journal's if its footer and size agree, else a new one."""
    name = part_of(shard, run.format)
    try:
        marks, rows = read_marks(output, name, run.format)
        nbytes = output.nbytes(name)
    except (pa.ArrowException, OSError) as e:
        if output.may_pass(e):
            raise
        return None
    if marks != footer_marks(digest, shard):
        raise OutputError(
            f"{joined(output.where, name)}: expected {shard} as this run makes it, got "
            f"{_whose(marks, shard)}; delete it, choose another output, or --restart to throw "
            "this run away"
        )
    if entry is not None:
        whole = (nbytes, rows) == (entry.nbytes, entry.rows_out)
        return entry if whole and _rejects_stand(output, entry) else None
    return _adopted(output, shard, rows, nbytes, run)


def _whose(marks: Mapping[str, str], shard: Shard) -> str:
    """Whose part a file is, for people: hashes would tell them nothing."""
    source, rows = marks.get("colonnade.source"), marks.get("colonnade.rows")
    if not source or not rows:
        return "a file that is not ours"
    same = (source, rows) == (shard.path, f"{shard.first_row}:{shard.first_row + shard.rows}")
    return "what another run made of it" if same else f"{source} rows {rows} of another run"


def _rejects_stand(output: Store, entry: ManifestEntry) -> bool:
    return not entry.rejects_path or output.nbytes(entry.rejects_path) == entry.rejects_nbytes


def _adopted(
    output: Store, shard: Shard, rows: int, nbytes: int, run: RunRecord
) -> ManifestEntry | None:
    """An entry made from the folder alone: the crash fell between the rename and the journal.

    The rejects were renamed before the part, so they are there if there are any.
    """
    name, rejects = part_of(shard, run.format), rejects_name(shard.index)
    rejects_nbytes = output.nbytes(rejects)
    has_rejects = rejects_nbytes >= 0
    count = 0
    if has_rejects:
        try:
            _, count = read_marks(output, rejects, "parquet")
        except (pa.ArrowException, OSError):
            return None
    filtered = shard.rows - rows - (count if run.fingerprint.on_error == "skip" else 0)
    if filtered < 0 or (filtered and not run.fingerprint.where):
        return None
    return ManifestEntry(
        shard=shard.index,
        path=name,
        source=shard.path,
        first_row=shard.first_row,
        rows_in=shard.rows,
        rows_out=rows,
        rejects=count,
        nbytes=nbytes,
        checksum=checksum(output, name),
        rejects_path=rejects if has_rejects else "",
        rejects_nbytes=rejects_nbytes if has_rejects else 0,
        rejects_checksum=checksum(output, rejects) if has_rejects else "",
        filtered=filtered,
    )


def sweep(output: Store, committed: Mapping[int, ManifestEntry]) -> None:
    """Removes attempts that no one will commit, and rejects of shards that are not committed."""
    output.delete(*_inside(output, TEMP))
    if rejects := _inside(output, REJECTS):
        wanted = {entry.rejects_path for entry in committed.values()}
        output.delete(*(name for name in rejects if name not in wanted))


def _inside(output: Store, folder: str) -> list[str]:
    return [f"{folder}/{name}" for name in output.names(folder)]


def wipe(output: Store) -> None:
    """Removes what runs of ours wrote, and nothing else.

    _SUCCESS first, so that no reader takes what is left for complete; run.json last, so that a
    crash in between leaves a folder that is still known to be ours.
    """
    if output.nbytes(RUN) < 0:
        return
    output.delete(SUCCESS, MANIFEST, REPORT)
    output.settle()
    output.delete(*(n for n in output.files() if PART_NAME.fullmatch(n.rpartition("/")[2])))
    sweep(output, {})
    output.delete_log(JOURNAL)
    output.settle()
    output.delete(RUN)
    output.settle(OWN)
