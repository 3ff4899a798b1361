"""onnxruntime on the same model and the same cores, where it is installed; and whether two engines
agree. Only benches come here: nothing that scores needs it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engine.batch import Feed, batch_of
from engine.errors import UnsupportedError
from engine.graph import Value
from engine.program import Program
from engine.ragged import Ragged
from engine.segments import Fallback

Array = np.ndarray[Any, Any]

NAME = "onnxruntime"
TOLERANCE = 1e-3
"""Of the largest output: how far the float32 sums of two engines may lie apart. Of outputs that
are no floats, the share of elements that may differ: the larger of two logits may change places."""

QUANTISED = 0.02
"""The same of a model that rounds to eight bits: a sum that lies between two of 127 steps may fall
to the other one."""


def installed_version() -> str | None:
    """onnxruntime's, or None where it cannot be imported; it is not imported yet."""
    try:
        return importlib.metadata.version(NAME) if importlib.util.find_spec(NAME) else None
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return None


class Rival:
    """The model as onnxruntime runs it by default, on `threads` threads; of chosen outputs only
    what they need.

    Make it while the calling thread stays on the cores that its threads shall have. Whatever
    onnxruntime refuses is an UnsupportedError.
    """

    def __init__(self, model: str | Path, threads: int, outputs: Sequence[str] = ()) -> None:
        import onnxruntime  # optional, and slow to import

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                str(model), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its errors have no common base
            raise UnsupportedError(f"{NAME} cannot load it: {_short(error)}") from error
        there = [o.name for o in self._session.get_outputs()]
        self._outputs = list(outputs) or there
        if between := [name for name in self._outputs if name not in there]:
            raise UnsupportedError(f"{NAME} cannot run it: {between[0]} is no output of the model")
        self._options = onnxruntime.RunOptions()
        self._options.only_execute_path_to_fetches = bool(outputs)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """As `Session.run`."""
        try:
            found = self._session.run(self._outputs, dict(feeds), self._options)
        except Exception as error:
            raise UnsupportedError(f"{NAME} cannot run it: {_short(error)}") from error
        return dict(zip(self._outputs, found, strict=True))


def padded(feeds: Mapping[str, Feed], inputs: Sequence[Value]) -> dict[str, Array]:
    """The same rows for who knows no sequences: as long as the longest, with zeros behind the
    tokens, and whatever lengths tell of masks, types and positions given.

    UnsupportedError where lengths differ and the model has no mask to say so.
    """
    batch, known = batch_of(feeds, inputs)
    if batch.offsets is None:
        return known
    masks = [v.name for v in inputs if v.has_tokens and "mask" in v.name.lower()]
    if batch.length is None and not masks:
        raise UnsupportedError(
            f"{NAME} cannot run it: rows have different lengths, and the model has no mask "
            "that would tell padding apart"
        )
    inside = _inside(batch.offsets)
    for value in inputs:
        if value.has_tokens:
            tokens = known[value.name]
            known[value.name] = np.zeros((*inside.shape, *tokens.shape[1:]), tokens.dtype)
            known[value.name][inside] = tokens
    return known


def _inside(offsets: Array) -> Array:
    """bool[rows, longest]: where rows of the longest's length have tokens."""
    lengths = np.diff(offsets)
    return np.asarray(np.arange(lengths.max(initial=0)) < lengths[:, None])


def tolerance(program: Program) -> float:
    """How far two engines' outputs of it may lie apart."""
    fallbacks = (s for s in program.segments if isinstance(s, Fallback))
    rounds = any(node.op == "QuantizeLinear" for s in fallbacks for node in s.nodes)
    return QUANTISED if rounds else TOLERANCE


def disagreement(
    ours: Mapping[str, Feed], theirs: Mapping[str, Feed], most: float = TOLERANCE
) -> str | None:
    """How the outputs of two engines differ by more than `most`, or None. Of outputs that are
    `Ragged` in one and padded in the other, the tokens alone are compared."""
    for name, one in theirs.items():
        found, expected = _alike(ours.get(name), one)
        if found is None or found.shape != expected.shape or found.dtype != expected.dtype:
            got = "none" if found is None else f"{found.dtype.name}{list(found.shape)}"
            return f"output {name}: {expected.dtype.name}{list(expected.shape)} against {got}"
        gap = _gap(found, expected)
        if not gap <= most:
            what = "of the largest" if expected.dtype.kind == "f" else "of the elements"
            return f"output {name}: differs by {gap:.2g} {what}, at most {most:g} is rounding"
    return None


def _alike(found: Feed | None, expected: Feed) -> tuple[Array | None, Array]:
    """Both as arrays with the same tokens, if they have the same rows."""
    if isinstance(expected, Ragged):
        return (found.values if isinstance(found, Ragged) else found), expected.values
    if not isinstance(found, Ragged):
        return found, expected
    inside = _inside(found.offsets)
    return found.values, expected[inside] if expected.shape[:2] == inside.shape else expected


def _gap(found: Array, expected: Array) -> float:
    if expected.dtype.kind != "f":
        return float((found != expected).mean()) if expected.size else 0.0
    same = (found == expected) | (np.isnan(found) & np.isnan(expected))
    if same.all():
        return 0.0
    with np.errstate(all="ignore"):
        apart = np.abs(found[~same].astype(np.float64) - expected[~same])
        largest = np.abs(expected[np.isfinite(expected)], dtype=np.float64).max(initial=0.0)
        gap = float(apart.max() / largest) if largest else float("inf")
    return gap if np.isfinite(gap) else float("inf")


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
