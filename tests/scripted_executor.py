"""An executor in memory whose scorers do what a test, or hypothesis, tells them to.

It implements jobs.executors.Executor; nothing is started and time is a number. `choose` is
asked at each turn which of some named actions happens next, so that hypothesis can shrink a run
that breaks a promise to the few actions that matter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from jobs.executors import Seat
from numa.placement import Place
from pipeline.events import (
    Event,
    PartWritten,
    RowsScored,
    ScorerDied,
    ScorerDraining,
    ScorerLeft,
    ScorerReady,
    ShardFailed,
)
from pipeline.parts import Part, Seconds
from pipeline.scorer_spec import ScorerSpec
from pipeline.shards import Lease, Shard

Choose = Callable[[Sequence[str]], str]


def shard(index: int, nbytes: int = 100, rows: int = 10) -> Shard:
    return Shard(index, f"/in/{index}", "parquet", (0,), rows, nbytes, 0, nbytes, 0)


def part(lease: Lease, rejects: int = 0) -> Part:
    index, attempt, rows = lease.shard.index, lease.attempt, lease.shard.rows
    return Part(
        shard=index, attempt=attempt, path=f"part-{index}", temp=f"tmp-{index}.{attempt}",
        rows_in=rows, rows_out=rows - rejects, rejects=rejects, nbytes=1, checksum="",
        rejects_temp="", rejects_nbytes=0, rejects_checksum="",
        seconds=Seconds(),
    )  # fmt: skip


@dataclass
class Life:
    """One scorer's present life."""

    ready: bool = False
    alive: bool = True
    frozen: bool = False
    """Says nothing any more, as a process that was stopped."""
    draining: bool = False
    """Its machine said that it will go."""
    left: bool = False
    """With its machine."""
    leases: list[Lease] = field(default_factory=list)


class DriverKilled(Exception):
    """The process of the loop ends here; what was committed is committed."""


@dataclass(frozen=True)
class Spec:
    """Of a ScorerSpec what the loop looks at."""

    scorer: int


@dataclass
class ScriptedExecutor:
    choose: Choose
    scorers: int
    adversities: int = 40
    """Bad things that may still happen; after them every scorer does its best."""
    poison: frozenset[int] = frozenset()
    """Shards that kill whoever runs them."""
    elastic: bool = False
    """Machines come and go."""
    mortal: bool = False
    """The driver may be killed, too."""
    now: float = 0.0
    turns: int = 0
    lent: list[tuple[int, Lease]] = field(default_factory=list)
    restarts: int = 0
    coming: list[Seat] = field(default_factory=list)
    past: list[Event] = field(default_factory=list)
    """Results delivered or lost with a dead scorer: material for late and double deliveries."""
    lives: dict[int, Life] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.lives = {number: Life() for number in range(self.scorers)}

    def clock(self) -> float:
        return self.now

    def seats(self, engines: int | None, threads: int | None, *, warm: bool) -> tuple[()]:
        return ()

    def arrivals(self) -> tuple[Seat, ...]:
        return tuple(self.coming.pop(0) for _ in list(self.coming))

    def start(self, specs: Sequence[ScorerSpec]) -> None:
        for spec in specs:
            assert spec.scorer not in self.lives
            self.lives[spec.scorer] = Life()

    def lend(self, scorer: int, lease: Lease) -> None:
        life = self.lives[scorer]
        assert life.alive, "a lease for a scorer that is known to be dead"
        assert not life.draining, "a lease for a machine that is about to go"
        life.leases.append(lease)
        assert len(life.leases) <= 2, "more than two leases in flight"
        self.lent.append((scorer, lease))

    def kill(self, *scorers: int) -> None:
        for scorer in scorers:
            self._lose(scorer)

    def restart(self, scorer: int) -> None:
        assert not self.lives[scorer].alive and not self.lives[scorer].left
        self.restarts += 1
        self.lives[scorer] = Life()

    def close(self) -> None:
        pass

    def events(self, timeout: float) -> list[Event]:
        """One turn: something happens to one scorer."""
        self.turns += 1
        assert self.turns < 5000, "the job does not end"
        self.now += timeout
        options = [f"{act} {n}" for n in self.lives for act in self._acts(n)]
        if self.adversities:
            options += ["replay"] * bool(self.past) + ["dawdle"]
            options += ["crash"] * self.mortal + ["join"] * self.elastic
        if not options:
            return []
        act, _, number = self.choose(options).partition(" ")
        return self._do(act, int(number)) if number else self._befall(act)

    def _befall(self, act: str) -> list[Event]:
        """What happens to no scorer in particular."""
        self.adversities -= 1
        match act:
            case "replay":  # a result comes late, again, or out of order
                return [self.past[int(self.choose([str(i) for i in range(len(self.past))]))]]
            case "dawdle":  # nobody gets anything done for a while
                self.now += 8.0
            case "crash":
                raise DriverKilled
            case "join":
                number = len(self.lives) + len(self.coming)
                place = Place(0, 0, (0,))
                self.coming.append(Seat(number, f"machine {number}", place, 1 << 30, 1 << 30))
        return []

    def _acts(self, number: int) -> list[str]:
        life = self.lives[number]
        if not life.alive or life.frozen:
            return []
        acts = []
        if not life.ready:
            acts.append("ready")
        elif life.leases and life.leases[0].shard.index in self.poison:
            return ["die"]
        elif life.leases:
            acts += ["finish", "progress"]
        if self.adversities:
            acts += ["die", "freeze"]
            if self.elastic:
                acts += ["leave"] if life.draining else ["leave", "drain"]
            if life.ready and life.leases:
                acts += ["engine", "internal"]
        return acts

    def _do(self, act: str, number: int) -> list[Event]:
        life = self.lives[number]
        match act:
            case "ready":
                life.ready = True
                return [ScorerReady(number, "program", {})]
            case "progress":
                lease = life.leases[0]
                return [RowsScored(number, lease.shard.index, lease.attempt, 5)]
            case "finish":
                event = PartWritten(number, part(life.leases.pop(0)))
                self.past.append(event)
                return [event]
            case "engine" | "internal":
                self.adversities -= 1
                return [ShardFailed(number, life.leases.pop(0), act, "scripted")]
            case "freeze":
                self.adversities -= 1
                life.frozen = True
                return []
            case "drain":
                self.adversities -= 1
                life.draining = True
                return [ScorerDraining(number, "notice")]
            case "leave":
                self.adversities -= 1
                self._lose(number)
                life.left = True
                return [ScorerLeft(number, "gone")]
        self.adversities -= bool(self.adversities)
        self._lose(number)
        return [ScorerDied(number, "scripted")]

    def _lose(self, number: int) -> None:
        """The scorer goes; what it had finished may still turn up later."""
        life = self.lives[number]
        life.alive = False
        self.past += [PartWritten(number, part(lease)) for lease in life.leases]
