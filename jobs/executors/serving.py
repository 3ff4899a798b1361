"""What a scorer process does, whoever started it: warm up, take its spec, then its leases.

The work itself is pipeline.scorer's; both executors' shells are a queue around these calls.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from pipeline.course import Link
    from pipeline.events import Event
    from pipeline.scorer_spec import ScorerSpec
    from pipeline.shards import Lease

T = TypeVar("T", "ScorerSpec", "Lease")

_HEAVY = ("pipeline.scorer", "engine.session", "engine.compiler")
"""What a scorer needs, about a second of imports: done while the driver still reads footers."""


def warm_up() -> None:
    for name in _HEAVY:
        importlib.import_module(name)


def serve(
    spec: ScorerSpec,
    next_lease: Callable[[], Lease],
    emit: Callable[[Event], None],
    link: Link | None = None,
) -> None:
    """Score every lease that comes; never returns. `link` starts later stages of the model, on
    this machine if it is not given."""
    from pipeline.scorer import Scorer  # heavy: only in a scorer process

    def tell(event: Event) -> None:
        emit(_with_placement(event, spec))

    scorer = Scorer(spec, tell) if link is None else Scorer(spec, tell, link)
    while True:
        scorer.submit(next_lease())


def encode(message: ScorerSpec | Lease) -> bytes:
    """One JSON line. No pickle: what is read from a pipe can only become what was expected."""
    from pipeline.wire import to_plain

    return json.dumps({type(message).__name__: to_plain(message)}).encode() + b"\n"


def decode(kind: type[T], line: bytes) -> T:
    """The message of a line. Raises ValueError for one of another kind."""
    from pipeline.wire import from_plain

    plain = json.loads(line)
    if list(plain) != [kind.__name__]:
        raise ValueError(f"driver: expected a {kind.__name__}, got {line!r:.80}")
    return from_plain(kind, plain[kind.__name__])


def _with_placement(event: Event, spec: ScorerSpec) -> Event:
    """ScorerReady with where threads and pages really are, once the session holds its weights."""
    from numa.placement import Place
    from numa.report import report
    from pipeline.events import ScorerReady

    if not isinstance(event, ScorerReady):
        return event
    found = report(Place(spec.scorer, spec.node, spec.cpus, spec.others))
    return replace(event, report={**event.report, **found.to_json(), "placement": str(found)})
