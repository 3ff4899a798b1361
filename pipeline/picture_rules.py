"""`--image KEY=VALUE,...`: how pictures become what a model was trained on.

| key      | default    | meaning                                                                 |
|----------|------------|-------------------------------------------------------------------------|
| `mean`   | 0          | subtracted, one number or one a channel                                 |
| `std`    | 1          | divided by, one number or one a channel                                 |
| `range`  | 1          | the largest pixel in units of mean and std: 1 or 255                    |
| `size`   | the model  | H or HxW of what is fed, where the model leaves it open                 |
| `resize` | as `size`  | S or HxW that encoded pictures are scaled to cover in their own shape,  |
|          |            | the middle is then cut out; `stretch`: to `size`, whatever their shape  |
| `filter` | `bilinear` | or `nearest`, `bicubic`, `lanczos`: Pillow's, which smooth when scaling |
|          |            | down, all but `nearest`                                                 |
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.errors import BindingError

FILTERS = ("bilinear", "nearest", "bicubic", "lanczos")
STRETCH = "stretch"
RANGES = (1, 255)

Size = tuple[int, int]
"""Height and width."""


@dataclass(frozen=True, slots=True)
class PictureRules:
    """What `--image` says; travels to the scorers. `str()` is what a run is compared by."""

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    range: int = 1
    size: Size | None = None
    resize: Size | None = None
    """What pictures are scaled to cover; None for `size`."""
    stretch: bool = False
    filter: str = FILTERS[0]

    @property
    def normalises(self) -> bool:
        return self.mean != (0.0,) or self.std != (1.0,) or self.range != RANGES[0]

    def __str__(self) -> str:
        """As --image could say it, defaults and all."""
        said = {
            "mean": ",".join(f"{number!r}" for number in self.mean),
            "std": ",".join(f"{number!r}" for number in self.std),
            "range": str(self.range),
            "size": by(self.size),
            "resize": STRETCH if self.stretch else by(self.resize),
            "filter": self.filter,
        }
        return ",".join(f"{key}={value}" for key, value in said.items() if value)


def by(size: Size | None) -> str:
    """Height x width; "" for None."""
    return f"{size[0]}x{size[1]}" if size else ""


def parse(text: str) -> PictureRules:
    """Raises BindingError, with what is known, for anything else."""
    values: dict[str, Any] = {}
    for key, said in _pairs(text).items():
        if key not in _KEYS:
            raise _unfit(f"one of {', '.join(_KEYS)}", key)
        values |= _KEYS[key](said)
    rules = PictureRules(**values)
    counts = {len(rules.mean), len(rules.std)} - {1}
    if len(counts) > 1:
        raise _unfit("as many numbers of mean as of std", text)
    if rules.range == 1 and any(abs(mean) > 1 for mean in rules.mean):
        raise _unfit(
            "mean from 0 to 1, as pixels are divided by 255 first", text,
            "; add range=255 if mean and std are in units of 0 to 255",
        )  # fmt: skip
    return rules


def _pairs(text: str) -> dict[str, str]:
    """Key -> value; a part without `=` goes on with the value before it."""
    found: dict[str, str] = {}
    key = ""
    for part in text.split(","):
        name, equals, value = part.partition("=")
        if equals:
            key = name.strip()
            if key in found:
                raise _unfit(f"{key} once", text)
            found[key] = value.strip()
        elif key:
            found[key] += f",{part.strip()}"
        else:
            raise _unfit("KEY=VALUE, such as mean=0.485,0.456,0.406", part)
    return found


def _numbers(key: str, said: str) -> tuple[float, ...]:
    try:
        found = tuple(float(number) for number in said.split(","))
    except ValueError:
        raise _unfit(f"numbers for {key}", said) from None
    if not all(map(math.isfinite, found)) or (key == "std" and min(found) <= 0):
        raise _unfit(f"{key} of finite numbers" + (" above 0" if key == "std" else ""), said)
    return found


def _size(key: str, said: str) -> Size:
    """S or HxW."""
    parts = said.lower().split("x")
    if not 1 <= len(parts) <= 2 or not all(p.isdecimal() and 0 < int(p) < 1 << 14 for p in parts):
        raise _unfit(f"{key} as H or HxW, in pixels", said)
    return int(parts[0]), int(parts[-1])


def _resize(said: str) -> dict[str, Any]:
    return {"stretch": True} if said == STRETCH else {"resize": _size("resize", said)}


def _one_of(key: str, said: str, known: tuple[Any, ...]) -> Any:
    for value in known:
        if said == str(value):
            return value
    raise _unfit(f"{key} of {' or '.join(map(str, known))}", said)


_KEYS: Mapping[str, Callable[[str], dict[str, Any]]] = {
    "mean": lambda said: {"mean": _numbers("mean", said)},
    "std": lambda said: {"std": _numbers("std", said)},
    "range": lambda said: {"range": _one_of("range", said, RANGES)},
    "size": lambda said: {"size": _size("size", said)},
    "resize": _resize,
    "filter": lambda said: {"filter": _one_of("filter", said, FILTERS)},
}


def _unfit(wanted: str, got: str, more: str = "") -> BindingError:
    return BindingError(f"--image: expected {wanted}, got {got!r}{more}")
