"""The plan: what will run where, and its price in memory, before anything starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from numa.notation import size
from numa.placement import Place
from pipeline.batches import default_batch_rows, default_batch_tokens
from pipeline.bound import Binding
from pipeline.dataset import Dataset
from pipeline.hooks import Hook
from pipeline.parts import check_writable
from pipeline.picture_rules import PictureRules
from pipeline.price import MemoryPrice, PricedProgram, StageProgram, price
from pipeline.schemas import shown
from pipeline.shards import Shards, plan_shards
from pipeline.text import TokenizerFile

__all__ = [
    "MemoryPrice",
    "Plan",
    "default_batch_rows",
    "make_plan",
    "price",
    "read_fields",
]


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything decided before the start; `str(plan)` is what --dry-run prints."""

    model: str
    program: str
    """Fingerprint."""
    dataset: Dataset
    shards: Shards
    binding: Binding
    places: tuple[Place, ...]
    batch_rows: int
    batch_tokens: int
    """Of those rows that run together; 0 where the model has no sequences."""
    tokenizer: TokenizerFile | None
    pictures: PictureRules | None
    before: Hook | None
    after: Hook | None
    memory: MemoryPrice
    stages: int
    """That the model is cut into; `places` are those of the first."""
    memory_limit_nbytes: int
    output: str
    format: str
    on_error: str

    @property
    def _later(self) -> str:
        """Of a place, the others that its engine takes."""
        more = self.stages - 1
        return f", and {_count(more, 'place')} for later stages of the model" if more else ""

    def __str__(self) -> str:
        largest = self.shards.most_rows
        groups = sum(len(f.row_groups) for f in self.dataset.files)
        binding = str(self.binding).removeprefix("binding:\n")
        doubles = len(self.dataset.doubles)
        return "\n".join(
            [
                "plan",
                f"  model   {self.model}, program {self.program:.12}",
                f"  input   {_count(len(self.dataset.files), 'file')}, "
                f"{_count(groups, 'row group')}, {_count(self.dataset.rows, 'row')}, "
                f"{size(self.dataset.nbytes)}"
                + (f" ({_count(doubles, 'more name')} of the same files)" if doubles else ""),
                *self._unlike(),
                *self._filter(),
                *(f"  hook    {hook}" for hook in (self.before, self.after) if hook),
                *(f"  {line}" for line in binding.splitlines()),
                *([f"  images  {self.pictures}"] if self.pictures else []),
                f"  shards  {len(self.shards)}, of at most {_count(largest, 'row')}, "
                f"in batches of at most {self.batch_rows:,}"
                + (f", run by {_count(self.batch_tokens, 'token')}" if self.batch_tokens else ""),
                *(f"  {place}{self._later}" for place in self.places),
                f"  output  {self.output}, {self.format}, on error {self.on_error}",
                f"  memory  at most {size(self.memory.total)} of {size(self.memory_limit_nbytes)}: "
                f"{self.memory.engines} x {size(self.memory.engine)} "
                f"+ driver {size(self.memory.driver)}; an engine:",
                f"          {self.memory.shares[0]},",
                f"          {self.memory.shares[1]}",
            ]
        )

    def _unlike(self) -> list[str]:
        """Where files differ."""
        used = self.dataset.used(self.binding.columns, hooked=self.before is not None)
        told = shown(self.dataset.unlike, used)
        return [f"  differ  {told}"] if told else []

    def _filter(self) -> list[str]:
        """What --where leaves out, as far as footers tell."""
        if self.dataset.where is None:
            return []
        skipped = [
            n for groups in self.dataset.groups() for n in groups.rows[groups.skipped].tolist()
        ]
        return [
            f"  where   {self.dataset.where}: {_count(len(skipped), 'row group')} of "
            f"{_count(sum(skipped), 'row')} are not read"
        ]


def make_plan(
    dataset: Dataset,
    program: PricedProgram,
    binding: Binding,
    places: tuple[Place, ...],
    *,
    model: str,
    output: str,
    format: str,
    on_error: str,
    memory_limit_nbytes: int,
    batch_rows: int | None = None,
    tokenizer: TokenizerFile | None = None,
    pictures: PictureRules | None = None,
    before: Hook | None = None,
    after: Hook | None = None,
    written: pa.Schema | None = None,
    stages: Sequence[StageProgram] = (),
) -> Plan:
    """Shards, batches and price of a job whose places all lie on one machine.

    Does not check the price, so that a plan that does not fit can be shown:
    `plan.memory.check(limit)` does. `written` is the parts' schema where hooks decide on it.
    Raises BindingError for kept fields that cannot be written.
    """
    check_writable(written or binding.output_schema(dataset.schema), format)
    rows = batch_rows or default_batch_rows(dataset, binding)
    tokens = default_batch_tokens(binding)
    threads = max(len(place.cpus) for place in places)
    memory = price(
        dataset, program, binding, engines=len(places), threads=threads, batch_rows=rows,
        batch_tokens=tokens, tokenizer=tokenizer, fields=read_fields(dataset, before),
        stages=stages, output=output, copies=max(len(place.nodes) for place in places),
    )  # fmt: skip
    return Plan(
        model=model,
        program=program.fingerprint,
        dataset=dataset,
        shards=plan_shards(dataset),
        binding=binding,
        places=places,
        batch_rows=rows,
        batch_tokens=tokens,
        tokenizer=tokenizer,
        pictures=pictures,
        before=before,
        after=after,
        memory=memory,
        stages=len(stages) or 1,
        memory_limit_nbytes=memory_limit_nbytes,
        output=output,
        format=format,
        on_error=on_error,
    )


def read_fields(dataset: Dataset, before: Hook | None) -> tuple[str, ...]:
    """Fields that are read beside those of the binding: a hook may want any."""
    return tuple(dataset.schema.names) if before else ()


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
