"""`colonnade explain` with a dataset: the program, and how fields are bound to its inputs."""

from __future__ import annotations

from pathlib import Path

import engine
from engine.pixels import with_pixels
from jobs.spec import Asked, engine_switches, fields_by_name
from pipeline.binding import Binding, TokenRules, bind
from pipeline.dataset import Dataset
from pipeline.hints import CAST
from pipeline.picture_binding import pixels
from pipeline.picture_rules import parse
from pipeline.schemas import shown
from pipeline.text import TokenizerFile, check_fits


def explained(
    model: Path, asked: Asked, off: tuple[str, ...]
) -> tuple[engine.Explanation, Binding | None, str]:
    """The explanation of the program that a job would run, and where there is a dataset its
    binding, and where its files differ, in one line, if they do."""
    selected = fields_by_name(asked.select)
    graph, timer = engine.load(model, tuple(selected)), engine.Stopwatch()
    if not asked.inputs:
        return engine.explain(graph, timer=timer, **engine_switches(off)), None, ""
    requested = fields_by_name(asked.bind)
    dataset = Dataset.discover(asked.inputs)
    # There is no --keep here: what a job could not keep is told, and not refused.
    fields = (requested.get(value.name, value.name) for value in graph.inputs)
    schema = dataset.readable({name.removesuffix(CAST) for name in fields})
    pictures = parse(asked.image) if asked.image else None
    fed = pixels(schema, graph.inputs, requested, pictures)
    explanation = engine.explain(with_pixels(graph, fed), timer=timer, **engine_switches(off))
    program = explanation.program
    rules = TokenRules(program.id_limits, program.max_tokens, tokenizer=asked.tokenizer)
    binding = bind(
        schema, program.inputs, program.outputs, requested,
        rules=rules, pictures=pictures, selected=selected, unlike=dataset.unlike,
    )  # fmt: skip
    if asked.tokenizer:
        check_fits(TokenizerFile.of(asked.tokenizer), binding)
    return explanation, binding, shown(dataset.unlike)
