"""CPU lists and sizes: what the kernel writes, read and written back."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from numa.errors import NumaError
from numa.notation import cpulist, parse_cpulist, size


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("", set()), ("0", {0}), ("0-3,8", {0, 1, 2, 3, 8}), (" 5,\t7-8\n", {5, 7, 8}), ("3-3", {3})],
)
def test_reads_what_the_kernel_writes(text: str, numbers: set[int]) -> None:
    assert parse_cpulist(text) == numbers


@pytest.mark.parametrize("text", ["a", "1-", "-1", "3-1", "1-2-3", "0-9999999999", "0x1", "1;2"])
def test_refuses_anything_else_and_quotes_it(text: str) -> None:
    with pytest.raises(NumaError, match=f"CPU list '{text}': expected"):
        parse_cpulist(text)


@settings(deadline=None)
@given(st.frozensets(st.integers(0, 300)))
def test_reads_back_what_it_writes(numbers: frozenset[int]) -> None:
    assert parse_cpulist(cpulist(numbers)) == numbers


def test_writes_the_shortest_form() -> None:
    assert cpulist([8, 1, 0, 2, 3, 10, 11, 3]) == "0-3,8,10-11"


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (312 << 20, "312 MiB"),
        (int(312.4 * 2**20), "312 MiB"),
        (5 << 40, "5 TiB"),
        (5000 << 40, "5000 TiB"),
    ],
)
def test_sizes_for_people(nbytes: int, text: str) -> None:
    assert size(nbytes) == text
