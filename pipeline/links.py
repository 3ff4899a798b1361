"""A link to a later stage in a process of its own on this machine, and that process.

    python -m numa.launch CPUS NODE -- python -m pipeline.links SOCKET INBOX OUTBOX

Words go over a socket, one JSON line at a time; arrays through two rooms. The process ends when
its socket does: it holds nothing that is worth keeping.

    here              there
    spec       ->
               <-     ready | refused
    room n     ->                        a batch is larger than those before
               <-     room n
    run slots  ->
               <-     outputs slots n | failed
    give n     ->                        the room for outputs is large enough now
               <-     given
"""

from __future__ import annotations

import json
import os
import platform
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack, closing, suppress
from typing import Any

import engine
from engine.errors import EngineError
from numa import launch
from numa.memory import trim
from numa.placement import Place
from numa.report import report
from pipeline.errors import StageLost
from pipeline.rooms import Room, Slot, layout
from pipeline.sequences import Feed
from pipeline.stage_spec import NotAsPlanned, StageSpec
from pipeline.wire import from_plain, to_plain

_GRACE_SECONDS = 1.0
"""Between the end of a process's socket and its own: killed at once, it could not say why."""


class _Wire:
    """JSON lines over a socket."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._lines = end.makefile("rb")

    def send(self, word: str, **more: Any) -> None:
        self._end.sendall(json.dumps({"word": word, **to_plain(more)}).encode() + b"\n")

    def receive(self) -> dict[str, Any]:
        """Raises EOFError when the other end is gone."""
        line = self._lines.readline()
        if not line.endswith(b"\n"):
            raise EOFError
        said: dict[str, Any] = json.loads(line)
        return said

    def close(self) -> None:
        self._lines.close()
        self._end.close()


class Link:
    """The near end. `run` is engine.Session.run in another process; one batch at a time."""

    def __init__(self, spec: StageSpec) -> None:
        """Starts the process; `ready` waits until it can run. Nothing stays open if it fails."""
        self._spec = spec
        place = Place(spec.number, spec.node, spec.cpus)
        with ExitStack() as held:
            near, far = map(held.enter_context, socket.socketpair())
            handles = [os.memfd_create(f"colonnade-{name}") for name in ("in", "out")]
            for handle in handles:
                held.callback(os.close, handle)
            passed = (far.fileno(), *handles)
            self._process = subprocess.Popen(
                [*launch.command(place), sys.executable, "-m", "pipeline.links", *map(str, passed)],
                stdin=subprocess.DEVNULL, stdout=sys.stderr, pass_fds=passed,
            )  # fmt: skip
            held.callback(self._end)
            far.close()
            self._inbox, self._outbox = (Room(handle) for handle in handles)
            self._wire = held.enter_context(closing(_Wire(near)))
            self._tell("spec", spec=spec)
            self._held = held.pop_all()

    def ready(self) -> dict[str, Any]:
        """The process's report, once it holds its weights. Raises NotAsPlanned if it is not."""
        said = self._hear()
        if said["word"] == "refused":
            raise NotAsPlanned(said["message"])
        found: dict[str, Any] = said["report"]
        return found

    def run(self, feeds: Mapping[str, Feed]) -> dict[str, Feed]:
        slots, nbytes = layout(feeds)
        if nbytes > self._inbox.nbytes:
            self._tell("room", nbytes=nbytes)
            self._inbox.see(self._hear()["nbytes"])
        self._inbox.put(feeds, slots)
        self._tell("run", slots=slots)
        said = self._hear()
        if said["word"] == "failed":
            raise EngineError(said["message"])
        self._tell("give", nbytes=self._outbox.grow(said["nbytes"]))
        self._hear()
        return self._outbox.take(_slots(said), copy=True)

    def close(self) -> None:
        """Ends the process."""
        self._held.close()

    def _tell(self, word: str, **more: Any) -> None:
        try:
            self._wire.send(word, **more)
        except OSError:
            raise self._lost() from None

    def _hear(self) -> dict[str, Any]:
        try:
            return self._wire.receive()
        except (OSError, EOFError):
            raise self._lost() from None

    def _end(self) -> int:
        """How the process ended."""
        self._process.kill()
        return self._process.wait()

    def _lost(self) -> StageLost:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_GRACE_SECONDS)
        code = self._end()
        return StageLost(
            f"stage {self._spec.number} (process {self._process.pid}) ended with "
            f"{f'signal {-code}' if code < 0 else f'exit code {code}'}"
        )


def _slots(said: Mapping[str, Any]) -> tuple[Slot, ...]:
    return tuple(from_plain(Slot, slot) for slot in said["slots"])


def main(socket_handle: int, *rooms: int) -> None:
    """The far end: runs batches until the socket ends."""
    wire = _Wire(socket.socket(fileno=socket_handle))
    inbox, outbox = (Room(handle) for handle in rooms)
    try:
        session = _opened(wire)
        while session is not None:
            _serve(wire, session, inbox, outbox)
    except EOFError:
        return


def _opened(wire: _Wire) -> engine.Session | None:
    try:
        session, found = opened(from_plain(StageSpec, wire.receive()["spec"]))
    except EngineError as error:
        wire.send("refused", message=str(error))
        return None
    wire.send("ready", report=found)
    return session


def opened(spec: StageSpec) -> tuple[engine.Session, dict[str, Any]]:
    """The stage in this process, which was started at its place, and the process's report.

    Raises NotAsPlanned, and EngineError for a model that cannot be read.
    """
    session = engine.Session(spec.compiled(), cpus=spec.cpus)
    trim()  # of what reading and compiling took
    found = report(Place(spec.number, spec.node, spec.cpus)).to_json()
    return session, {**found, "stage": spec.number, "host": platform.node()}


def _serve(wire: _Wire, session: engine.Session, inbox: Room, outbox: Room) -> None:
    """One batch."""
    said = wire.receive()
    if said["word"] == "room":
        wire.send("room", nbytes=inbox.grow(said["nbytes"]))
        return
    try:
        outputs = session.run(inbox.take(_slots(said), copy=False))
    except EngineError as error:
        wire.send("failed", message=str(error))
        return
    slots, nbytes = layout(outputs)
    wire.send("outputs", slots=slots, nbytes=nbytes)
    outbox.see(wire.receive()["nbytes"])
    outbox.put(outputs, slots)
    wire.send("given")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
