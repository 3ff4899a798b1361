"""What a part of a graph makes of a mask of keys, found out by running it on made-up masks.

The part gives [N, 1 or heads, 1 or S, S] for a mask m[N, S]. Where the result depends on the key's
own number alone, and on no place, it is one of

    equal    y = one number where m is `at`, another elsewhere     masks, ids that are padding
    above    y = one number up to `at`, another above              m > 0, for whole numbers
    linear   y = (m - at) * slope                                  (1 - m) * -10000

Masks are tried with more than ones and zeros, so that ids, which masks are made of too, are not
taken for them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from engine.errors import EngineError
from engine.graph import ROWS, TOKENS, Node
from engine.rewrites.rewrite import Array, View
from engine.rewrites.trial import is_read, nothing, sized, sources, tried

PROBE_ROWS, PROBE_TOKENS = 4, 61
"""The batch that masks are tried on, at least."""
MAX_PLACE = 1024
"""Numbers up to this may be the size of a window: masks of twice as many tokens show it."""
SMALL = 8
"""Elements of a constant that may be axes or a shape, and so need not be all alike."""
_PLACES = frozenset({"Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Range", "Slice", "Trilu"})
"""Operators that tell places apart, where a number says which."""

Kind = Literal["equal", "above", "linear"]


@dataclass(frozen=True, slots=True)
class Rule:
    """y as a function of the mask's number, see the top."""

    mask: str
    kind: Kind
    at: float
    low: float
    """At `at`, or up to it; the slope of a linear one."""
    other: float = 0.0

    def __str__(self) -> str:
        words = {"equal": "where it is", "above": "up to"}
        if self.kind == "linear":
            return f"{self.mask}: {self.low:g} times what it is over {self.at:g}"
        return f"{self.mask}: {self.low:g} {words[self.kind]} {self.at:g}, {self.other:g} elsewhere"


def rule_of(name: str, part: Sequence[Node], view: View) -> Rule | str:
    """The rule of a value that the nodes compute, or why it has none."""
    tokens = probe_tokens(part, view)
    if isinstance(tokens, str):
        return tokens
    numbers = numbers_of(part, view)
    feeds = {n: _probe(n, part, view, tokens, numbers) for n in sources(part, view)}
    masks = [n for n, a in feeds.items() if a is not None and is_read(n, part)]
    if len(masks) != 1 or any(a is None for a in feeds.values()):
        return f"it reads {sorted(feeds)}, which are not one mask [{ROWS}, {TOKENS}]"
    made = {n: a for n, a in feeds.items() if a is not None}
    try:
        result = tried(part, made, [name], view)[name]
    except EngineError as error:
        return f"it could not be tried on a mask: {error}"
    mask = made[masks[0]]
    found = _by_number(result, mask)
    if found is None:
        return f"{name} depends on more than the mask of the key"
    return fit(masks[0], found, whole=mask.dtype.kind in "iu") or (
        f"{name} is no known function of {masks[0]}"
    )


# ---- masks to try -----------------------------------------------------------------------------


def _constants(part: Sequence[Node], view: View) -> Iterator[Array]:
    for name in dict.fromkeys(r for n in part for r in n.reads):
        array = view.constant(name)
        if array is not None and array.size and array.dtype.kind in "iuf":
            yield array
    for node in part:
        value = node.attributes.get("value")
        if isinstance(value, np.ndarray) and value.size:
            yield value


def probe_tokens(part: Sequence[Node], view: View, tables: bool = False) -> int | str:
    """How long masks must be to show whether places matter; `tables` may tell them apart."""
    most = 0
    telling = not _PLACES.isdisjoint(n.op for n in part)
    for name in dict.fromkeys(r for n in part for r in n.reads):
        array = view.constant(name)
        if tables or array is None or array.size <= SMALL:
            continue
        if not (array == array.flat[0]).all():
            return f"it reads the table {name}{list(array.shape)}, which tells places apart"
    for array in _constants(_comparing(part), view) if telling else ():
        numbers = np.abs(array[np.isfinite(array)].astype(np.float64))
        numbers = numbers[numbers < 2**24]  # more stands for "to the end", or for minus infinity
        most = max(most, int(numbers.max(initial=0)))
    if most > MAX_PLACE:
        return f"its number {most} may be the size of a window"
    return max(PROBE_TOKENS, 2 * most + 3)


def _comparing(part: Sequence[Node]) -> list[Node]:
    """Nodes whose numbers may be places: not those that fill a mask, or scale it."""
    return [n for n in part if n.op not in ("Mul", "Where")]


def numbers_of(part: Sequence[Node], view: View) -> list[int]:
    """What masks may hold: ones, zeros, other small numbers, and what they are compared with."""
    found = {0, 1, 2, 3, 7, -1, 250_001}
    for array in _constants(part, view):
        if array.size == 1 and array.dtype.kind in "iu" and abs(int(array.flat[0])) < 2**24:
            number = int(array.flat[0])
            found |= {number - 1, number, number + 1}
    return sorted(found)


def _probe(
    name: str, part: Sequence[Node], view: View, tokens: int, numbers: Sequence[int]
) -> Array | None:
    """A batch of masks for a value [N, S]; zeros where only the shape counts."""
    value, shape = view.value(name), sized(name, view, PROBE_ROWS, tokens)
    if value is None or shape is None:
        return None
    if not is_read(name, part):
        return nothing(name, view, PROBE_ROWS, tokens)
    kind = value.dtype.kind
    if value.shape != (ROWS, TOKENS) or (kind not in "iub" and value.dtype != np.float32):
        return None
    choices = np.array(numbers if kind != "f" else [0, 1, 2, 0.5, 0.25, -1, 7])
    if kind in "iu":
        limits = np.iinfo(value.dtype)
        choices = choices[(choices >= limits.min) & (choices <= limits.max)]
    masks = np.random.default_rng(1).choice(choices, shape)
    masks.flat[: len(choices)] = choices[: masks.size]
    return np.asarray(masks.astype(value.dtype))


# ---- what comes of them -----------------------------------------------------------------------


def _by_number(result: Array, mask: Array) -> dict[float, float] | None:
    """y for each number of the mask, where result[n, h, q, k] is a function of mask[n, k]."""
    if result.dtype == np.bool_:  # True for keys that count
        result = np.where(result, np.float32(0), np.float32(-np.inf))
    fits = result.ndim == 4 and (result.shape[0], result.shape[3]) == mask.shape
    if not fits or result.dtype != np.float32:
        return None
    found: dict[float, float] = {}
    keys = np.moveaxis(result, 3, 1)  # [n, k, h, q]
    for number in np.unique(mask):
        seen = keys[mask == number]
        if np.isnan(seen.flat[0]) or not (seen == seen.flat[0]).all():
            return None
        found[float(number)] = float(seen.flat[0])
    return found


def fit(mask: str, found: Mapping[float, float], whole: bool) -> Rule | None:
    """The rule that gives just what was found."""
    first, *rest = sorted(set(found.values()))
    if not rest:
        return None
    if len(rest) == 1:
        for low, other in ((rest[0], first), (first, rest[0])):
            own = [n for n, y in found.items() if y == low]
            if len(own) == 1 and (len(found) > 2 or own == [0]):
                return Rule(mask, "equal", own[0], low, other)
        numbers = sorted(found)
        at = next(a for a, b in itertools.pairwise(numbers) if found[a] != found[b])
        low, other = found[numbers[0]], found[numbers[-1]]
        split = all(found[n] == (low if n <= at else other) for n in numbers)
        return Rule(mask, "above", at, low, other) if split and whole and at + 1 in found else None
    for at in (1.0, 0.0):
        slope = found.get(at + 1, np.nan)
        if (
            found[at] == 0
            and slope != 1
            and all(_times(n - at, slope) == y for n, y in found.items())
        ):
            return Rule(mask, "linear", at, slope)
    return None


def _times(number: float, slope: float) -> float:
    with np.errstate(over="ignore"):
        return float(np.float32(number) * np.float32(slope))
