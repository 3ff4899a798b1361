"""What is added to the scores of an attention, as mask.py has left it: biases of keys, one table
of distances at most, and bounds."""

from __future__ import annotations

from dataclasses import dataclass

from engine.rewrites.mask import key_bias
from engine.rewrites.rewrite import View


@dataclass(frozen=True, slots=True)
class Bias:
    """Added to scores: a number a key, a number a head and distance, and who sees whom."""

    keys: tuple[str, ...] = ()
    """[N, S], or [N, S, heads]; they are added up."""
    table: str = ""
    """A constant [heads or 1, 2 P - 1], or empty."""
    back: int = -1
    ahead: int = -1

    @property
    def bounds(self) -> dict[str, int]:
        """Attributes of the node, where there are any."""
        found = {"back": self.back, "ahead": self.ahead}
        return {name: n for name, n in found.items() if n >= 0}

    @property
    def inputs(self) -> tuple[str, ...]:
        """Inputs of the node behind queries, keys and values, where keys have one bias at most."""
        keys, *more = (*self.keys, "")
        assert len(more) < 2
        if self.table:
            return keys, self.table
        return self.keys


NOTHING = Bias()


def bias_of(name: str, view: View) -> Bias | None:
    """What the value adds, where that is known: alone, or as a sum."""
    plain, node = key_bias(name, view), view.producer(name)
    if plain is not None:
        return Bias((plain,))
    if node is None:
        return None
    if node.label == "colonnade.Near":
        _, key, table = node.inputs
        keys = (key,) if key else ()
        return Bias(keys, table, int(node.attributes["back"]), int(node.attributes["ahead"]))
    if node.label != "Add":
        return None
    one, two = (bias_of(n, view) for n in node.inputs)
    return None if one is None or two is None else joined(one, two)


def joined(one: Bias, two: Bias) -> Bias | None:
    """Both together, where kernels can do that."""
    if one.table and two.table:
        return None
    bounds = [_tighter(a, b) for a, b in ((one.back, two.back), (one.ahead, two.ahead))]
    return Bias((*one.keys, *two.keys), one.table or two.table, *bounds)


def _tighter(one: int, two: int) -> int:
    given = [n for n in (one, two) if n >= 0]
    return min(given, default=-1)
