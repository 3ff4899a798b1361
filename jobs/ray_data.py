"""The same engine inside a Ray Data pipeline.

    from jobs.ray_data import predict
    scored = predict(ray.data.read_parquet("in/"), "model.onnx", keep=["id"])

`predict` is one call; Predictor is the callable class under it, for a map_batches of your own.
Each holds a NUMA node of its machine (or a share of one, with `engines`) that no other has: Ray
places actors on machines and knows nothing of nodes, so each claims a free one when it starts.
Rows come out as a job of `colonnade run` writes them, with the same values. What a job adds, that
is parts which appear whole, resume and rows exactly once, is for the sink of the pipeline to do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any

from jobs.errors import SpecError
from jobs.planning import Fitted, fit
from jobs.resolving import did_you_mean, resolve
from numa.affinity import pin_all_threads
from numa.claims import Claim, claim
from numa.memory import bind
from numa.placement import places
from numa.topology import Topology

if TYPE_CHECKING:
    from engine import Session
    from jobs.executors.ray_machines import Home
    from jobs.spec import JobSpec
    from pipeline.tables import TableScorer

OPTIONS = (
    "bind", "select", "keep", "tokenizer", "image", "too_long", "max_tokens", "on_error", "off",
    "engines", "threads",
)  # fmt: skip
"""Those of `colonnade run` that mean something here, as jobs.spec tells them."""

_CPU_FOR_OTHERS = 1.0
"""Of each raylet, left to Ray Data's own tasks: each asks for a whole one, and a pipeline whose
actors leave less never reads."""

_PATIENCE_SECONDS = 60.0
"""For an actor's place: Ray Data starts a pipeline's actors while those of the one before it, such
as the one that `schema()` runs, still end."""


class Predictor:
    """Scores pyarrow tables: `dataset.map_batches(Predictor, batch_format="pyarrow", ...)`.

    Made once an actor: claims a place, keeps all threads of its process there, compiles the
    model. Raises NumaError where no place is free; SpecError, EngineError and BindingError as
    `colonnade run` would report them. `on_error="skip"` leaves rows out, and lists them nowhere.
    """

    def __init__(self, model: str | PathLike[str], **options: Any) -> None:
        self._spec = _spec(model, options)
        self._claim = _settled(self._spec)
        self._scorer: TableScorer | None = None
        self._session: Session | None = None

    def __call__(self, table: Any) -> Any:
        """pyarrow.Table -> pyarrow.Table: kept fields, then outputs, of the rows in their order."""
        from pipeline.tables import canonical

        table = canonical(table)
        if self._scorer is None:
            self._scorer = self._fitted(fit(self._spec, table.schema))
        return self._scorer(table)

    def close(self) -> None:
        """Ends the engine's threads and gives the place back; so does the process's end."""
        if self._session is not None:
            self._session.close()
        self._claim.close()

    def _fitted(self, fitted: Fitted) -> TableScorer:
        from engine import Session
        from pipeline.tables import TableScorer

        cpus = self._claim.place.cpus
        self._session = Session(fitted.program, cpus=cpus)
        return TableScorer(
            self._session.run, fitted.binding, self._spec.on_error, threads=len(cpus),
            tokenizer=fitted.tokenizer, pictures=fitted.pictures,
        )  # fmt: skip


def predict(dataset: Any, model: str | PathLike[str], **options: Any) -> Any:
    """The dataset with the model's outputs beside the kept fields: a lazy ray.data.Dataset.

    One Predictor a NUMA node of every machine of the cluster (`engines` a machine, where given);
    model and options are checked against the dataset's schema now. Options are those of
    `colonnade run` that OPTIONS names: `bind=["x=pixels"]`, `select=["logits=score"]`,
    `keep=["id"]`, `on_error="null"`.
    """
    import ray.data

    from jobs.executors.ray_census import Census
    from jobs.executors.ray_machines import Homes, settle_all
    from pipeline.tables import canonical_schema

    spec = _spec(model, options)
    fit(spec, canonical_schema(_schema(dataset)))
    homes = settle_all(Census(), Homes(spec.engines, spec.threads)).of.values()
    return dataset.map_batches(
        Predictor,
        fn_constructor_args=(spec.model,),
        fn_constructor_kwargs=options,
        batch_format="pyarrow",
        batch_size=None,
        zero_copy_batch=True,
        compute=ray.data.ActorPoolStrategy(size=len(homes)),
        num_cpus=_cpus_asked(homes),
        scheduling_strategy="SPREAD",
    )


def _schema(dataset: Any) -> Any:
    """pyarrow's, of what Predictor is handed. Blocks of pandas know numpy's types alone: there the
    first row, turned into Arrow, is asked."""
    from pipeline.tables import is_schema

    told = dataset.schema()
    if told is not None and is_schema(told.base_schema):
        return told.base_schema
    for table in dataset.limit(1).iter_batches(batch_size=None, batch_format="pyarrow"):
        return table.schema
    raise SpecError(
        "predict: expected a dataset that knows its fields, got one of no rows and no Arrow "
        "schema; give it one (ray.data.from_arrow), or leave predict out where there are no rows"
    )


def _cpus_asked(homes: Collection[Home]) -> float:
    """CPUs that each actor asks Ray for: its place's, less what its raylet lacks for others."""
    count = Counter(home.machine.raylet for home in homes)
    spare = {home.machine.raylet: float(home.machine.cpus) for home in homes}
    for home in homes:
        spare[home.machine.raylet] -= len(home.place.cpus)
    return min(
        len(home.place.cpus)
        - max(0.0, _CPU_FOR_OTHERS - spare[home.machine.raylet]) / count[home.machine.raylet]
        for home in homes
    )


def _spec(model: str | PathLike[str], options: Mapping[str, Any]) -> JobSpec:
    """The options as the command checks them; there is neither input nor output here."""
    for name in options:
        if name not in OPTIONS:
            raise SpecError(
                f"predict: unknown option {name!r}{did_you_mean(name, OPTIONS) or ';'} known "
                f"options: {', '.join(OPTIONS)}"
            )
    said = {name: value for name, value in options.items() if value is not None}
    return resolve({"model": fspath(model), "input": ["."], "output": ".", **said})


def _settled(spec: JobSpec) -> Claim:
    """A place of this machine, with every thread of this process on it.

    Ray's threads were there first, so their memory may lie elsewhere; the engine's threads,
    weights and buffers come later.
    """
    held = claim(
        places(Topology.discover(), spec.engines, spec.threads), patience=_PATIENCE_SECONDS
    )
    pin_all_threads(held.place.cpus)
    bind(held.place.node)
    return held
