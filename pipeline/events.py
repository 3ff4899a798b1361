"""What is reported while a job runs: by scorers to the driver, by the driver to the user.

All frozen and JSON-able (`to_json`, `from_json`): an executor may send them as text over a pipe.
Progress displays and `--progress json` need nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.parts import Part, Seconds
from pipeline.shards import Lease
from pipeline.wire import from_plain, to_plain


@dataclass(frozen=True, slots=True)
class ScorerReady:
    """The scorer has compiled its program, with the planned fingerprint, and opened a session."""

    scorer: int
    fingerprint: str
    """Of the program, as compiled in the scorer's own process."""
    report: Mapping[str, Any]
    """Plain JSON: pid, host, cpus, node, startup seconds; an executor may add its placement."""


@dataclass(frozen=True, slots=True)
class RowsScored:
    """Progress inside a shard, at most every 0.2 s. `rows` counts up over one attempt."""

    scorer: int
    shard: int
    attempt: int
    rows: int


@dataclass(frozen=True, slots=True)
class PartWritten:
    """The lease is done: the part lies, synced, under its temporary name. The driver commits."""

    scorer: int
    part: Part


@dataclass(frozen=True, slots=True)
class ShardFailed:
    """The lease ended without a part, the scorer lives on and its temporary files are gone.

    kind: "rows" (bad rows under --on-error fail), "input" (file unreadable or changed), "engine"
    (the model cannot run on these rows), "output" (disk full and the like), "internal" (a fault
    of ours). A retry elsewhere can help "engine", "output" and "internal"; not "rows".
    """

    scorer: int
    lease: Lease
    kind: str
    message: str


@dataclass(frozen=True, slots=True)
class ScorerDied:
    """The scorer can do no more; every lease it holds must go to another."""

    scorer: int
    reason: str
    refused: bool = False
    """It does not have what was planned (another model, another version): a new start would not
    either."""


@dataclass(frozen=True, slots=True)
class ScorerJoined:
    """A machine came while the job runs, and this scorer was started on it."""

    scorer: int
    machine: str


@dataclass(frozen=True, slots=True)
class ScorerDraining:
    """The scorer's machine will be taken away: it ends what it holds, and gets nothing new."""

    scorer: int
    reason: str


@dataclass(frozen=True, slots=True)
class ScorerLeft:
    """The scorer went with its machine: no fault of its own or of its shards, and it cannot be
    started again.
    """

    scorer: int
    reason: str


@dataclass(frozen=True, slots=True)
class MachineRefused:
    """A machine came while the job runs, and cannot take part."""

    machine: str
    reason: str


@dataclass(frozen=True, slots=True)
class JobStarted:
    """After the plan and the resume: what there is to do."""

    output: str
    shards: int
    rows: int
    engines: int
    committed_shards: int
    """Already done by an earlier run."""
    committed_rows: int
    uncompiled: int = 0
    """Kernels that scorers of this machine have to compile before they are ready."""


@dataclass(frozen=True, slots=True)
class ShardLent:
    scorer: int
    lease: Lease


@dataclass(frozen=True, slots=True)
class PartCommitted:
    """The part stands under its final name and in the journal."""

    scorer: int
    shard: int
    rows_in: int
    rows_out: int
    rejects: int
    nbytes: int
    seconds: Seconds


@dataclass(frozen=True, slots=True)
class PartDiscarded:
    """An attempt at a shard came late, or was called off: another was first, or its scorer had
    been taken for dead."""

    scorer: int
    shard: int
    attempt: int


@dataclass(frozen=True, slots=True)
class ShardSetAside:
    """The shard is given up; the job goes on and ends with exit code 3."""

    shard: int
    reason: str


@dataclass(frozen=True, slots=True)
class JobEnded:
    exit_code: int
    rows_in: int
    rows_out: int
    rejects: int
    seconds: float
    message: str


Event = (
    ScorerReady
    | RowsScored
    | PartWritten
    | ShardFailed
    | ScorerDied
    | ScorerJoined
    | ScorerDraining
    | ScorerLeft
    | MachineRefused
    | JobStarted
    | ShardLent
    | PartCommitted
    | PartDiscarded
    | ShardSetAside
    | JobEnded
)

EVENTS: dict[str, type[Event]] = {
    cls.__name__: cls
    for cls in (
        ScorerReady,
        RowsScored,
        PartWritten,
        ShardFailed,
        ScorerDied,
        ScorerJoined,
        ScorerDraining,
        ScorerLeft,
        MachineRefused,
        JobStarted,
        ShardLent,
        PartCommitted,
        PartDiscarded,
        ShardSetAside,
        JobEnded,
    )
}


def to_json(event: Event) -> str:
    """One line: the event's name under "event", then its fields."""
    return json.dumps({"event": type(event).__name__, **to_plain(event)})


def from_json(text: str) -> Event:
    """The event of a line. Raises ValueError for anything that is not one of EVENTS."""
    plain = json.loads(text)
    name = plain.pop("event", None) if isinstance(plain, dict) else None
    if name not in EVENTS:
        raise ValueError(f"event: expected one of {', '.join(EVENTS)}, got {text!r:.80}")
    return from_plain(EVENTS[name], plain)
