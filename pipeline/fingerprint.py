"""The run fingerprint: everything that changes results, as named fields that can be compared."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from pipeline.bound import Binding
from pipeline.dataset import Dataset
from pipeline.hooks import Hook
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
    """Of the fields that are read, with the types that they are read as."""
    binding: str
    keep: str
    outputs: str
    format: str
    on_error: str
    shards: str
    """Hash of the shard plan."""
    lengths: str = ""
    """How long sequences may be, and what becomes of longer ones."""
    tokenizer: str = ""
    """Hash of the tokenizer's file."""
    image: str = ""
    """What --image says."""
    before: str = ""
    """The hook by its name, and a hash of its source."""
    after: str = ""
    where: str = ""
    """Which rows are scored."""
    compression: str = "auto"

    @property
    def digest(self) -> str:
        """32 hex digits of all fields; stands in every part's footer."""
        plain = json.dumps(to_plain(self), sort_keys=True)
        return hashlib.sha256(plain.encode()).hexdigest()[:32]

    def differences(self, now: Fingerprint) -> tuple[str, ...]:
        """One line for each field that differs, `self` being what the folder holds.

        What follows from another difference is left out: another model is another program.
        """
        names = [n for n in self.__slots__ if getattr(self, n) != getattr(now, n)]
        lines = []
        for name in names:
            before, after = getattr(self, name), getattr(now, name)
            if name == "files":
                lines += _file_differences(before, after)
            elif name in _HASHED:
                follows, line = _HASHED[name]
                lines += [] if set(follows) & set(names) else [f"{name}: {line}"]
            else:
                said = f"the folder has {before or 'none'}, this run has {after or 'none'}"
                lines.append(f"{name}: {said}")
        return tuple(lines)


_HASHED: dict[str, tuple[tuple[str, ...], str]] = {
    "model_sha256": ((), "the folder was made with another model, or another state of its file"),
    "program": (
        ("model_sha256", "outputs"),
        "the folder was made with another --off, on another kind of machine, or by another "
        "version of colonnade",
    ),
    "tokenizer": (
        (),
        "the folder was made with another tokenizer, another state of its file, or without one",
    ),
    "shards": (
        ("files", "where"),
        "the folder was made from other partition folders, or by another version of colonnade",
    ),
}
"""Fields that say nothing to people: what they follow from, and what a difference means."""


def fingerprint(
    dataset: Dataset,
    shards: Sequence[Shard],
    binding: Binding,
    *,
    model_sha256: str,
    program: str,
    format: str,
    on_error: str,
    tokenizer: str = "",
    image: str = "",
    compression: str = "auto",
    splice: bool = True,
    hooks: tuple[Hook | None, Hook | None] = (None, None),
) -> Fingerprint:
    used = dataset.used(binding.columns, hooked=hooks[0] is not None)
    return Fingerprint(
        model_sha256=model_sha256,
        program=program,
        files={f.path: (f.nbytes, f.mtime_ns) for f in dataset.files},
        schema=", ".join(_typed(f) for f in dataset.schema if f.name in used),
        binding=", ".join(
            f"{f.input}={f.field}{':cast' if f.cast else ''}{f':{f.text}' if f.text else ''}"
            for f in binding.fields
        ),
        keep=", ".join(binding.keep),
        outputs=", ".join(
            f"{'' if o.output == o.field else f'{o.output}='}{o.field}: "
            f"{'list ' if o.tokens else ''}{o.dtype}{list(o.shape)}"
            for o in binding.outputs
        ),
        format=format,
        on_error=on_error,
        tokenizer=tokenizer,
        image=image,
        compression=compression if splice else f"{compression} without splice",
        before=_named(hooks[0]),
        after=_named(hooks[1]),
        where=str(dataset.where or ""),
        lengths=str(binding.lengths or ""),
        shards=_hash_of_plan(shards),
    )


def _typed(field: pa.Field) -> str:
    return f"{field.name}: {field.type}{'' if field.nullable else ' not null'}"


def _named(hook: Hook | None) -> str:
    return f"{hook.name} (sha256 {hook.sha256:.16})" if hook else ""


def _hash_of_plan(shards: Sequence[Shard]) -> str:
    """Shard by shard: the plan as one text would be as large as the plan."""
    found = hashlib.sha256()
    for s in shards:
        found.update(json.dumps((s.path, s.row_groups, s.first_row, s.rows, s.folder)).encode())
    return found.hexdigest()[:16]


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
