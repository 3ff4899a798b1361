"""The run folder: lock, journal, commit, resume, finish. Only the driver opens it.

    OUT/part-000123.parquet          final parts, deterministic names
    OUT/_colonnade/run.json          the fingerprint, field by field, and the kernel choices
    OUT/_colonnade/journal.jsonl     a synced line for each commit
    OUT/_colonnade/lock              flock of the driver; in an object store, its lease
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
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from pipeline.checksums import WRITTEN
from pipeline.errors import OutputError
from pipeline.failpoints import reach
from pipeline.journal import Journal
from pipeline.ledger import Ledger
from pipeline.parts import REJECTS, Part, discard, part_of, rejects_name
from pipeline.records import (
    JOURNAL,
    LOCK,
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
    look,
    refuse_foreign,
    refuse_gone,
    refuse_other,
    survey,
    sweep,
    wipe,
)
from pipeline.shards import Shard
from pipeline.stores import OWN, TEMP, Lock, Store, joined, store_at
from pipeline.wire import to_plain

__all__ = ["Manifest", "ManifestEntry", "RunFolder", "RunRecord", "Standing", "read_run"]


class RunFolder:
    """The output folder, held by one driver. A context manager; close() gives up the lock."""

    def __init__(self, store: Store, run: RunRecord, shards: Sequence[Shard], lock: Lock) -> None:
        """Use `RunFolder.open`."""
        self.store = store
        self.run = run
        self.committed = Ledger(shards, run.format)
        """By shard index; grows with each commit."""
        self.complete = False
        """_SUCCESS stands for this very fingerprint: there is nothing to do."""
        self.resumed = False
        """The folder held a run with this fingerprint."""
        self.adopted = 0
        """Parts that the journal did not know."""
        self.damaged: tuple[str, ...] = ()
        """Parts that had been committed and are missing or damaged: they are made again."""
        self._shards = shards
        self._lock = lock
        self._journal: Journal | None = None

    @classmethod
    def open(
        cls, output: str | Path, run: RunRecord, shards: Sequence[Shard], *, restart: bool = False
    ) -> RunFolder:
        """Locks, then starts fresh, resumes, or (restart) wipes what is ours and starts fresh.

        Raises OutputError: another driver holds it, another run's parts (the differences are
        named), files that are not ours, a folder that cannot be written.
        """
        store = store_at(output)
        with _naming(store):
            refuse_foreign(store)
            store.make(OWN)
            folder = cls(store, run, shards, store.lock(LOCK))
            try:
                folder._start(restart)
            except BaseException:
                folder.close()
                raise
        return folder

    @staticmethod
    def look(
        output: str | Path, run: RunRecord, shards: Sequence[Shard], *, restart: bool = False
    ) -> Standing:
        """What `open` would find, with the OutputError it would raise. Changes nothing."""
        store = store_at(output)
        with _naming(store):
            return look(store, run, shards, restart=restart)

    def commit(self, part: Part) -> ManifestEntry | None:
        """Publishes the part; None when another attempt was first and this one was discarded."""
        self._lock.check()
        if part.shard in self.committed:
            self.discard(part)
            return None
        shard = self._shards[part.shard]
        entry = self._entry(part, shard)
        with _naming(self.store):
            reach("before_rename")
            self._publish(part)
            reach("after_rename")
            reach("before_journal")
            self._append([entry])
            reach("after_journal")
        self.committed[part.shard] = entry
        return entry

    def discard(self, part: Part) -> None:
        """Removes the temporary files of a part that is not wanted."""
        discard(self.store, self._shards[part.shard], self.run.format, part.temp, part.rejects_temp)

    def finish(self) -> dict[str, int | str]:
        """Counts everything, writes _manifest.json, then _SUCCESS, and returns what that says.

        Raises OutputError if it is incomplete, or if parts were deleted from outside.
        """
        missing = self.committed.missing
        if len(missing):
            raise OutputError(
                f"{self.store.where}: expected {len(self._shards)} parts, {len(missing)} are "
                f"missing (shard {missing[0]} first); run the same command again"
            )
        self._lock.check()
        counts = self._counts()
        with _naming(self.store):
            refuse_gone(self.store, self._shards, self.committed, self.run.format)
            sweep(self.store, self.committed)
            reach("before_manifest")
            self.store.write(MANIFEST, self._manifest(counts))
            reach("after_manifest")
            self.store.write(SUCCESS, json.dumps(counts) + "\n")
        self.complete = True
        return counts

    def report(self, page: str) -> str:
        """Puts a page for people beside the manifest, in place of an earlier run's."""
        with _naming(self.store):
            self.store.write(REPORT, page)
        return joined(self.store.where, REPORT)

    def close(self) -> None:
        """Gives up the lock. Temporary files stay: scorers may still be writing."""
        if self._journal is not None:
            self._journal.close()
            self._journal = None
        self._lock.release()

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
        refuse_foreign(self.store)
        if restart:
            wipe(self.store)
        stored = read_run(self.store)
        if stored is None:
            self._record(self.run)
        else:
            refuse_other(self.store, stored, self.run)
        self.resumed = stored is not None
        self._journal = Journal(self.store.open_log(JOURNAL))
        self.store.make(TEMP, REJECTS)
        self._resume()
        if stored is not None and not self.complete and stored.checksums != WRITTEN:
            self._record(stored)

    def _record(self, run: RunRecord) -> None:
        """Before parts are: see RunRecord.checksums."""
        run = replace(run, checksums=WRITTEN)
        self.store.write(RUN, json.dumps(to_plain(run), indent=1))

    def _resume(self) -> None:
        """Trusts the journal where footers agree, adopts whole parts, drops the rest."""
        assert self._journal is not None
        found = survey(self.store, self._shards, self.run)
        self.damaged = found.damaged
        self.adopted = len(found.adopted)
        self.complete = self.store.nbytes(SUCCESS) >= 0 and len(found.whole) == len(self._shards)
        if not self.complete:
            self.store.delete(SUCCESS)
            self.store.settle()
        self.store.delete(*found.broken)
        if found.adopted:
            self._append(found.adopted)
        self.committed = found.whole
        sweep(self.store, self.committed)

    def _entry(self, part: Part, shard: Shard) -> ManifestEntry:
        """The journal's line for a part, after checking that the part is what it says."""
        nbytes = self.store.nbytes(part.temp)
        if part.path != part_of(shard, self.run.format) or nbytes != part.nbytes:
            raise OutputError(
                f"{joined(self.store.where, part.temp)}: expected {part.nbytes} bytes for "
                f"{shard}, got {nbytes if nbytes >= 0 else 'no file'}; is the output folder "
                "shared by all machines?"
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
            filtered=part.filtered,
        )

    def _publish(self, part: Part) -> None:
        """Rejects first: whoever finds the part without a journal line finds its rejects too."""
        rejects = rejects_name(part.shard)
        if part.rejects_temp:
            self.store.publish(part.rejects_temp, rejects)
        else:
            self.store.unpublish(rejects)
        self.store.publish(part.temp, part.path)

    def _append(self, entries: Sequence[ManifestEntry]) -> None:
        assert self._journal is not None, "the run folder is closed"
        self._journal.append(entries)

    def _counts(self) -> dict[str, int | str]:
        """What all entries add up to, each one counted against its shard."""
        if entry := self.committed.odd():
            raise OutputError(
                f"{joined(self.store.where, entry.path)}: expected "
                f"{self._shards[entry.shard].rows} rows in output, rejects and left out, got "
                f"{entry.rows_out}, {entry.rejects} and {entry.filtered}; this is a bug"
            )
        sums = to_plain(self.committed.totals())
        digest = self.run.fingerprint.digest
        return {"fingerprint": digest, "shards": len(self._shards), **sums}

    def _manifest(self, counts: dict[str, int | str]) -> Iterator[str]:
        """The text of pipeline.records.Manifest, a line a part: never all of it in memory."""
        yield json.dumps(counts)[:-1] + ', "entries": ['
        comma = ""
        for entry in self.committed.values():
            yield f"{comma}\n {json.dumps(to_plain(entry))}"
            comma = ","
        yield "\n]}\n"


@contextlib.contextmanager
def _naming(store: Store) -> Iterator[None]:
    """OSError inside comes out as OutputError that names the folder."""
    try:
        yield
    except OSError as e:
        raise store.trouble(e) from e
