"""A course: the stages of a model in order, the first in this process, the others in their own.

A model in one stage is a session and nothing more. In several, each batch goes from stage to
stage, and a stage takes the next batch while later ones still have the last: `step` runs one
stage, so that a scorer can give each stage a thread of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from threading import Semaphore
from typing import Any, Protocol

import engine
from pipeline.sequences import Feed
from pipeline.stage_spec import StageSpec


class Runs(Protocol):
    """What runs a stage: engine.Session here, a link to another process."""

    def run(self, feeds: Mapping[str, Feed]) -> Mapping[str, Feed]: ...
    def close(self) -> None: ...


class Starts(Runs, Protocol):
    """What runs a later stage: started when it is made, ready when it says so."""

    def ready(self) -> dict[str, Any]: ...


Link = Callable[[StageSpec], Starts]
"""How later stages are started."""


@dataclass(frozen=True, slots=True)
class Leg:
    """One stage of a course."""

    runs: Runs
    takes: tuple[str, ...]
    """Its inputs."""
    carries: tuple[str, ...]
    """What is handed on after it; after the last the model's outputs."""
    at_once: int = 1
    """Batches that it takes before it has given the first of them back."""


class Course:
    """`run` takes feeds through all stages, `step` through one. Batches do not mix: each leg
    runs one at a time, or as many as it takes at once."""

    def __init__(self, legs: Sequence[Leg]) -> None:
        self._legs = tuple(legs)
        self._turns = tuple(Semaphore(leg.at_once) for leg in legs)

    @classmethod
    def of(cls, session: engine.Session) -> Course:
        """A model in one stage."""
        program = session.program
        names = tuple(v.name for v in program.inputs), tuple(v.name for v in program.outputs)
        return cls([Leg(session, *names, session.at_once)])

    @property
    def at_once(self) -> int:
        """Batches that the first leg takes together."""
        return self._legs[0].at_once

    def __len__(self) -> int:
        return len(self._legs)

    def run(self, feeds: Mapping[str, Feed]) -> Mapping[str, Feed]:
        known = feeds
        for number in range(len(self)):
            known = self.step(number, known)
        return known

    def step(self, number: int, known: Mapping[str, Feed]) -> Mapping[str, Feed]:
        """What is known after a stage, from what was before it."""
        leg = self._legs[number]
        given = {name: known[name] for name in leg.takes if name in known}
        with self._turns[number]:
            made: dict[str, Any] = {**known, **leg.runs.run(given)}
        # An input of the model that need not be given, as a mask of sequences, is not known.
        return {name: made[name] for name in leg.carries if name in made}

    def close(self) -> None:
        for leg in self._legs:
            leg.runs.close()
