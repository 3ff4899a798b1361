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


@pytest.mark.parametrize(
    ("features", "name", "free", "asks"),
    [
        ("+avx2", "skylake-avx512", True, False),
        ("+avx2", "znver4", True, False),
        ("+avx2,+avx512f", "skylake-avx512", False, False),
        ("+avx2,+avx512f", "znver4", True, True),
    ],
)
def test_shuffles_are_free_with_avx2_and_on_zen_and_weights_asked_for_with_both(
    features: str, name: str, free: bool, asks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NUMBA_CPU_FEATURES", features)
    monkeypatch.setenv("NUMBA_CPU_NAME", name)
    monkeypatch.setattr(registers, "register_lanes", registers.register_lanes.__wrapped__)
    assert registers.shuffles_are_free.__wrapped__() == free
    monkeypatch.setattr(registers, "shuffles_are_free", registers.shuffles_are_free.__wrapped__)
    assert registers.asks_ahead() == asks


@pytest.mark.parametrize(("vendor", "free"), [("AuthenticAMD", True), ("GenuineIntel", False)])
def test_shuffles_go_by_the_vendor_where_nothing_is_pinned(
    vendor: str, free: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nvendor_id\t: {vendor}\n")
    monkeypatch.delenv("NUMBA_CPU_NAME", raising=False)
    found = registers._words(tmp_path / "cpuinfo", "vendor_id")
    monkeypatch.setattr(registers, "_words", lambda path, key: found)
    monkeypatch.setattr(registers, "register_lanes", lambda: 16)
    assert registers.shuffles_are_free.__wrapped__() == free


def test_no_such_file_is_the_narrow_tier(tmp_path: Path) -> None:
    assert registers._flags(tmp_path / "none") == frozenset()
