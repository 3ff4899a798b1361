"""The few switches of the engine. Each turns one cleverness off, so that its gain can be measured
and a wrong result bisected."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from engine.errors import EngineError


@dataclass(frozen=True, slots=True)
class Settings:
    """What `engine.compile` takes as keywords."""

    columns: bool = True
    """Depth first over columns; off: layer after layer over the whole batch."""
    sparse: bool = True
    """Kernels that skip zeros; off: every weight is multiplied."""
    epilogues: bool = True
    """GELU, SiLU and the like, and sums with another panel, within linear kernels; off: another
    pass over the panel each."""
    confirm: bool = True
    """Kernels that the cost model cannot tell apart are timed, where `compile` is given a timer."""
    pages: bool = True
    """Weights and panels in large pages of memory, where they fill any; off: in pages of 4 KB."""
    groups: bool = True
    """The planner chooses how many images go side by side; off: as many as a register holds."""
    points: int | None = None
    """T, points of a tile: 16 or 32; by default two of the machine's registers. Images go half as
    many side by side then."""
    rewrites_off: tuple[str, ...] = ()
    """Names of rewrites not to apply (`colonnade explain` lists them)."""

    def as_switches(self) -> dict[str, Any]:
        """The same as plain JSON-able values."""
        return {**asdict(self), "rewrites_off": list(self.rewrites_off)}


SWITCHES = tuple(f.name for f in fields(Settings) if f.default is True)
"""Names of what can be turned off, besides rewrites."""


def switches_of(off: Iterable[str]) -> dict[str, Any]:
    """Keywords of `compile` for names to turn off: a switch that is on, or a rewrite's name."""
    names = list(off)
    plain = {name: False for name in SWITCHES if name in names}
    rewrites = [name for name in names if name not in plain]
    return {**plain, "rewrites_off": rewrites} if rewrites else plain


def from_switches(switches: Mapping[str, Any]) -> Settings:
    """Settings of keywords; an unknown one is refused with the nearest name."""
    known = [f.name for f in fields(Settings)]
    for name in switches:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise EngineError(f"compile: expected a switch of {known}, got {name!r}{hint}")
    values = dict(switches)
    values["rewrites_off"] = tuple(values.get("rewrites_off", ()))
    return Settings(**values)
