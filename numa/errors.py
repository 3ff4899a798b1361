"""The one exception of this room."""

from __future__ import annotations


class NumaError(Exception):
    """A topology, place or CPU that cannot be had: "WHERE: expected X, got Y; do Z"."""

    exit_code = 1
