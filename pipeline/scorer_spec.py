"""What a scorer is told before its first lease."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from engine.pixels import Pixels
from pipeline.bound import Binding
from pipeline.hooks import Hook
from pipeline.picture_rules import PictureRules
from pipeline.stage_spec import StagePlace, StageSpec
from pipeline.text import TokenizerFile
from pipeline.wire import from_plain, to_plain


@dataclass(frozen=True, slots=True)
class ScorerSpec:
    """All a scorer needs to know, JSON-able: `to_json()`, `ScorerSpec.from_json(plain)`."""

    scorer: int
    """Number of the scorer, echoed in its events."""
    model: str
    """Absolute path."""
    model_sha256: str
    program: str
    """Fingerprint of the program; a scorer that compiles another one refuses to work."""
    choices: Mapping[str, str]
    switches: Mapping[str, Any]
    """Keyword arguments of engine.compile besides choices."""
    binding: Binding
    batch_rows: int
    cpus: tuple[int, ...]
    node: int
    """The NUMA node of its memory."""
    output: str
    """Absolute path of the output folder, reachable from the scorer's machine."""
    format: str
    """"parquet" or "arrow", of the parts."""
    fingerprint: str
    """Digest of the run's fingerprint; stands in every part."""
    on_error: str
    """"fail", "skip" or "null"."""
    others: tuple[int, ...] = ()
    """More NUMA nodes, where the place reaches over several."""
    batch_tokens: int = 0
    """Tokens that run together at most, where rows are sequences."""
    tokenizer: TokenizerFile | None = None
    pictures: PictureRules | None = None
    pixels: Mapping[str, Pixels] = field(default_factory=dict)
    """Inputs of pictures that the program normalises itself."""
    before: Hook | None = None
    after: Hook | None = None
    stages: tuple[StagePlace, ...] = ()
    """Where the model's stages live, this scorer's own first; () for a model in one piece."""
    fields: tuple[str, ...] = ()
    """That are read; () for those that the binding names, which a hook may have made of others."""
    where: str = ""
    """Which of the rows read are scored."""
    schema: str = ""
    """What fields are read as, by pipeline/conforming.py; "": as each file has them."""
    compression: str = "auto"
    """Of the parts: see pipeline/encoding.py."""
    splice: bool = True
    """Pages of plain tensors are ours: see pipeline/splicing.py."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """Of the model, those that are wanted."""
        return tuple(output.output for output in self.binding.outputs)

    @property
    def begins(self) -> tuple[str, ...]:
        """Names of the stages' first nodes."""
        return tuple(place.begin for place in self.stages)

    @property
    def later_stages(self) -> tuple[StageSpec, ...]:
        """What the processes of later stages are told."""
        return tuple(
            StageSpec(
                model=self.model, model_sha256=self.model_sha256, number=number,
                begins=self.begins, program=place.program, choices=self.choices,
                switches=self.switches, cpus=place.cpus, node=place.node, pixels=self.pixels,
                outputs=self.outputs,
            )
            for number, place in list(enumerate(self.stages))[1:]
        )  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        return dict(to_plain(self))

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> ScorerSpec:
        return from_plain(cls, dict(plain))
