"""A scorer: one process, one session, one NUMA node; leases in, parts out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.binding import Binding
from pipeline.events import Event
from pipeline.shards import Lease
from pipeline.wire import from_plain, to_plain


@dataclass(frozen=True, slots=True)
class ScorerSpec:
    """All a scorer needs to know, JSON-able: `to_json()`, `ScorerSpec.from_json(plain)`."""

    scorer: int
    """Number of the scorer, echoed in its events."""
    model: str
    """Absolute path."""
    model_sha256: str
    program: str
    """Fingerprint of the program; a scorer that compiles another one refuses to work."""
    choices: Mapping[str, str]
    switches: Mapping[str, Any]
    """Keyword arguments of engine.compile besides choices."""
    binding: Binding
    batch_rows: int
    cpus: tuple[int, ...]
    node: int
    output: str
    """Absolute path of the output folder, reachable from the scorer's machine."""
    format: str
    """"parquet" or "arrow", of the parts."""
    fingerprint: str
    """Digest of the run's fingerprint; stands in every part."""
    on_error: str
    """"fail", "skip" or "null"."""

    def to_json(self) -> dict[str, Any]:
        return dict(to_plain(self))

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> ScorerSpec:
        return from_plain(cls, dict(plain))


class Scorer:
    """Three threads, read | run | write, joined by short queues; they overlap across shards.

    The constructor returns at once and never raises for what is wrong with the model or the
    machine: the session is opened on the run thread (the first lease is read meanwhile), then
    ScorerReady or ScorerDied is emitted. `emit` is called from all three threads, one at a time,
    and should not block for long. Every lease submitted ends in exactly one PartWritten or
    ShardFailed, unless the scorer dies (ScorerDied, after which nothing more is emitted).
    """

    def __init__(self, spec: ScorerSpec, emit: Callable[[Event], None]) -> None:
        raise NotImplementedError

    def submit(self, lease: Lease) -> None:
        """Queues the lease; never blocks. Two in flight are enough to keep all threads busy."""
        raise NotImplementedError

    def close(self, *, abandon: bool = False) -> None:
        """Waits for submitted leases; `abandon` drops them (no event) and removes their temps."""
        raise NotImplementedError
