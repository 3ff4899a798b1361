"""What a scorer process does, whoever started it: warm up, take its spec, then its leases.

The work itself is pipeline.scorer's; both executors' shells are a queue around these calls.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.events import Event
    from pipeline.scorer_spec import ScorerSpec
    from pipeline.shards import Lease

_HEAVY = ("pipeline.scorer", "engine.session", "engine.compiler")
"""What a scorer needs, about a second of imports: done while the driver still reads footers."""


def warm_up() -> None:
    for name in _HEAVY:
        importlib.import_module(name)


def serve(take: Callable[[], ScorerSpec | Lease], emit: Callable[[Event], None]) -> None:
    """Take a ScorerSpec, then score every lease that follows; never returns."""
    # Heavy: only in a scorer process.
    from pipeline.scorer import Scorer
    from pipeline.shards import Lease

    spec = take()
    assert not isinstance(spec, Lease), "the driver sends the spec first"
    scorer = Scorer(spec, lambda event: emit(_with_placement(event, spec)))
    while True:
        lease = take()
        assert isinstance(lease, Lease)
        scorer.submit(lease)


def encode(message: ScorerSpec | Lease) -> bytes:
    """One JSON line. No pickle: what is read from a pipe can only become what was expected."""
    from pipeline.wire import to_plain

    return json.dumps({type(message).__name__: to_plain(message)}).encode() + b"\n"


def decode(line: bytes) -> ScorerSpec | Lease:
    from pipeline.scorer_spec import ScorerSpec
    from pipeline.shards import Lease
    from pipeline.wire import from_plain

    plain = json.loads(line)
    if "Lease" in plain:
        return from_plain(Lease, plain["Lease"])
    return from_plain(ScorerSpec, plain["ScorerSpec"])


def _with_placement(event: Event, spec: ScorerSpec) -> Event:
    """ScorerReady with where threads and pages really are, once the session holds its weights."""
    from numa.placement import Place
    from numa.report import report
    from pipeline.events import ScorerReady

    if not isinstance(event, ScorerReady):
        return event
    found = report(Place(spec.scorer, spec.node, spec.cpus))
    return replace(event, report={**event.report, **found.to_json(), "placement": str(found)})
