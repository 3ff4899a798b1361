"""The batch that everyone runs: made up or from a dataset, and the same padded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from engine.batch import Feed, batch_of
from engine.graph import TOKENS, Value
from engine.program import Program
from engine.samples import OPEN_DIMENSION, made_up_feeds
from engine.work_share import TYPICAL_TOKENS
from jobs.bench.spec import BenchSpec
from jobs.errors import SpecError

DEFAULT_ROWS = 1024
"""More change no engine's speed; fewer show what meeting at the end of a batch costs."""
FEEDS_NBYTES = 16 << 20
"""Of the batch, unless its rows are given."""
EVEN_ROWS = 64
DEFAULT_TOKENS = 1024
"""Of a batch of sequences, unless its rows are given: a transformer takes milliseconds a token."""
LEAST_SEQUENCES = 8


@dataclass(frozen=True, slots=True)
class Sample:
    """One batch."""

    feeds: Mapping[str, Feed]
    source: str
    """Where it comes from."""
    rows: int
    """0 where no input has rows."""
    tokens: int
    """Of all rows; 0 where the model has no sequences."""
    shortest: int
    longest: int
    """Tokens of one row."""

    @property
    def padding(self) -> float:
        """Share of tokens that are none when all rows are padded to the longest, 0..1."""
        return 1 - self.tokens / (self.rows * self.longest) if self.tokens else 0.0


def sample(spec: BenchSpec, program: Program) -> Sample:
    """What `spec` asks for. Raises SpecError for tokens that the model cannot take."""
    sequences = any(v.has_tokens for v in program.inputs)
    tokens = _tokens(spec, program, sequences)
    if spec.input:
        return _of_dataset(spec, program, sequences)
    rows = spec.rows or (max(LEAST_SEQUENCES, DEFAULT_TOKENS // tokens) if sequences else 0)
    rows = rows or _fitting_rows(program)
    feeds = made_up_feeds(program.inputs, rows, tokens=tokens, id_limits=program.id_limits)
    return _counted(feeds, "made up, seeded", program)


def _tokens(spec: BenchSpec, program: Program, sequences: bool) -> int:
    """Of a made-up row."""
    if spec.tokens is None:
        return min(TYPICAL_TOKENS, program.max_tokens or TYPICAL_TOKENS)
    if not sequences:
        raise SpecError("bench: tokens: expected a model of sequences, got none; leave it out")
    if program.max_tokens is not None and spec.tokens > program.max_tokens:
        raise SpecError(
            f"bench: tokens: expected at most {program.max_tokens}, which is all that the model "
            f"has positions for, got {spec.tokens}"
        )
    return spec.tokens


def _fitting_rows(program: Program) -> int:
    one = made_up_feeds(program.inputs, 1)
    row_nbytes = max(1, sum(array.nbytes for array in one.values()))
    fitting = max(EVEN_ROWS, FEEDS_NBYTES // row_nbytes // EVEN_ROWS * EVEN_ROWS)
    return min(DEFAULT_ROWS, fitting)


def _of_dataset(spec: BenchSpec, program: Program, sequences: bool) -> Sample:
    from pipeline.bound import TokenRules  # pyarrow: only where a dataset is given
    from pipeline.picture_rules import parse
    from pipeline.sample import sample_feeds

    wanted = spec.rows or (DEFAULT_ROWS if sequences else _fitting_rows(program))
    most = DEFAULT_TOKENS if sequences and spec.rows is None else None
    rules = TokenRules(program.id_limits, program.max_tokens)
    feeds = sample_feeds(
        spec.input, program.inputs, wanted, spec.bindings, rules=rules, tokens=most,
        least=LEAST_SEQUENCES, pictures=parse(spec.image) if spec.image else None,
    )  # fmt: skip
    found = _counted(feeds, f"first rows of {', '.join(spec.input)}", program)
    if most is not None or found.rows >= wanted:
        return found
    fewer = f"{found.source}; all that can be fed, {wanted:,} were wanted"
    return _counted(feeds, fewer, program)


def _counted(feeds: Mapping[str, Feed], source: str, program: Program) -> Sample:
    batch = batch_of(feeds, program.inputs)[0]
    shortest = longest = 0
    if batch.offsets is not None and batch.rows:
        lengths = batch.offsets[1:] - batch.offsets[:-1]
        shortest, longest = int(lengths.min()), int(lengths.max())
    return Sample(feeds, source, batch.rows, batch.tokens, shortest, longest)


def open_dimensions(value: Value) -> str | None:
    """A note on those that had to be made up, if any."""
    free = [d for d in (value.shape or ())[1:] if not isinstance(d, int) and d != TOKENS]
    if not free:
        return None
    return f"open dimensions of {value} were taken as {OPEN_DIMENSION}; --input tells real ones"
