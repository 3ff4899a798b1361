"""Our frozen dataclasses as plain JSON and back: run.json, the journal, specs and events.

No pickle: what is read from a folder or a pipe can only ever become the class that was asked
for. Supported field types: int, float, str, bool, X | None, tuple[X, ...], Mapping[str, X],
other such dataclasses, and Any for values that are plain JSON already.
"""

from __future__ import annotations

import dataclasses
import functools
import types
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")

_PLAIN = frozenset({int, float, str, bool, type(None)})
"""Asked first: a journal of a million lines is mostly these."""


def to_plain(value: Any) -> Any:
    """Dataclasses become dicts, tuples become lists; what is plain stays as it is."""
    kind: Any = type(value)
    if kind in _PLAIN:
        return value
    if names := _names(kind):
        found = {name: getattr(value, name) for name in names}
        return {n: v if type(v) in _PLAIN else to_plain(v) for n, v in found.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [to_plain(v) for v in value]
    if isinstance(value, Mapping):
        return {str(k): to_plain(v) for k, v in value.items()}
    return value


def from_plain(cls: type[T], value: Any) -> T:
    """The reverse of `to_plain`. Raises ValueError for a missing, unknown or mistyped field."""
    return cast(T, _build(cls, value, cls.__name__))


@functools.cache
def _names(kind: type) -> tuple[str, ...]:
    """Of a dataclass's fields; none for any other class."""
    known = dataclasses.is_dataclass(kind)
    return tuple(f.name for f in dataclasses.fields(kind)) if known else ()


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    """Of its fields."""
    hints = get_type_hints(cls)
    return {name: hints[name] for name in _names(cls)}


def _build(kind: Any, value: Any, where: str) -> Any:
    if kind is Any:
        return value
    if dataclasses.is_dataclass(kind):
        return _build_dataclass(cast(type, kind), value, where)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Union or origin is types.UnionType:
        if value is None and type(None) in arguments:
            return None
        return _build(next(a for a in arguments if a is not type(None)), value, where)
    if origin is tuple and isinstance(value, list):
        kinds = arguments if arguments[-1] is not Ellipsis else arguments[:1] * len(value)
        if len(kinds) != len(value):
            raise ValueError(f"{where}: expected {len(kinds)} items, got {len(value)}")
        return tuple(_build(k, v, where) for k, v in zip(kinds, value, strict=True))
    if isinstance(origin, type) and issubclass(origin, Mapping) and isinstance(value, dict):
        return {k: _build(arguments[1], v, f"{where}.{k}") for k, v in value.items()}
    if kind is float and type(value) is int:
        return float(value)
    if kind in (int, float, str, bool) and type(value) is kind:
        return value
    raise ValueError(f"{where}: expected {kind}, got {value!r:.80}")


def _build_dataclass(cls: type, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f"{where}: expected an object, got {value!r:.80}")
    hints = _hints(cls)
    if unknown := value.keys() - hints.keys():
        raise ValueError(f"{where}: unknown {', '.join(sorted(unknown))}")
    built = {
        k: v if type(v) is hints[k] and type(v) in _PLAIN else _build(hints[k], v, f"{where}.{k}")
        for k, v in value.items()
    }
    try:
        return cls(**built)
    except TypeError as e:
        raise ValueError(f"{where}: {e}") from e
