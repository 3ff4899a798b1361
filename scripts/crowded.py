"""`colonnade` whose engines take turns on the processors that there are, for checks alone.

`python -m scripts.crowded run --engines 1 --stages 3 ...` runs three stages on two processors,
which `colonnade run` refuses. What is written must be the same; how long it takes tells nothing.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import cycle, islice
from typing import Any
from unittest.mock import patch

from jobs.cli import main
from numa.placement import Place, places
from numa.topology import Topology


def crowded(
    topology: Topology, engines: int | None, threads: int | None, stages: int, **more: Any
) -> list[tuple[Place, ...]]:
    """As jobs.executors.groups_of: a place of one thread for each stage of one scorer."""
    processors = sum(map(len, topology.domains(more["domain"])))
    found = places(topology, min(stages, processors), 1, **more)
    turns = islice(cycle(found), stages)
    return [tuple(replace(place, engine=number) for number, place in enumerate(turns))]


if __name__ == "__main__":
    with patch("jobs.executors.local.groups_of", crowded):
        main()
