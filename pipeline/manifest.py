"""The run folder: lock, journal, commit, resume, finish. Only the driver opens it.

    OUT/part-000123.parquet          final parts, deterministic names
    OUT/_colonnade/run.json          the fingerprint, field by field, and the kernel choices
    OUT/_colonnade/journal.jsonl     a synced line for each commit
    OUT/_colonnade/lock              flock of the driver
    OUT/_colonnade/tmp/              attempts being written, by scorers
    OUT/_colonnade/rejects/          part-000123.parquet: file, row, field, reason
    OUT/_manifest.json, OUT/_SUCCESS last of all

A driver's way:
    stored = read_run(output)                       # kernel choices of an earlier run, or None
    program = engine.compile(model, choices=stored.choices if stored else None)
    ... plan, fingerprint ...
    with RunFolder.open(output, run, shards, restart=restart) as folder:
        if folder.complete: nothing to do
        for shard not in folder.committed: lend; on PartWritten: folder.commit(part)
        folder.finish()

Why no reader ever sees half a part, and no row twice: scorers write under names that are theirs
alone; one driver, holding the lock, renames at most one attempt of a shard to the shard's one
name. A zombie scorer can only leave temporary files. The journal is written after the rename:
a crash in between is healed from the part's footer.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, MutableMapping, Sequence
from pathlib import Path
from types import TracebackType

from pipeline.durable import naming, replace_text, sync_folder
from pipeline.errors import OutputError
from pipeline.failpoints import reach
from pipeline.journal import Journal
from pipeline.ledger import Ledger
from pipeline.lock import take_lock
from pipeline.parts import OWN, REJECTS, TEMP, Part, part_name, rejects_name
from pipeline.records import (
    JOURNAL,
    MANIFEST,
    REPORT,
    RUN,
    SUCCESS,
    Manifest,
    ManifestEntry,
    RunRecord,
    read_run,
)
from pipeline.resume import (
    Standing,
    damaged_parts,
    look,
    refuse_foreign,
    refuse_other,
    survey,
    sweep,
    wipe,
)
from pipeline.shards import Shard
from pipeline.wire import to_plain

__all__ = ["Manifest", "ManifestEntry", "RunFolder", "RunRecord", "Standing", "read_run"]


class RunFolder:
    """The output folder, held by one driver. A context manager; close() gives up the lock."""

    def __init__(self, output: Path, run: RunRecord, shards: Sequence[Shard], lock: int) -> None:
        """Use `RunFolder.open`."""
        self.output = output
        self.run = run
        self.committed: MutableMapping[int, ManifestEntry] = Ledger(shards, run.format)
        """By shard index; grows with each commit."""
        self.complete = False
        """_SUCCESS stands for this very fingerprint: there is nothing to do."""
        self.resumed = False
        """The folder held a run with this fingerprint."""
        self.adopted = 0
        """Parts that the journal did not know."""
        self.damaged: tuple[str, ...] = ()
        """Parts that had been committed and are missing or damaged: they are made again."""
        self._shards = tuple(shards)
        self._lock = lock
        self._journal: Journal | None = None

    @classmethod
    def open(
        cls, output: Path, run: RunRecord, shards: Sequence[Shard], *, restart: bool = False
    ) -> RunFolder:
        """Locks, then starts fresh, resumes, or (restart) wipes what is ours and starts fresh.

        Raises OutputError: another driver holds it, another run's parts (the differences are
        named), files that are not ours, a folder that cannot be written.
        """
        with naming(output):
            refuse_foreign(output)
            (output / OWN).mkdir(parents=True, exist_ok=True)
            sync_folder(output.absolute().parent)
            folder = cls(output, run, shards, take_lock(output))
            try:
                folder._start(restart)
            except BaseException:
                folder.close()
                raise
        return folder

    @staticmethod
    def look(
        output: Path, run: RunRecord, shards: Sequence[Shard], *, restart: bool = False
    ) -> Standing:
        """What `open` would find, with the OutputError it would raise. Changes nothing."""
        with naming(output):
            return look(output, run, shards, restart=restart)

    def commit(self, part: Part) -> ManifestEntry | None:
        """Publishes the part; None when another attempt was first and this one was discarded."""
        return self.commit_all([part])[0]

    def commit_all(self, parts: Sequence[Part]) -> list[ManifestEntry | None]:
        """The same for parts that came together: they share the syncs, which are what costs."""
        fresh: dict[int, ManifestEntry] = {}
        entries: list[ManifestEntry | None] = []
        with naming(self.output):
            for part in parts:
                if part.shard in self.committed or part.shard in fresh:
                    self.discard(part)
                    entries.append(None)
                    continue
                entry = fresh[part.shard] = self._entry(part, self._shards[part.shard])
                entries.append(entry)
                reach("before_rename")
                self._rename(part)
                reach("after_rename")
            if fresh:
                self._settle(list(fresh.values()))
        self.committed.update(fresh)
        return entries

    def discard(self, part: Part) -> None:
        """Removes the temporary files of a part that is not wanted."""
        for temp in (part.temp, part.rejects_temp):
            if temp:
                with contextlib.suppress(OSError):
                    (self.output / TEMP / Path(temp).name).unlink()

    def finish(self) -> dict[str, int | str]:
        """Counts everything, writes _manifest.json, then _SUCCESS, and returns what that says.

        Raises OutputError if it is incomplete.
        """
        missing = [s.index for s in self._shards if s.index not in self.committed]
        if missing:
            raise OutputError(
                f"{self.output}: expected {len(self._shards)} parts, {len(missing)} are missing "
                f"(shard {missing[0]} first); run the same command again"
            )
        counts = self._counts()
        with naming(self.output):
            sweep(self.output, self.committed)
            reach("before_manifest")
            replace_text(self.output / MANIFEST, self._manifest(counts))
            reach("after_manifest")
            replace_text(self.output / SUCCESS, [json.dumps(counts) + "\n"])
        self.complete = True
        return counts

    def report(self, page: str) -> Path:
        """Puts a page for people beside the manifest, in place of an earlier run's."""
        path = self.output / REPORT
        with naming(self.output):
            replace_text(path, [page])
        return path

    def close(self) -> None:
        """Gives up the lock. Temporary files stay: scorers may still be writing."""
        if self._journal is not None:
            self._journal.close()
            self._journal = None
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _start(self, restart: bool) -> None:
        """With the lock held: wipe, compare, resume or begin."""
        refuse_foreign(self.output)
        if restart:
            wipe(self.output)
        stored = read_run(self.output)
        if stored is None:
            replace_text(self.output / RUN, [json.dumps(to_plain(self.run), indent=1)])
        else:
            refuse_other(self.output, stored, self.run)
        self.resumed = stored is not None
        for folder in (TEMP, REJECTS):
            (self.output / folder).mkdir(exist_ok=True)
        self._journal = Journal(self.output / JOURNAL)
        sync_folder(self.output / OWN)
        self._resume()

    def _resume(self) -> None:
        """Trusts the journal where footers agree, adopts whole parts, drops the rest."""
        assert self._journal is not None
        known = self._journal.entries
        digest = self.run.fingerprint.digest
        found = survey(self.output, self._shards, known, run=digest, format=self.run.format)
        whole = {f.shard.index: f.entry for f in found if f.entry is not None}
        broken = [part_name(f.shard.index, self.run.format) for f in found if f.entry is None]
        self.damaged = damaged_parts(found, known, self.run.format)
        self.adopted = sum(f.adopted for f in found)
        self.complete = (self.output / SUCCESS).exists() and len(whole) == len(self._shards)
        if not self.complete:
            (self.output / SUCCESS).unlink(missing_ok=True)
            sync_folder(self.output)
        for name in broken:
            (self.output / name).unlink()
        if self.adopted:
            self._append([f.entry for f in found if f.adopted and f.entry is not None])
        self.committed.update(whole)
        known.clear()  # the ledger has them now
        sweep(self.output, self.committed)

    def _entry(self, part: Part, shard: Shard) -> ManifestEntry:
        """The journal's line for a part, after checking that the part is what it says."""
        temp = self.output / TEMP / Path(part.temp).name
        nbytes = temp.stat().st_size if temp.exists() else -1
        if part.path != part_name(shard.index, self.run.format) or nbytes != part.nbytes:
            raise OutputError(
                f"{temp}: expected {part.nbytes} bytes for {shard}, got "
                f"{nbytes if nbytes >= 0 else 'no file'}; is the output folder shared by all "
                "machines?"
            )
        return ManifestEntry(
            shard=shard.index,
            path=part.path,
            source=shard.path,
            first_row=shard.first_row,
            rows_in=part.rows_in,
            rows_out=part.rows_out,
            rejects=part.rejects,
            nbytes=part.nbytes,
            checksum=part.checksum,
            rejects_path=rejects_name(shard.index) if part.rejects_temp else "",
            rejects_nbytes=part.rejects_nbytes,
            rejects_checksum=part.rejects_checksum,
        )

    def _rename(self, part: Part) -> None:
        """Rejects first: whoever finds the part without a journal line finds its rejects too."""
        rejects = self.output / rejects_name(part.shard)
        with contextlib.suppress(FileNotFoundError):  # of an earlier attempt; as a rule, nothing
            rejects.unlink()
            sync_folder(rejects.parent)
        if part.rejects_temp:
            (self.output / TEMP / Path(part.rejects_temp).name).replace(rejects)
            sync_folder(rejects.parent)
        (self.output / TEMP / Path(part.temp).name).replace(self.output / part.path)

    def _settle(self, entries: Sequence[ManifestEntry]) -> None:
        """Makes renames last, then says so in the journal."""
        sync_folder(self.output)
        reach("before_journal")
        self._append(entries)
        reach("after_journal")

    def _append(self, entries: Sequence[ManifestEntry]) -> None:
        assert self._journal is not None, "the run folder is closed"
        self._journal.append(entries)

    def _counts(self) -> dict[str, int | str]:
        """What all entries add up to, each one counted against its shard."""
        rows_in = rows_out = rejects = 0
        for shard in self._shards:
            entry = self.committed[shard.index]
            skipped = entry.rows_in - entry.rows_out
            if entry.rows_in != shard.rows or skipped not in (0, entry.rejects):
                raise OutputError(
                    f"{self.output / entry.path}: expected {shard.rows} rows in output and "
                    f"rejects, got {entry.rows_out} and {entry.rejects}; this is a bug"
                )
            rows_in, rows_out = rows_in + entry.rows_in, rows_out + entry.rows_out
            rejects += entry.rejects
        return {
            "fingerprint": self.run.fingerprint.digest,
            "shards": len(self._shards),
            "rows_in": rows_in,
            "rows_out": rows_out,
            "rejects": rejects,
        }

    def _manifest(self, counts: dict[str, int | str]) -> Iterator[str]:
        """The text of pipeline.records.Manifest, a line a part: never all of it in memory."""
        yield json.dumps(counts)[:-1] + ', "entries": ['
        comma = ""
        for shard in self._shards:
            yield f"{comma}\n {json.dumps(to_plain(self.committed[shard.index]))}"
            comma = ","
        yield "\n]}\n"
