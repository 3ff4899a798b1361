"""The run fingerprint: everything that changes results, as named fields that can be compared."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.binding import Binding
from pipeline.dataset import Dataset
from pipeline.shards import Shard
from pipeline.wire import to_plain

_SHOWN = 5
"""Differing files named one by one before the rest is only counted."""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Two runs with equal fingerprints write the same parts; any difference can be named.

    The number of engines, threads, the executor and --batch-rows are not in it: they do not
    change results.
    """

    model_sha256: str
    program: str
    """Fingerprint of the compiled program, kernels chosen included."""
    files: Mapping[str, tuple[int, int]]
    """Path -> (bytes, mtime_ns)."""
    schema: str
    binding: str
    keep: str
    outputs: str
    format: str
    on_error: str
    shards: str
    """Hash of the shard plan."""

    @property
    def digest(self) -> str:
        """32 hex digits of all fields; stands in every part's footer."""
        plain = json.dumps(to_plain(self), sort_keys=True)
        return hashlib.sha256(plain.encode()).hexdigest()[:32]

    def differences(self, now: Fingerprint) -> tuple[str, ...]:
        """One line for each field that differs, `self` being what the folder holds."""
        lines = []
        for name in self.__slots__:
            before, after = getattr(self, name), getattr(now, name)
            if before == after:
                continue
            if name == "files":
                lines += _file_differences(before, after)
            else:
                lines.append(f"{name}: the folder has {before}, this run has {after}")
        return tuple(lines)


def fingerprint(
    dataset: Dataset,
    shards: Sequence[Shard],
    binding: Binding,
    *,
    model_sha256: str,
    program: str,
    format: str,
    on_error: str,
) -> Fingerprint:
    return Fingerprint(
        model_sha256=model_sha256,
        program=program,
        files={f.path: (f.nbytes, f.mtime_ns) for f in dataset.files},
        schema=", ".join(f"{f.name}: {f.type}" for f in dataset.schema),
        binding=", ".join(
            f"{f.input}={f.field}{':cast' if f.cast else ''}" for f in binding.fields
        ),
        keep=", ".join(binding.keep),
        outputs=", ".join(f"{o.field}: {o.dtype}{list(o.shape)}" for o in binding.outputs),
        format=format,
        on_error=on_error,
        shards=_hash([(s.path, s.row_groups, s.first_row, s.rows) for s in shards]),
    )


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(to_plain(value)).encode()).hexdigest()[:16]


def _file_differences(
    before: Mapping[str, tuple[int, int]], after: Mapping[str, tuple[int, int]]
) -> list[str]:
    lines = [
        f"input {p}: the folder was made with it, this run is without"
        for p in before
        if p not in after
    ]
    lines += [f"input {p}: the folder was made without it" for p in after if p not in before]
    for path in before:
        if path in after and before[path] != after[path]:
            what = "size" if before[path][0] != after[path][0] else "time of change"
            lines.append(f"input {path}: {what} differs from when the folder was made")
    if len(lines) > _SHOWN:
        return [*lines[:_SHOWN], f"and {len(lines) - _SHOWN} more inputs"]
    return lines


def model_sha256(path: str) -> str:
    """Hash of the model file; external data is covered by the program's fingerprint."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
