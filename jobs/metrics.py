"""Metrics: a job in figures, for Prometheus. A text file for its node exporter (textfile
collector), and Ray's own metrics where scorers are Ray's.

METRICS is the list; each is read from the tally, which has already counted every event.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

import click

from jobs.errors import SpecError

if TYPE_CHECKING:
    from jobs.spec import JobSpec
    from jobs.tally import Tally
    from pipeline.events import Event

SECONDS = 2.0
"""Metrics are written no more often."""

STAGES = ("read", "run", "write", "wait")


@dataclass(frozen=True, slots=True)
class Metric:
    """One family of figures. A counter's name ends in _total, as Prometheus wants it."""

    name: str
    help: str
    labels: tuple[str, ...]
    """Beside `output`, which all have."""
    values: Callable[[Tally], Iterable[tuple[tuple[str, ...], float]]]
    """Values of the labels -> figure."""

    @property
    def counts(self) -> bool:
        """Whether it only goes up."""
        return self.name.endswith("_total")


def _job(
    read: Callable[[Tally], float],
) -> Callable[[Tally], Iterator[tuple[tuple[str, ...], float]]]:
    def values(tally: Tally) -> Iterator[tuple[tuple[str, ...], float]]:
        yield (), read(tally)

    return values


def _scorer(name: str) -> Callable[[Tally], Iterator[tuple[tuple[str, ...], float]]]:
    def values(tally: Tally) -> Iterator[tuple[tuple[str, ...], float]]:
        for scorer, share in sorted(tally.shares.items()):
            yield (str(scorer),), getattr(share, name)

    return values


def _seconds(tally: Tally) -> Iterator[tuple[tuple[str, ...], float]]:
    for scorer, share in sorted(tally.shares.items()):
        for stage in STAGES:
            yield (str(scorer), stage), getattr(share.seconds, stage)


_SCORER = ("scorer",)
METRICS = (
    Metric("colonnade_rows", "Rows of the dataset.", (), _job(lambda t: t.rows)),
    Metric("colonnade_rows_done", "Rows committed or scored.", (), _job(lambda t: t.rows_done)),
    Metric("colonnade_shards", "Shards of the dataset.", (), _job(lambda t: t.shards)),
    Metric("colonnade_shards_done", "Shards committed.", (), _job(lambda t: t.committed_shards)),
    Metric("colonnade_shards_set_aside", "Shards given up.", (), _job(lambda t: t.set_aside)),
    Metric("colonnade_rejects_total", "Rows rejected by this run.", (), _job(lambda t: t.rejects)),
    Metric("colonnade_scorer_rows_total", "Rows of committed parts.", _SCORER, _scorer("rows")),
    Metric("colonnade_scorer_bytes_total", "Bytes of committed parts.", _SCORER, _scorer("nbytes")),
    Metric("colonnade_scorer_shards_total", "Committed parts.", _SCORER, _scorer("shards")),
    Metric(
        "colonnade_scorer_seconds_total",
        "Seconds of committed parts, by thread; wait is the engine's.",
        ("scorer", "stage"),
        _seconds,
    ),
    Metric("colonnade_scorer_retries_total", "Shards lent again.", _SCORER, _scorer("retries")),
    Metric("colonnade_scorer_failures_total", "Leases failed.", _SCORER, _scorer("failures")),
    Metric("colonnade_scorer_deaths_total", "Scorer's deaths.", _SCORER, _scorer("deaths")),
)


class Sink(Protocol):
    """Where figures go."""

    def write(self, tally: Tally) -> None: ...


class TextFile:
    """A file that is replaced as a whole, so that a reader never sees half of it."""

    def __init__(self, path: str, output: str) -> None:
        from prometheus_client import CollectorRegistry

        if not Path(path).parent.is_dir() or Path(path).is_dir():
            raise SpecError(
                f"metrics: expected a file in a folder that exists, got {path}; check --metrics"
            )
        self._path = path
        self._output = output
        self._tally: Tally | None = None
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def write(self, tally: Tally) -> None:
        from prometheus_client import write_to_textfile

        self._tally = tally
        write_to_textfile(self._path, self._registry)

    def collect(self) -> Iterator[Any]:
        """The registry asks for all families; before the first event there are none."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        if self._tally is None:
            return
        for metric in METRICS:
            kind = CounterMetricFamily if metric.counts else GaugeMetricFamily
            family = kind(metric.name, metric.help, labels=("output", *metric.labels))
            for labels, value in metric.values(self._tally):
                family.add_metric((self._output, *labels), value)
            yield family


class RayMetrics:
    """Ray's metrics, which its agents export on every machine and its dashboard shows."""

    def __init__(self, output: str) -> None:
        from ray.util.metrics import Counter, Gauge

        self._output = output
        self._known: dict[tuple[str, tuple[str, ...]], float] = {}
        """What a counter was told so far: Ray's are told increments."""
        self._families: Mapping[str, Any] = {
            m.name: (Counter if m.counts else Gauge)(
                m.name, description=m.help, tag_keys=("output", *m.labels)
            )
            for m in METRICS
        }

    def write(self, tally: Tally) -> None:
        for metric in METRICS:
            family = self._families[metric.name]
            for labels, value in metric.values(tally):
                tags = dict(zip(("output", *metric.labels), (self._output, *labels), strict=True))
                if not metric.counts:
                    family.set(value, tags=tags)
                elif more := value - self._known.get((metric.name, labels), 0.0):
                    self._known[metric.name, labels] = value
                    family.inc(more, tags=tags)


class Meter:
    """Told of every event; writes to its sinks every few seconds, and at the job's end."""

    def __init__(self, sinks: Iterable[Sink]) -> None:
        self._sinks = list(sinks)
        self._written = 0.0
        self._tally: Tally | None = None

    def show(self, event: Event, tally: Tally) -> None:
        self._tally = tally
        if monotonic() - self._written >= SECONDS:
            self._write()

    def close(self) -> None:
        """The last figures."""
        if self._tally is not None:
            self._write()

    def _write(self) -> None:
        """A sink that fails is told of once and left: a job does not end for its metrics."""
        assert self._tally is not None
        for sink in list(self._sinks):
            try:
                sink.write(self._tally)
            except OSError as error:
                self._sinks.remove(sink)
                click.echo(f"colonnade: metrics are no longer written: {error}", err=True)
        self._written = monotonic()


def make(spec: JobSpec) -> Meter:
    """The sinks that the job asks for; for Ray's, Ray must be connected."""
    sinks: list[Sink] = []
    if spec.metrics is not None:
        sinks.append(TextFile(spec.metrics, spec.output))
    if spec.executor == "ray":
        sinks.append(RayMetrics(spec.output))
    return Meter(sinks)
