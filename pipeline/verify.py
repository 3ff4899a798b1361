"""Checks a finished output folder: manifest, parts, checksums, and the inputs they came from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """`problems` is empty when all is well; str() prints a summary and each problem."""

    output: str
    parts: int
    rows_in: int
    rows_out: int
    rejects: int
    nbytes: int
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.problems


def verify(output: Path, inputs: Sequence[str] | None = None) -> VerifyReport:
    """Re-reads every part. `inputs` None checks against the files the run recorded.

    Raises OutputError only when there is no run in the folder at all.
    """
    raise NotImplementedError
