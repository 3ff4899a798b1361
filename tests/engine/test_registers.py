"""How wide registers are is read as numba will read it."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.kernels import registers


@pytest.mark.parametrize(
    ("flags", "lanes"), [("fpu avx2 fma", 8), ("fpu avx2 fma avx512f avx512vl", 16), ("", 8)]
)
def test_flags_of_the_processor(
    flags: str, lanes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: {flags}\nbugs\t:\n")
    monkeypatch.delenv("NUMBA_CPU_FEATURES", raising=False)
    found = registers._flags(tmp_path / "cpuinfo")
    monkeypatch.setattr(registers, "_flags", lambda path: found)
    assert registers.register_lanes.__wrapped__() == lanes


def test_a_pinned_tier_counts_and_not_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_CPU_FEATURES", "+avx2,+fma")
    assert registers.register_lanes.__wrapped__() == 8
    monkeypatch.setenv("NUMBA_CPU_FEATURES", "+avx2,+fma,+avx512f")
    assert registers.register_lanes.__wrapped__() == 16


def test_no_such_file_is_the_narrow_tier(tmp_path: Path) -> None:
    assert registers._flags(tmp_path / "none") == frozenset()
