"""What an earlier driver left in the output folder: what is ours, what is whole, what is not."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from pipeline.durable import checksum, sync_folder
from pipeline.errors import OutputError
from pipeline.parts import (
    OWN,
    REJECTS,
    TEMP,
    footer_marks,
    part_name,
    read_marks,
    rejects_name,
)
from pipeline.records import JOURNAL, MANIFEST, RUN, SUCCESS, ManifestEntry
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
                "got one more; choose another output, or --restart to throw this run away"
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
            f"{path}: expected {shard} of run {run}, got {marks or 'a file that is not ours'}; "
            "choose another output, or --restart to throw this run away"
        )
    if entry is not None:
        whole = (nbytes, rows) == (entry.nbytes, entry.rows_out)
        return entry if whole and _rejects_stand(output, entry) else None
    return _adopted(output, shard, rows, nbytes, format)


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
    sync_folder(output)
    for path in list(output.iterdir()):
        if PART_NAME.fullmatch(path.name):
            path.unlink(missing_ok=True)
    sweep(output, {})
    (output / JOURNAL).unlink(missing_ok=True)
    sync_folder(output)
    (output / RUN).unlink(missing_ok=True)
    sync_folder(output / OWN)
