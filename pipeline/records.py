"""What the run folder holds about a run: run.json, entries of committed parts, _manifest.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.checksums import algorithm_of
from pipeline.errors import OutputError
from pipeline.fingerprint import Fingerprint
from pipeline.stores import OWN, Store, joined, store_at
from pipeline.wire import from_plain

RUN = f"{OWN}/run.json"
JOURNAL = f"{OWN}/journal.jsonl"
LOCK = f"{OWN}/lock"
MANIFEST = "_manifest.json"
SUCCESS = "_SUCCESS"
REPORT = "_report.html"
"""For people. Readers of datasets pass over it, and would stumble over report.html."""


@dataclass(frozen=True, slots=True)
class RunRecord:
    """run.json. `choices` is read before compiling, so that a resume computes the same bytes."""

    fingerprint: Fingerprint
    choices: Mapping[str, str]
    model: str
    """Path, for people."""
    format: str
    """"parquet" or "arrow"."""
    selected: tuple[str, ...] = ()
    """Outputs of the model that are computed, and whose nodes `choices` are of; () for all."""
    checksums: str = "sha256"
    """By which algorithm parts were hashed last (older ones may be by another). A version from
    before there were two knows no such field and refuses the folder, whose parts it would take
    for damaged and have deleted."""


@dataclass(frozen=True, slots=True)
class ManifestEntry:
    """A committed part: a line of the journal, an entry of the manifest."""

    shard: int
    path: str
    """Relative to the output folder."""
    source: str
    first_row: int
    rows_in: int
    rows_out: int
    rejects: int
    nbytes: int
    checksum: str
    rejects_path: str
    """Relative to the output folder, "" when there are none."""
    rejects_nbytes: int
    rejects_checksum: str
    filtered: int = 0
    """Rows that --where leaves out; they are of rows_in, too."""

    @property
    def adds_up(self) -> bool:
        """Every row is in the output, in the rejects (or both: nulls), or filtered."""
        return self.rows_in - self.rows_out - self.filtered in (0, self.rejects)


@dataclass(frozen=True, slots=True)
class Manifest:
    """_manifest.json."""

    fingerprint: str
    shards: int
    rows_in: int
    rows_out: int
    rejects: int
    entries: tuple[ManifestEntry, ...]
    filtered: int = 0


def read_run(output: str | Path | Store) -> RunRecord | None:
    """What an earlier run recorded in this folder, or None. Creates nothing, locks nothing."""
    store = store_at(output) if isinstance(output, str | Path) else output
    path = joined(store.where, RUN)
    try:
        run = from_plain(RunRecord, json.loads(store.read(RUN)))
        algorithm_of(f"{run.checksums}:", path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as e:
        raise store.trouble(e) from e
    except ValueError as e:
        raise OutputError(
            f"{path}: expected the record of a run, got {e}; if another version of Colonnade made "
            "this folder, use that one; --restart throws this run away"
        ) from e
    return run
