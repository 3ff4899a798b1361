"""Endings: when a job stops before its last shard, and what it says for itself at the end."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from jobs.errors import INCOMPLETE, INFRASTRUCTURE, USER

if TYPE_CHECKING:
    from pipeline.events import ShardFailed
    from pipeline.shards import Shard

UNWRITTEN = 2
"""So many failed writes, with no commit between them, are the disk's fault: others fail, too."""

ALIKE = 3
"""So many shards that fail in the same way, before any succeeds, speak for all of them."""


@dataclass(frozen=True, slots=True)
class Limits:
    """When to stop waiting, retrying and tolerating."""

    stall_seconds: float
    max_restarts: int
    max_errors: int | None
    stop_on_bad_input: bool
    """--on-error fail: the first bad row or unreadable file ends the job."""
    rejects: str = ""
    """Where the rejects are listed, for people."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How the job ended: the exit code, and for people why."""

    exit_code: int
    message: str
    over_budget: bool = False
    """Stopped by --max-errors: the same command would stop again."""


@dataclass(slots=True)
class Streak:
    """Failures since the last commit, or since the start: whether they are of one kind."""

    _committed: bool = False
    _unwritten: int = 0
    _shards: dict[str, set[int]] = field(default_factory=dict)
    """Failure, less what names its shard -> shards that failed so; until the first commit."""

    def succeeded(self) -> None:
        """A part was committed."""
        self._committed, self._unwritten = True, 0

    def failed(self, event: ShardFailed) -> Ending | None:
        """The job's ending, when trying more shards would only show the same again."""
        if event.kind == "output":
            self._unwritten += 1
            return Ending(INFRASTRUCTURE, event.message) if self._unwritten >= UNWRITTEN else None
        # A damaged file is that file's own trouble, even where the first three are damaged.
        if self._committed or event.kind not in ("engine", "internal"):
            return None
        shard = event.lease.shard
        alike = self._shards.setdefault(_gist(event.message, shard), set())
        alike.add(shard.index)
        if len(self._shards) > 1 or len(alike) < ALIKE:
            return None
        return Ending(
            USER if event.kind == "engine" else INFRASTRUCTURE,
            f"the first {ALIKE} shards failed in the same way, so the others were not tried: "
            f"{event.message}",
        )


def over_budget(rejects: int, limits: Limits) -> Ending | None:
    """The ending of a job with more rejects than --max-errors, those of earlier runs included."""
    if limits.max_errors is None or rejects <= limits.max_errors:
        return None
    return Ending(
        INCOMPLETE,
        f"{count(rejects, 'row')} rejected, over --max-errors {limits.max_errors}; "
        f"they are listed in {limits.rejects}",
        over_budget=True,
    )


def shards_set_aside(aside: Mapping[int, str]) -> Ending:
    """The ending of a job that has done all it could; index -> reason of what is left."""
    named = (
        reason if reason.startswith(f"shard {index}:") else f"shard {index}: {reason}"
        for index, reason in sorted(aside.items())[:3]
    )  # fmt: skip
    return Ending(
        INCOMPLETE,
        f"{count(len(aside), 'shard')} set aside, run again to try once more: {'; '.join(named)}",
    )


def count(number: int, what: str) -> str:
    """1 shard, 2 shards."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _gist(message: str, shard: Shard) -> str:
    """What a failure has in common with the same failure of another shard."""
    return re.sub(r"\d+", "#", message.replace(str(shard), "").replace(shard.path, ""))
