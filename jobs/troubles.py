"""Troubles: the lines that people must see while a job runs, each reason said once."""

from __future__ import annotations

from pipeline.events import (
    Event,
    MachineRefused,
    ScorerDied,
    ScorerDraining,
    ScorerJoined,
    ScorerLeft,
    ShardFailed,
    ShardSetAside,
)

_TOLD_LATER = ("rows", "input")
"""Kinds of failure that are never tried again: the job's end, or the shard's, says why."""


class Troubles:
    """Makes the lines; remembers what it has said."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def line(self, event: Event) -> str:
        """The line for an event of this job, "" for one that is no trouble."""
        match event:
            case ScorerDied(scorer, reason):
                return f"scorer {scorer} died{self._because(reason)}"
            case ScorerDraining(scorer, reason):
                return f"scorer {scorer} gets no more shards{self._because(reason)}"
            case ScorerLeft(scorer, reason):
                return f"scorer {scorer} left{self._because(reason)}"
            case ScorerJoined(scorer, machine):
                return f"scorer {scorer} joined on {machine}"
            case MachineRefused(machine, reason):
                return f"{machine} cannot take part{self._because(reason)}"
            case ShardFailed() if event.kind not in _TOLD_LATER:
                shard = event.lease.shard
                why = event.message.removeprefix(f"{shard}: ")
                return f"{shard} failed on scorer {event.scorer}{self._because(why)}"
            case ShardSetAside():
                why = event.reason.removeprefix(f"shard {event.shard}: ")
                # A failure's reason goes on with the shard's file and rows; they were said, too.
                known = any(why.endswith(reason) for reason in self._said)
                return f"shard {event.shard} set aside{'' if known else self._because(why)}"
        return ""

    def _because(self, reason: str) -> str:
        if reason in self._said:
            return ", as before"
        self._said.add(reason)
        return f": {reason}"
