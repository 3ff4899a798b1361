"""A batch on its way from its file to the binding, and from the outputs to its part."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator

import pyarrow as pa

from pipeline.errors import PipelineError
from pipeline.pictures import Decoder
from pipeline.scorer_spec import ScorerSpec
from pipeline.shards import Shard
from pipeline.stage_spec import NotAsPlanned
from pipeline.text import Encoder


class Intake:
    """Before the binding: the hook, then text into tokens and encoded pictures into pixels.
    Raises NotAsPlanned when made."""

    def __init__(self, spec: ScorerSpec) -> None:
        try:
            self._hook = spec.before.load() if spec.before else None
            self._made: list[Callable[[pa.RecordBatch], pa.RecordBatch]] = []
            if spec.tokenizer:
                self._made.append(Encoder(spec.tokenizer, spec.binding))
            if spec.pictures and any(f.picture for f in spec.binding.fields):
                self._made.append(Decoder(spec.pictures, spec.binding, len(spec.cpus)))
        except PipelineError as e:
            raise NotAsPlanned(f"{platform.node()}: {e}") from e

    def schema(self, read: pa.Schema) -> pa.Schema:
        """Of the fields that are bound and kept, from those that are read."""
        return self._hook.schema_of(read) if self._hook else read

    def __call__(
        self, batch: pa.RecordBatch, read: pa.Schema, shard: Shard
    ) -> Iterator[pa.RecordBatch]:
        """The batch's rows, all in order."""
        pieces = self._hook.over(batch, read, shard) if self._hook else iter([batch])
        for piece in pieces:
            for make in self._made:
                piece = make(piece)
            yield piece


class Outlet:
    """Before the part: the other hook. Raises NotAsPlanned when made."""

    def __init__(self, spec: ScorerSpec) -> None:
        try:
            self._hook = spec.after.load() if spec.after else None
        except PipelineError as e:
            raise NotAsPlanned(f"{platform.node()}: {e}") from e

    def schema(self, scored: pa.Schema) -> pa.Schema:
        """Of the part, from the kept fields and the outputs."""
        return self._hook.schema_of(scored) if self._hook else scored

    def __call__(
        self, batch: pa.RecordBatch, scored: pa.Schema, shard: Shard
    ) -> Iterator[pa.RecordBatch]:
        return self._hook.over(batch, scored, shard) if self._hook else iter([batch])
