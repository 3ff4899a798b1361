"""Census: the raylets of a cluster, and what has become of them since the last look.

Ray tells of machines in a table that is asked every two seconds. That a machine will be taken
away (a preemption notice, an autoscaler that scales down, `ray drain-node`) stands in another
table, which Ray keeps for its own libraries: where a version has none, such machines are seen
only once they are gone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from time import monotonic, time
from typing import Any

import ray

LOOK_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Changes:
    """Since the last look, by raylet."""

    came: dict[str, int] = field(default_factory=dict)
    """CPUs that it offers, by Ray's count; more than none."""
    draining: dict[str, str] = field(default_factory=dict)
    """What is known of its end."""
    gone: dict[str, str] = field(default_factory=dict)
    """Why."""


class Census:
    """Remembers which raylets it has told of."""

    def __init__(self) -> None:
        self._known: set[str] = set()
        self._draining: set[str] = set()
        self._next = 0.0

    def due(self) -> bool:
        return monotonic() >= self._next

    def look(self) -> Changes:
        """Ask Ray now."""
        self._next = monotonic() + LOOK_SECONDS
        rows = _raylets()
        leaving = _draining()
        alive = {row["NodeID"]: int(row["Resources"].get("CPU", 0)) for row in rows if row["Alive"]}
        changes = Changes(
            came={
                raylet: cpus
                for raylet, cpus in alive.items()
                if cpus and raylet not in self._known and raylet not in leaving
            },
            draining={
                raylet: f"its machine will be taken away{_when(deadline)}"
                for raylet, deadline in leaving.items()
                if raylet in self._known and raylet not in self._draining
            },
            gone={
                row["NodeID"]: _why(row)
                for row in rows
                if not row["Alive"] and row["NodeID"] in self._known
            },
        )
        self._known = (self._known | set(changes.came)) - set(changes.gone)
        self._draining |= set(changes.draining)
        return changes


def lives(raylet: str) -> bool:
    return any(row["Alive"] for row in _raylets() if row["NodeID"] == raylet)


def _raylets() -> list[dict[str, Any]]:
    """Ray's table of its nodes, dead ones included."""
    table: Any = ray.nodes  # not typed by Ray
    rows: list[dict[str, Any]] = table()
    return rows


def _draining() -> dict[str, int]:
    """Raylet -> deadline in milliseconds since 1970, 0 for none."""
    try:
        from ray._private.state import state

        table: dict[str, int] = state.get_draining_nodes()
        return dict(table)
    except (ImportError, AttributeError):  # private: another version may not have it
        return {}


def _when(deadline_ms: int) -> str:
    return f" in {max(0.0, deadline_ms / 1000 - time()):.0f} s" if deadline_ms else ""


def _why(row: dict[str, Any]) -> str:
    message = str(row.get("DeathReasonMessage") or "no reason given").strip()
    return f"its machine is gone: {message.splitlines()[0]}"
