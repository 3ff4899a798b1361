"""What the process of a later stage is told before its first batch."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import engine
from engine.errors import EngineError
from engine.pixels import Pixels, with_pixels
from engine.stages import compile_stage, cut_at
from pipeline.fingerprint import model_sha256


class NotAsPlanned(EngineError):
    """What this machine has is not what the driver planned with; starting again cannot help."""


@dataclass(frozen=True, slots=True)
class StagePlace:
    """Where a stage lives, and what it must have compiled."""

    cpus: tuple[int, ...]
    node: int
    program: str
    """Fingerprint of the stage's program."""
    begin: str
    """Name of its first node, after rewrites."""


@dataclass(frozen=True, slots=True)
class StageSpec:
    """JSON-able, by pipeline.wire."""

    model: str
    model_sha256: str
    number: int
    """Of the stage, from 0."""
    begins: tuple[str, ...]
    """Names of the first nodes of all stages."""
    program: str
    choices: Mapping[str, str]
    """Of the whole model."""
    switches: Mapping[str, Any]
    cpus: tuple[int, ...]
    node: int
    pixels: Mapping[str, Pixels] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()
    """Of the whole model, those that are wanted; () for all."""

    def compiled(self) -> engine.Program:
        """The stage's program. Raises NotAsPlanned when it is not the planned one."""
        check_model(self.model, self.model_sha256)
        graph = with_pixels(engine.load(self.model, self.outputs), self.pixels)
        stage = cut_at(graph, self.begins, **self.switches)[self.number]
        del graph  # and with it the maps of other stages' weights
        program = compile_stage(stage, self.choices, **self.switches)
        check_program(self.model, program, self.program)
        return program


def check_model(path: str, sha256: str) -> None:
    """Raises NotAsPlanned for a model that is not the planned one, or not there."""
    try:
        found = model_sha256(path)
    except OSError as e:
        raise NotAsPlanned(
            f"{path}: expected the model that was planned, got: {e.strerror}; "
            f"it must lie at that path on {platform.node()}, too"
        ) from e
    if found != sha256:
        raise NotAsPlanned(
            f"{path}: expected the model that was planned (sha256 {sha256:.12}), got {found:.12}; "
            f"it changed after the start, or is another file on {platform.node()}; run again with "
            "one model"
        )


def check_program(path: str, program: engine.Program, planned: str) -> None:
    """Raises NotAsPlanned: parts of one run must be of one program."""
    if program.fingerprint != planned:
        raise NotAsPlanned(
            f"{path}: expected program {planned:.12}, compiled {program.fingerprint:.12}; is "
            "another version of colonnade installed here?"
        )
