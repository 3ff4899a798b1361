"""Roster: which scorers there are, how they fare, and which of them can be given work.

A scorer starts, gets ready, and works until the job ends. It may die and be started anew, be
given up after too many deaths, be told that its machine is about to go, or leave with it; others
may join while the job runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(slots=True)
class Post:
    """What the driver knows of one scorer."""

    heard: float
    """Time of its latest event, or of its start."""
    alive: bool = True
    ready: bool = False
    draining: bool = False
    """Its machine is about to go: it ends what it holds, and gets nothing new."""
    given_up: bool = False
    left: bool = False
    """With its machine: no start can bring it back."""
    deaths: int = 0
    """Since it last finished a shard."""

    @property
    def takes_leases(self) -> bool:
        """After a death a scorer must be ready first, so that shards are not blamed for it."""
        return self.alive and not self.draining and (self.ready or not self.deaths)

    @property
    def may_return(self) -> bool:
        return not (self.alive or self.given_up or self.left)


class Roster:
    """The scorers of a job by number."""

    def __init__(self, scorers: Iterable[int], clock: Callable[[], float]) -> None:
        self._clock = clock
        self._posts: dict[int, Post] = {}
        self._deserted = clock()
        """Time at which the latest scorer left."""
        for scorer in scorers:
            self.join(scorer)

    def join(self, scorer: int) -> None:
        """The scorer has been started, for the first time or anew."""
        post = self._posts.setdefault(scorer, Post(0.0))
        post.alive, post.heard = True, self._clock()

    def hear(self, scorer: int) -> bool:
        """The scorer says something; False where nothing is expected of it."""
        post = self._posts.get(scorer)
        if post is None or not post.alive:
            return False
        post.heard = self._clock()
        return True

    def excuse(self, seconds: float) -> None:
        """Nobody was listened to for so long: that was no silence."""
        for post in self._posts.values():
            post.heard += max(0.0, seconds)

    def ready(self, scorer: int) -> None:
        self._posts[scorer].ready = True

    def may_blame_shards(self, scorer: int) -> bool:
        """Whether a death may be its shards' fault: it had begun to work, and its machine was not
        about to go.
        """
        return self._posts[scorer].ready and not self._posts[scorer].draining

    def succeeded(self, scorer: int) -> None:
        """It finished a shard: earlier deaths are forgotten."""
        self._posts[scorer].deaths = 0

    def drain(self, scorer: int) -> None:
        self._posts[scorer].draining = True

    def bury(self, scorer: int, *, most_deaths: int) -> int:
        """The scorer died; it is given up after more deaths than that. How often it died."""
        post = self._posts[scorer]
        post.alive = post.ready = False
        post.deaths += 1
        post.given_up = post.deaths > most_deaths
        if post.draining:
            self.leave(scorer)
        return post.deaths

    def leave(self, scorer: int) -> None:
        """The scorer's machine is gone, or wants to go and is not needed any more."""
        post = self._posts[scorer]
        post.alive = post.ready = False
        post.left = True
        self._deserted = self._clock()

    @property
    def alive(self) -> list[int]:
        return [number for number, post in self._posts.items() if post.alive]

    @property
    def takers(self) -> list[int]:
        """Scorers that may be lent to."""
        return [number for number, post in self._posts.items() if post.takes_leases]

    @property
    def draining(self) -> list[int]:
        return [number for number, post in self._posts.items() if post.alive and post.draining]

    @property
    def returning(self) -> list[int]:
        """Dead scorers that may be started anew."""
        return [number for number, post in self._posts.items() if post.may_return]

    def silent(self, seconds: float, owes: Callable[[int], bool]) -> list[int]:
        """Scorers that were not heard for so long and owe an event: that they are ready, or
        what `owes` says.
        """
        now = self._clock()
        return [
            number
            for number, post in self._posts.items()
            if post.alive and now - post.heard > seconds and (not post.ready or owes(number))
        ]

    @property
    def given_up(self) -> bool:
        """No scorer is left, and no machine could bring one."""
        return all(post.given_up for post in self._posts.values())

    def deserted(self, seconds: float) -> bool:
        """Nobody is left, and since the last one left nobody joined for so long."""
        gone = all(post.given_up or post.left for post in self._posts.values())
        return gone and self._clock() - self._deserted > seconds
