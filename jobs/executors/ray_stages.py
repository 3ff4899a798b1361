"""A later stage of a model on another machine than the first: an actor of Ray's for each.

Activations go from the scorer's actor to the stage's and back as arguments and results of calls:
through Ray's object store, whose pages they are read from without a copy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayError

from engine.errors import EngineError
from jobs.executors.ray_machines import first_lines
from pipeline.errors import StageLost
from pipeline.stage_spec import NotAsPlanned, StageSpec

if TYPE_CHECKING:
    import engine
    from pipeline.sequences import Feed


class StageActor:
    """The far end: one stage, one batch at a time."""

    def __init__(self) -> None:
        self._session: engine.Session | None = None

    def open(self, spec: StageSpec) -> dict[str, Any]:
        """The report of a stage that can run, or why it cannot."""
        from pipeline.links import opened  # heavy: only in a process of its own

        try:
            self._session, report = opened(spec)
        except EngineError as error:
            return {"refused": str(error)}
        return {"report": report}

    def run(self, feeds: Mapping[str, Feed]) -> dict[str, Any]:
        assert self._session is not None, "it was opened"
        try:
            return {"outputs": self._session.run(feeds)}
        except EngineError as error:
            return {"failed": str(error)}


class RayLink:
    """The near end: what pipeline.links.Link is to a process of the same machine."""

    def __init__(self, spec: StageSpec, handle: Any) -> None:
        self._spec = spec
        self._handle = handle
        self._opening = handle.open.remote(spec)

    def ready(self) -> dict[str, Any]:
        said = self._hear(self._opening)
        if "refused" in said:
            raise NotAsPlanned(said["refused"])
        found: dict[str, Any] = said["report"]
        return found

    def run(self, feeds: Mapping[str, Feed]) -> dict[str, Feed]:
        said = self._hear(self._handle.run.remote(dict(feeds)))
        if "failed" in said:
            raise EngineError(said["failed"])
        outputs: dict[str, Feed] = said["outputs"]
        return outputs

    def close(self) -> None:
        """Whoever started the actor ends it."""

    def _hear(self, answer: Any) -> dict[str, Any]:
        try:
            said: dict[str, Any] = ray.get(answer)
        except RayError as error:
            raise StageLost(f"stage {self._spec.number}: {first_lines(error)}") from error
        return said
