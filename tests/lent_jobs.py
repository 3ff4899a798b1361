"""The driver's loop over a scripted executor, and what a test asks about afterwards."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from scripted_executor import ScriptedExecutor, Spec, shard

from jobs.endings import Ending, Limits
from jobs.leases import LeaseTable
from jobs.lending import Lending
from pipeline.events import Event
from pipeline.parts import Part

LIMITS = Limits(stall_seconds=30.0, max_restarts=3, max_errors=None, stop_on_bad_input=True)


class Ledger:
    """What the run folder would publish."""

    def __init__(self) -> None:
        self.commits: list[Part] = []
        self.discards: list[Part] = []

    def commit(self, part: Part) -> object:
        self.commits.append(part)
        return part

    def discard(self, part: Part) -> None:
        self.discards.append(part)


class Run:
    """One run of the loop, with everything that a test asks about afterwards."""

    def __init__(
        self,
        executor: ScriptedExecutor,
        shards: int,
        limits: Limits = LIMITS,
        ledger: Ledger | None = None,
    ) -> None:
        self.executor = executor
        self.ledger = ledger or Ledger()
        left = [i for i in range(shards) if i not in self.committed]
        self.table = LeaseTable([shard(i, nbytes=100 + i % 3) for i in left], executor.clock)
        self.told: list[Event] = []
        self.lending = Lending(
            executor, range(executor.scorers), self.table, self.ledger, limits, self.told.append,
            admit=lambda seats: tuple(Spec(seat.scorer) for seat in seats),  # type: ignore[misc]
            clock=executor.clock,
        )  # fmt: skip

    def run(self) -> Ending:
        return self.lending.run()

    @property
    def committed(self) -> list[int]:
        return sorted(p.shard for p in self.ledger.commits)


def kindly(options: Sequence[str]) -> str:
    """Ready first, then the oldest work, never a misfortune."""
    for wanted in ("ready", "finish"):
        for option in options:
            if option.startswith(wanted):
                return option
    return options[0]


def dawdling(number: int) -> Callable[[Sequence[str]], str]:
    """Ready first; then the scorer of that number never ends its work, the others do."""

    def choose(options: Sequence[str]) -> str:
        ready = [o for o in options if o.startswith("ready")]
        done = [o for o in options if o.startswith("finish") and o != f"finish {number}"]
        return (ready or done or ["dawdle"])[0]

    return choose


def scripted(
    *acts: str, scorers: int = 2, shards: int = 9, limits: Limits = LIMITS
) -> tuple[Run, Ending]:
    """A run in which those acts are done as soon as they can be, and then all goes well."""
    script = list(acts)

    def choose(options: Sequence[str]) -> str:
        if script and script[0] in options:
            return script.pop(0)
        return kindly([o for o in options if o not in ("replay", "dawdle", "join")] or options)

    executor = ScriptedExecutor(choose, scorers=scorers, adversities=len(acts), elastic=True)
    run = Run(executor, shards, limits)
    ending = run.run()
    assert not script, f"never possible: {script}"
    return run, ending
