"""Checksums of files, as text: "ALGORITHM:HEX". What is written now is by WRITTEN; folders of older
runs hold others, and are checked by the algorithm that stands in front.

xxh3-128 takes 0.02 microseconds a KB where sha256 takes 0.59, in a job that writes a KB for 34
microseconds of kernels. It finds every damage that sha256 would; it is no proof against somebody
who wants to deceive, and neither is a sum that lies beside its file. Anyone can check a part with
`xxhsum -H2 FILE`, and an older one with `sha256sum FILE`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import xxhash

from pipeline.errors import OutputError


@dataclass(frozen=True, slots=True)
class Algorithm:
    new: Callable[[], Any]
    """A hash as those of hashlib."""
    nbytes: int
    """Of its digest."""


WRITTEN = "xxh3-128"

ALGORITHMS = {
    "sha256": Algorithm(hashlib.sha256, 32),
    WRITTEN: Algorithm(xxhash.xxh3_128, 16),
}
"""What was ever written."""

LONGEST = 1 + max(algorithm.nbytes for algorithm in ALGORITHMS.values())
"""Bytes of what `squeezed` makes, at most."""


class Checksum:
    """Grows with `update`; str() is the checksum of all that came."""

    def __init__(self, name: str = WRITTEN) -> None:
        self._name = name
        self._hash = ALGORITHMS[name].new()

    def update(self, data: Any) -> None:
        self._hash.update(data)

    def __str__(self) -> str:
        return f"{self._name}:{self._hash.hexdigest()}"


class UnknownAlgorithm(OutputError):
    """Another version of Colonnade wrote the folder."""

    def __init__(self, where: str, name: str) -> None:
        known = " or ".join(ALGORITHMS)
        self.what = f"{where}: expected a checksum by {known}, got one by {name!r}"
        self.remedy = "use the version of Colonnade that made this folder"
        super().__init__(f"{self.what}; {self.remedy}, or --restart to throw its run away")


def algorithm_of(checksum: str, where: str) -> str:
    """Its name. UnknownAlgorithm where we have none such, naming the file `where` it is of."""
    name = checksum.partition(":")[0]
    if name not in ALGORITHMS:
        raise UnknownAlgorithm(where, name)
    return name


def shortened(checksum: str) -> str:
    """For people, who compare two."""
    name, colon, digits = checksum.partition(":")
    return f"{name}{colon}{digits:.12}"


def squeezed(checksum: str, where: str) -> bytes:
    """The algorithm's number from 1 and the digest; none for the empty string. Raises as
    `algorithm_of` does, and ValueError for a digest of another length. It is no format: numbers
    count in this process only."""
    if not checksum:
        return b""
    name = algorithm_of(checksum, where)
    digest = bytes.fromhex(checksum.removeprefix(f"{name}:"))
    if len(digest) != ALGORITHMS[name].nbytes:
        raise ValueError(f"{where}: expected {ALGORITHMS[name].nbytes} bytes, got {checksum!r}")
    return bytes([1 + list(ALGORITHMS).index(name)]) + digest


def unsqueezed(data: bytes) -> str:
    """The checksum, from what may be followed by other bytes; "" from none, or from zeros."""
    if not data or not data[0]:
        return ""
    name = list(ALGORITHMS)[data[0] - 1]
    return f"{name}:{data[1 : 1 + ALGORITHMS[name].nbytes].hex()}"
