"""How sets of CPUs and amounts of memory are written: the kernel's "0-3,8", and "312 MiB".

The launcher imports this before every engine, so it stays free of anything slow to import.
"""

from __future__ import annotations

from collections.abc import Iterable

from numa.errors import NumaError

MAX_NUMBER = 65535
"""Above any CPU or node number; keeps a mistyped "0-99999999999" from filling the memory."""


def parse_cpulist(text: str) -> frozenset[int]:
    """The numbers of a kernel list: "0-3,8" -> {0, 1, 2, 3, 8}. Blank text is the empty set."""
    numbers: set[int] = set()
    for piece in filter(None, (p.strip() for p in text.split(","))):
        first, _, last = piece.partition("-")
        if not first.isdecimal() or not (last or first).isdecimal() or piece.endswith("-"):
            raise NumaError(f'CPU list {text!r}: expected numbers as in "0-3,8", got {piece!r}')
        low, high = int(first), int(last or first)
        if not low <= high <= MAX_NUMBER:
            raise NumaError(
                f"CPU list {text!r}: expected an ascending range up to {MAX_NUMBER}, got {piece!r}"
            )
        numbers.update(range(low, high + 1))
    return frozenset(numbers)


def cpulist(numbers: Iterable[int]) -> str:
    """The kernel's list of some numbers, shortest form: {0, 1, 2, 3, 8} -> "0-3,8"."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


UNITS = {"": 1, "B": 1} | {
    f"{letter}{binary}B": (1024 if binary else 1000) ** power
    for power, letter in enumerate("KMGT", 1)
    for binary in ("", "i")
}


def amount(text: str) -> int:
    """Bytes that people write: "2GiB", "500 MB", "4096". Raises ValueError."""
    number = text.rstrip("KMGTBi ")
    unit = UNITS.get(text[len(number) :].strip())
    if unit is None:
        raise ValueError(text)
    return int(float(number) * unit)


def size(nbytes: int) -> str:
    """Bytes for people, in the largest binary unit that keeps the number at 1 or more."""
    unit, amount = "B", float(nbytes)
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if amount < 1024:
            break
        unit, amount = larger, amount / 1024
    digits = 0 if amount == int(amount) or amount >= 100 else 1
    return f"{amount:.{digits}f} {unit}"
