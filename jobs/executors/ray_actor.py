"""ScorerActor: a scorer on the far side of Ray.

Every call may be made twice: an answer can be lost on the way, and then the caller cannot know
whether the call was. So a second spec and a lease that is known already change nothing, and
events stay in the outbox until a later call says that they arrived.
"""

from __future__ import annotations

from collections.abc import Sequence
from queue import SimpleQueue
from threading import Condition, Thread
from typing import TYPE_CHECKING, Any

from jobs.executors.serving import serve, warm_up
from pipeline.events import RowsScored, ScorerDied

if TYPE_CHECKING:
    from jobs.executors.ray_stages import RayLink
    from pipeline.events import Event
    from pipeline.scorer_spec import ScorerSpec
    from pipeline.shards import Lease
    from pipeline.stage_spec import StageSpec

CONCURRENCY = 4
"""Calls an actor answers at once: one waits for events, one takes a lease; the others are for
those that are made again."""

POLL_SECONDS = 5.0
"""How long an actor holds a request for events when there are none."""

LINGER_SECONDS = 0.5
"""How long progress alone waits for more, or for a result, which nothing waits for: each answer
takes the driver a millisecond of CPU, on cores that engines run on."""

MOST_EVENTS = 1000
"""In the outbox while the driver does not ask: progress beyond that is dropped. Results are never
so many, for a scorer holds two leases."""


class Outbox:
    """Events until they are acknowledged."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._acknowledged = 0
        self._changed = Condition()

    def put(self, event: Event) -> None:
        with self._changed:
            if len(self._events) < MOST_EVENTS or not isinstance(event, RowsScored):
                self._events.append(event)
                self._changed.notify_all()

    def after(self, seen: int, timeout: float) -> list[Event]:
        """All events but the first `seen` ones, which are forgotten; waits for at least one, and
        for more than progress a little."""
        with self._changed:
            if seen > self._acknowledged:
                del self._events[: seen - self._acknowledged]
                self._acknowledged = seen
            self._changed.wait_for(self._has_result, min(timeout, LINGER_SECONDS))
            self._changed.wait_for(lambda: self._events, max(0.0, timeout - LINGER_SECONDS))
            return list(self._events)

    def _has_result(self) -> bool:
        return any(not isinstance(event, RowsScored) for event in self._events)


class ScorerActor:
    """Leases in, events out, pipeline.scorer between them."""

    def __init__(self, number: int, stages: Sequence[Any] = ()) -> None:
        """`stages` are the StageActors of later stages, where those are on other machines."""
        self._number = number
        self._stages = tuple(stages)
        self._spec: SimpleQueue[ScorerSpec] = SimpleQueue()
        self._leases: SimpleQueue[Lease] = SimpleQueue()
        self._known: set[tuple[int, int]] = set()
        self._outbox = Outbox()
        Thread(target=self._serve, name="serve", daemon=True).start()

    def begin(self, spec: ScorerSpec) -> None:
        """May be called before or after the first leases: calls run concurrently, in any order."""
        self._spec.put(spec)

    def lend(self, lease: Lease) -> None:
        key = (lease.shard.index, lease.attempt)
        if key not in self._known:
            self._known.add(key)
            self._leases.put(lease)

    def events(self, seen: int) -> list[Event]:
        """Events behind the first `seen` of this life; waits a few seconds for one to happen."""
        return self._outbox.after(seen, POLL_SECONDS)

    def _link(self, spec: StageSpec) -> RayLink:
        from jobs.executors.ray_stages import RayLink  # imports ray: only in an actor

        return RayLink(spec, self._stages[spec.number - 1])

    def _serve(self) -> None:
        try:
            warm_up()
            link = self._link if self._stages else None
            serve(self._spec.get(), self._leases.get, self._outbox.put, link)
        except BaseException as error:
            self._outbox.put(ScorerDied(self._number, f"{type(error).__name__}: {error}"))
