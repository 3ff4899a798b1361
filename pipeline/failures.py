"""What a scorer says of a shard that it could not score: who is to blame, by name."""

from __future__ import annotations

from engine.errors import EngineError
from pipeline.errors import InputError, OutputError, RowError
from pipeline.events import ShardFailed
from pipeline.shards import Lease, Shard

KINDS: tuple[tuple[type[BaseException], str], ...] = (
    (RowError, "rows"),
    (InputError, "input"),
    (OutputError, "output"),
    (EngineError, "engine"),
    (BaseException, "internal"),
)
"""What kind of ShardFailed an exception becomes: the first row that fits."""


def shard_failed(scorer: int, lease: Lease, problem: BaseException) -> ShardFailed:
    """The event for an exception; rows in a RowError count from the start of the file."""
    kind = next(kind for cls, kind in KINDS if isinstance(problem, cls))
    # Arrow ends some of its messages with an empty line.
    return ShardFailed(scorer, lease, kind, _message(lease.shard, problem).strip())


def _message(shard: Shard, problem: BaseException) -> str:
    """Names file, row and field where they are to blame, the shard otherwise."""
    if isinstance(problem, RowError):
        return f"{shard.path}: {problem}"
    if isinstance(problem, InputError | OutputError):
        return str(problem)
    if isinstance(problem, EngineError):
        return f"{shard}: {problem}"
    return f"{shard}: {type(problem).__name__}: {problem}"
