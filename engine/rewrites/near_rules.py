"""What a part of a graph adds to scores by the distance of query and key, found out by trying it.

Causal masks, windows, biases of relative positions (T5, MPNet) and slopes (ALiBi) give
[N, heads, S, S], or less that broadcasts to it, which is

    y[n, h, q, k] = table[h, q - k] + f(mask[n, k])     where -ahead <= q - k <= back
                    a number that leaves no share         elsewhere

With masks of one number only, y is a function of the distance, which is read off; a mask of many
numbers has to give what these say together. How y goes on beyond the longest trial is told only
where it has stopped changing well before, or is a slope times the distance all along. A key that a
query does not see stays unseen whatever the mask says; so what a token says that the mask leaves
out, and all it may see with it, is not kept: it gets equal shares of what it may see, not of
everything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from engine.errors import EngineError
from engine.graph import ROWS, TOKENS, Node
from engine.rewrites.key_rules import Rule, fit, numbers_of, probe_tokens
from engine.rewrites.rewrite import Array, View
from engine.rewrites.trial import is_read, sources, tried_on_mask

LONG = 1024
"""Tokens of the longest trial, unless a table of the model is for fewer."""
LEAST = 32
"""Tokens of the longest trial at least."""
POSITIONS = 1 << 15
"""Tokens of a sequence that a table is made for, where it is known how it goes on."""
FILL = -1e9
"""What leaves no share beside any other score."""
_EVENLY = 1e-6
"""How far a table may be from its slope times the distance: by how float32 rounds it."""
_DIGITS = 5
"""Of a difference of two sums: a mask of -10000 on numbers about 1 is rounded to 1/1000."""


@dataclass(frozen=True, slots=True)
class NearRule:
    """y as a function of distance and mask, see the top."""

    rule: Rule | None
    """f; None where no mask counts."""
    back: int
    """-1 for no bound."""
    ahead: int
    table: Array | None
    """[heads or 1, 2 P - 1] by query - key, 0 beyond the bounds."""
    unseen: float

    def __str__(self) -> str:
        said = [str(self.rule)] if self.rule else []
        said += [f"{self.back} tokens back"] if self.back >= 0 else []
        said += [f"{self.ahead} ahead"] if self.ahead >= 0 else []
        if self.table is not None:
            said.append(f"a number for each of {self.table.shape[1] // 2} distances")
        return ", ".join(said)


def near_rule_of(
    name: str, part: Sequence[Node], view: View, inverted: bool = False
) -> NearRule | str:
    """The rule of a value that the nodes compute, or of its opposite, or why it has none."""
    masks = [n for n in sources(part, view) if is_read(n, part)]
    if len(masks) > 1 or any(not _is_mask(n, view) for n in masks):
        return f"it reads {sorted(masks)}, which are not one mask [{ROWS}, {TOKENS}]"
    tokens = probe_tokens(part, view, tables=True)
    if isinstance(tokens, str):
        return tokens
    part_of = _Part(name, part, view, masks[0] if masks else "", inverted)
    try:
        return _found(part_of, tokens)
    except EngineError as error:
        return f"it could not be tried: {error}"


def _is_mask(name: str, view: View) -> bool:
    value = view.value(name)
    known = value is not None and value.shape == (ROWS, TOKENS)
    return value is not None and known and (value.dtype.kind in "iub" or value.dtype == np.float32)


@dataclass(frozen=True, slots=True)
class _Part:
    """The part of a graph, and the one mask that it reads, if any."""

    name: str
    nodes: Sequence[Node]
    view: View
    mask: str
    inverted: bool
    """Whether bools hide where they are true."""

    def numbers(self) -> list[float]:
        """What masks may hold."""
        value = self.view.value(self.mask) if self.mask else None
        if value is None:
            return [0]
        if value.dtype.kind == "b":
            return [0, 1]
        limits = (0, 255) if value.dtype.kind == "u" else (-(2**24), 2**24)
        return [n for n in numbers_of(self.nodes, self.view) if limits[0] <= n <= limits[1]]

    def run(self, mask: Array) -> Array:
        """[N or 1, heads or 1, S, S]; a part of bools is 0 where True, and minus infinity."""
        y = tried_on_mask(self.nodes, self.name, self.mask, mask, self.view)
        if y.dtype == np.bool_:
            y = np.where(y != self.inverted, np.float32(0), np.float32(-np.inf))
        tokens = mask.shape[1]
        y = y.reshape((1,) * (4 - y.ndim) + y.shape) if y.ndim <= 4 else y
        if y.dtype != np.float32 or y.ndim != 4:
            raise EngineError(f"{self.name} is {y.dtype.name}{list(y.shape)}")
        try:
            return np.broadcast_to(y, (*y.shape[:2], tokens, tokens))
        except ValueError as error:
            raise EngineError(f"{self.name} has the shape {list(y.shape)}: {error}") from error

    def by_distance(self, number: float, tokens: int) -> Array | None:
        """table[heads, 2 S - 1] by query - key for masks of one number, where there is one."""
        y = self.run(np.full((1, tokens), number))[0]
        if np.isnan(y).any() or not np.array_equal(y[:, 1:, 1:], y[:, :-1, :-1]):
            return None
        return np.concatenate([y[:, 0, ::-1], y[:, 1:, 0]], axis=1)


def _found(part: _Part, tokens: int) -> NearRule | str:
    limit = _limit(part, max(LONG, tokens))
    tokens = min(tokens, limit)
    tables = {n: part.by_distance(n, tokens) for n in part.numbers()}
    known = {n: t for n, t in tables.items() if t is not None}
    if len(known) < len(tables) or not _together(part, known, tokens):
        return f"{part.name} depends on more than the mask of the key and its distance"
    order = sorted(known, key=lambda n: (n != 1, n != 0, n))
    number = next((n for n in order if (known[n][:, tokens - 1] > FILL).any()), None)
    if number is None:
        return f"{part.name} hides each token from itself"
    seen: Array = np.any(known[number] > FILL, axis=0)
    effects = _effects(known, number, seen)
    rule = fit(part.mask, effects, whole=True) if len(set(effects.values())) > 1 else None
    if rule is None and len(set(effects.values())) > 1:
        return f"{part.name} is no known function of {part.mask} and the distance"
    table = part.by_distance(number, limit)
    middle = None if table is None else table[:, limit - tokens : limit + tokens - 1]
    if table is None or middle is None or not np.array_equal(middle, known[number]):
        return f"{part.name} changes with the length of a sequence"
    return _measured(part.name, table, rule)


def _limit(part: _Part, most: int) -> int:
    """The longest trial that the model's tables allow, `most` at most. Raises EngineError where
    not even a few tokens can be tried."""
    good, bad = 0, most + 1
    length, error = most, EngineError(part.name)
    while bad - good > 1:
        try:
            part.run(np.ones((1, length)))
            good = length
        except EngineError as why:
            bad, error = length, why
        length = (good + bad) // 2
    if good < LEAST:
        raise error
    return good


def _together(part: _Part, known: Mapping[float, Array], tokens: int) -> bool:
    """Whether a mask of many numbers gives what masks of one number do, key by key."""
    mask = np.random.default_rng(1).choice(np.array(list(known)), (2, tokens))
    y = part.run(mask)
    distance = np.arange(tokens)[:, None] - np.arange(tokens) + tokens - 1
    want = np.empty((2, *y.shape[1:]), np.float32)
    for number, table in known.items():
        each = np.broadcast_to(table[:, distance], want.shape)
        np.copyto(want, each, where=(mask == number)[:, None, None, :])
    return bool(np.array_equal(np.broadcast_to(y, want.shape), want))


def _effects(known: Mapping[float, Array], number: float, seen: Array) -> dict[float, float]:
    """f for each number: what it adds to what `number` gives, which is 0."""
    own, effects = known[number][:, seen], {}
    centre = int(seen[: len(seen) // 2].sum())
    for other, table in known.items():
        theirs = table[:, seen]
        extreme = bool((np.abs(theirs) >= -FILL).all())
        with np.errstate(invalid="ignore"):
            differences = theirs - own
        best = theirs[0, centre] if extreme else np.median(differences)
        near = extreme and bool((theirs == best).all())
        near = near or bool(np.allclose(differences, best, rtol=1e-6, atol=1e-6))
        rounded = float(best) if extreme else float(f"{best:.{_DIGITS}g}")
        effects[float(other)] = rounded if near else np.nan
    return effects


def _measured(name: str, table: Array, rule: Rule | None) -> NearRule | str:
    """Bounds and table, from the longest trial."""
    positions, shown = table.shape[1] // 2 + 1, table > FILL
    seen: Array = np.any(shown, axis=0)
    if not np.array_equal(shown, np.broadcast_to(seen, shown.shape)):
        return f"{name} hides other keys from some heads"
    ahead, back = (int(side.sum()) - 1 for side in (seen[:positions], seen[positions - 1 :]))
    if not seen[positions - 1 - ahead : positions + back].all():
        return f"{name} hides keys between others that are seen"
    if any(positions // 2 <= n < positions - 1 for n in (ahead, back)):
        return f"{name} has a window of {max(ahead, back)} tokens, too wide to be sure of"
    values = np.where(seen, table, np.float32(0))
    ends = [n if n < positions - 1 else -1 for n in (back, ahead)]
    unseen = 0.0 if seen.all() else float(table.min())
    if not values.any():
        return NearRule(rule, ends[0], ends[1], None, unseen)
    if positions >= LONG:
        if _stops(values, ahead, back):
            values = _extended(values, POSITIONS)
        elif _grows_evenly(values, ahead, back):
            values = _continued(values, POSITIONS)
        else:
            return f"{name} goes on changing with the distance"
    return NearRule(rule, ends[0], ends[1], np.ascontiguousarray(values), unseen)


def _stops(values: Array, ahead: int, back: int) -> bool:
    """Whether the table has one number a head from half the way on, on both sides."""
    half = values.shape[1] // 4
    sides = ((values[:, :half], ahead), (values[:, -half:], back))
    return all(reach < half or bool((side == side[:, :1]).all()) for side, reach in sides)


def _grows_evenly(values: Array, ahead: int, back: int) -> bool:
    """Whether the table is a slope a head and side times the distance, as far as a key is seen."""
    centre = values.shape[1] // 2
    line = _line(values, centre)
    near = slice(centre - ahead, centre + back + 1)
    return bool(np.allclose(values[:, near], line[:, near], rtol=_EVENLY, atol=0))


def _line(values: Array, positions: int) -> Array:
    """[heads, 2 positions + 1]: on each side the number at distance 0, and a slope a head times the
    distance, as far as the table goes."""
    centre = values.shape[1] // 2
    start = values[:, centre : centre + 1].astype(np.float64)
    distances = np.arange(positions + 1)
    sides = [
        start + (values[:, end : end + 1].astype(np.float64) - start) / centre * distances
        for end in (0, -1 % values.shape[1])
    ]
    return np.concatenate([sides[0][:, :0:-1], sides[1]], axis=1).astype(np.float32)


def _continued(values: Array, positions: int) -> Array:
    """The same table for more positions: its slopes go on."""
    more, centre = positions - 1 - values.shape[1] // 2, values.shape[1] // 2
    line = _line(values, positions - 1)
    line[:, more : more + 2 * centre + 1] = values
    return line


def _extended(values: Array, positions: int) -> Array:
    """The same table for more positions: its last numbers go on."""
    more = positions - (values.shape[1] // 2 + 1)
    return np.pad(values, ((0, 0), (more, more)), mode="edge")
