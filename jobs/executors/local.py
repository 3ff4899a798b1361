"""LocalExecutor: one process a place on this machine, JSON lines over pipes, no Ray.

Everything happens on the driver's thread: one selector watches what scorers send and what they
print, so a death is seen the moment the pipe closes, with the last words on stderr.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from time import monotonic
from typing import IO, TYPE_CHECKING, Any

from jobs.executors import Seat, groups_of, seat_of, source_environment, stage_seat
from jobs.executors.serving import encode
from numa import launch
from numa.placement import Place
from numa.topology import Topology, memory_limit

if TYPE_CHECKING:
    from jobs.spec import JobSpec
    from pipeline.events import Event
    from pipeline.scorer_spec import ScorerSpec
    from pipeline.shards import Lease

_LAST_WORDS = 100
"""Lines of a scorer's stderr kept to explain its death."""

_CHUNK = 1 << 16

_GRACE_SECONDS = 1.0
"""Between the end of a scorer's stdout and that of its process: a core dump takes a while."""


class LocalExecutor:
    """Implements Executor with processes that end with the driver, however that ends."""

    def __init__(self, spec: JobSpec) -> None:
        self._spec = spec
        self._selector = selectors.DefaultSelector()
        self._processes: dict[int, _Process] = {}
        self._places: dict[int, Place] = {}
        self._specs: dict[int, ScorerSpec] = {}

    def seats(self, engines: int | None, threads: int | None, *, warm: bool) -> tuple[Seat, ...]:
        return self._seats(max(1, self._spec.stages), engines, threads, warm=warm)

    def reseat(self, stages: int) -> tuple[Seat, ...]:
        self._places.clear()
        return self._seats(stages, self._spec.engines, self._spec.threads, warm=False)

    def _seats(
        self, stages: int, engines: int | None, threads: int | None, *, warm: bool
    ) -> tuple[Seat, ...]:
        topology = Topology.discover()
        spec = self._spec
        groups = groups_of(topology, engines, threads, stages, domain=spec.domain, smt=spec.smt)
        for number, (place, *_) in enumerate(groups):
            self._places[number] = place
            if warm:
                self._spawn(number)
        machine, limit = socket.gethostname(), memory_limit(topology)
        return tuple(
            seat_of(number, [stage_seat(topology, machine, limit, place) for place in group])
            for number, group in enumerate(groups)
        )

    def arrivals(self) -> tuple[Seat, ...]:
        return ()  # this machine is all there is

    def start(self, specs: Sequence[ScorerSpec]) -> None:
        for spec in specs:
            self._specs[spec.scorer] = spec
            if spec.scorer not in self._processes:
                self._spawn(spec.scorer)
            self._processes[spec.scorer].send(spec)

    def lend(self, scorer: int, lease: Lease) -> None:
        self._processes[scorer].send(lease)

    def events(self, timeout: float) -> list[Event]:
        found: list[Event] = []
        until = monotonic() + timeout
        while not found:
            ready = self._selector.select(max(0.0, until - monotonic()))
            for key, _ in ready:
                found += self._read(*key.data)
            if monotonic() >= until:
                break
        return found

    def kill(self, *scorers: int) -> None:
        processes = [self._processes.pop(n) for n in scorers if n in self._processes]
        for process in processes:
            process.kill()
        for process in processes:
            process.end(self._selector)

    def restart(self, scorer: int) -> None:
        self.kill(scorer)
        self._spawn(scorer)
        self._processes[scorer].send(self._specs[scorer])

    def close(self) -> None:
        self.kill(*self._processes)

    def _spawn(self, number: int) -> None:
        process = _Process(self._places[number])
        self._processes[number] = process
        for pipe in (process.replies, process.errors):
            self._selector.register(pipe, selectors.EVENT_READ, (number, pipe))

    def _read(self, number: int, pipe: IO[bytes]) -> list[Event]:
        """What one readable pipe gives: events, or the death of its scorer."""
        from pipeline.events import ScorerDied, from_json  # heavy: not before scorers start

        process = self._processes.get(number)
        if process is None:  # ended by an earlier key of the same select
            return []
        piece = os.read(pipe.fileno(), _CHUNK)
        if pipe is process.errors:
            if piece:
                process.hear(piece)
            else:
                self._selector.unregister(pipe)
            return []
        if piece:
            return [from_json(line) for line in process.receive(piece)]
        del self._processes[number]
        return [ScorerDied(number, process.end(self._selector, _GRACE_SECONDS))]


class _Process:
    """One scorer process and the three pipes to it."""

    def __init__(self, place: Place) -> None:
        entry = (sys.executable, "-m", "jobs.executors.local_scorer", str(os.getpid()))
        # Its own process group: Ctrl-C in the terminal reaches the driver alone.
        self._child = subprocess.Popen(
            [*launch.command(place), *entry],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | source_environment(),
            process_group=0,
            bufsize=0,
        )
        assert self._child.stdout is not None and self._child.stderr is not None
        self.replies: IO[bytes] = self._child.stdout
        self.errors: IO[bytes] = self._child.stderr
        self._partial = b""
        self._words: deque[bytes] = deque(maxlen=_LAST_WORDS)
        self._line = b""

    def send(self, message: Any) -> None:
        """Write one line; a dead reader is not an error here, its closed pipe tells."""
        assert self._child.stdin is not None
        rest = memoryview(encode(message))
        try:
            while rest:
                rest = rest[self._child.stdin.write(rest) :]
        except OSError:
            pass

    def receive(self, piece: bytes) -> list[str]:
        """Lines completed by a piece of the stream; the rest is kept for the next piece."""
        *lines, self._partial = (self._partial + piece).split(b"\n")
        return [line.decode() for line in lines]

    def hear(self, piece: bytes) -> None:
        *lines, self._line = (self._line + piece).split(b"\n")
        self._words.extend(line for line in lines if line.strip())
        self._line = self._line[-_CHUNK:]

    def kill(self) -> None:
        self._child.kill()

    def end(self, selector: selectors.BaseSelector, grace: float = 0.0) -> str:
        """Reap the process, killed unless it ends within `grace` seconds; how it ended."""
        try:
            self._child.wait(grace)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        watched = selector.get_map()
        for pipe in (self.replies, self.errors):
            if pipe.fileno() in watched:
                selector.unregister(pipe)
        os.set_blocking(self.errors.fileno(), False)
        while piece := self.errors.read(_CHUNK):
            self.hear(piece)
        for end in (self._child.stdin, self.replies, self.errors):
            assert end is not None
            end.close()
        return self._epitaph()

    def _epitaph(self) -> str:
        code = self._child.returncode
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        words = b"\n".join([*self._words, self._line]).decode(errors="replace").strip()
        return f"process {self._child.pid}: {how}" + (
            f"; its last words:\n{words}" if words else ""
        )
