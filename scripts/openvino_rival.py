"""OpenVINO on the same model and the same cores, for `python -m scripts.bench_models --openvino`.

`pip install openvino` brings it; nothing else here needs it. It gets what its documentation advises
for throughput: a stream for each core, each with a batch under way, asked for asynchronously; and
shapes that are fixed before it compiles. Products stay in float32, as ours do: where a processor
multiplies bfloat16 it would take that by itself. It looks at the cores of its process once, so each
number of them has a process of its own.
"""

from __future__ import annotations

import importlib.util
import multiprocessing as mp
import os
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Feeds = Mapping[str, Array]
Timed = Callable[[Callable[[], Any], float], float]
"""(call, seconds) -> calls a second."""

INSTALL = "--openvino: expected the package openvino here, got none: pip install openvino"


class OpenVino:
    """A compiled model in a process on some CPUs."""

    def __init__(self, path: Path, name: str, feeds: Feeds, cpus: list[int], timed: Timed) -> None:
        if importlib.util.find_spec("openvino") is None:
            raise SystemExit(INSTALL)
        spawn = mp.get_context("spawn")
        self._end, theirs = spawn.Pipe()
        how = (theirs, path, name, feeds, cpus, timed)
        spawn.Process(target=_serve, args=how, daemon=True).start()
        theirs.close()  # so that recv() ends with EOFError where the process does
        self.output: Array = self._end.recv()
        """Of one batch."""

    def batches_a_second(self, seconds: float) -> float:
        self._end.send(seconds)
        return float(self._end.recv())


def _serve(
    end: Connection, path: Path, name: str, feeds: Feeds, cpus: list[int], timed: Timed
) -> None:
    """Sends the output, then a rate for each number of seconds that comes."""
    os.sched_setaffinity(0, cpus)
    import openvino

    core = openvino.Core()
    model = core.read_model(path)
    model.reshape({name: list(array.shape) for name, array in feeds.items()})
    how = {
        "PERFORMANCE_HINT": "THROUGHPUT",
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": len(cpus),
    }
    compiled = core.compile_model(model, "CPU", how)
    end.send(np.array(compiled(feeds)[name]))
    requests = compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
    queue = openvino.AsyncInferQueue(compiled, requests)

    def side_by_side() -> None:
        for _ in range(requests):
            queue.start_async(feeds)
        queue.wait_all()

    side_by_side()
    while True:
        try:
            seconds = end.recv()
        except EOFError:
            return
        end.send(requests * timed(side_by_side, seconds))
