"""The command in the test's own process, for tests whose subject is no process.

A job of tests/small_job.py's `colonnade` takes a processor for two seconds, nearly all of them for
the imports of a driver and of its scorer. `here` takes a tenth of that: the scorers are threads,
told and heard through the same pipes. `driven` has scorers in processes of their own, which a test
may kill, and saves the driver's start.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from queue import SimpleQueue
from selectors import BaseSelector
from threading import Lock, Thread
from typing import Any
from unittest.mock import patch

from click.testing import CliRunner
from small_job import Result

from jobs.cli import main
from jobs.executors.serving import decode, encode
from numa.placement import Place
from pipeline.events import Event, to_json
from pipeline.scorer import Scorer, ScorerSpec
from pipeline.shards import Lease


class Thready:
    """Stands for a scorer's process in jobs/executors/local.py."""

    def __init__(self, place: Place) -> None:
        pipes = os.pipe(), os.pipe()
        self.replies, self.errors = (os.fdopen(reading, "rb", 0) for reading, _ in pipes)
        self._ends = [os.fdopen(writing, "wb", 0) for _, writing in pipes]
        self._partial = b""
        self._lock = Lock()
        self._inbox: SimpleQueue[bytes | None] = SimpleQueue()
        self._thread = Thread(target=self._serve, name="scorer", daemon=True)
        self._thread.start()

    def send(self, message: Any) -> None:
        self._inbox.put(encode(message))

    def receive(self, piece: bytes) -> list[str]:
        *lines, self._partial = (self._partial + piece).split(b"\n")
        return [line.decode() for line in lines]

    def kill(self) -> None:
        self._inbox.put(None)

    def end(self, selector: BaseSelector, grace: float = 0.0) -> str:
        """What was lent is done first: nothing can end a thread."""
        for pipe in (self.replies, self.errors):
            if pipe.fileno() in selector.get_map():
                selector.unregister(pipe)
            pipe.close()
        self._thread.join()
        return "a thread"

    def _serve(self) -> None:
        try:
            if (told := self._inbox.get()) is None:
                return
            scorer = Scorer(decode(ScorerSpec, told), self._emit)
            while (lease := self._inbox.get()) is not None:
                scorer.submit(decode(Lease, lease))
            scorer.close()
        finally:
            for end in self._ends:
                end.close()

    def _emit(self, event: Event) -> None:
        line = memoryview(to_json(event).encode() + b"\n")
        with self._lock:
            try:
                while line:
                    line = line[self._ends[0].write(line) :]
            except BrokenPipeError:
                pass  # the driver has ended: a process would be dead by now


def here(*arguments: str, env: Mapping[str, str] | None = None) -> Result:
    """All of it in this process."""
    with patch("jobs.executors.local._Process", Thready):
        return driven(*arguments, env=env)


def driven(*arguments: str, env: Mapping[str, str] | None = None) -> Result:
    """The driver in this process, scorers in their own."""
    with ExitStack() as stack:
        stack.enter_context(patch.dict(os.environ, env or {}))
        stack.enter_context(_importable((env or {}).get("PYTHONPATH", "")))
        run = CliRunner().invoke(main, arguments, prog_name="colonnade", catch_exceptions=False)
    return Result(run.exit_code, run.stdout, run.stderr)


@contextmanager
def _importable(paths: str) -> Iterator[None]:
    """Modules of those folders can be imported, and are forgotten afterwards: a new interpreter
    would read them anew."""
    folders = [path for path in paths.split(os.pathsep) if path]
    with patch.object(sys, "path", [*folders, *sys.path]):
        yield
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file and str(Path(file).parent) in folders:
            del sys.modules[name]
