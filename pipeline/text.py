"""Text into tokens, by the `tokenizers` package: columns of ids for a batch's text.

Runs on the scorer's read thread, beside the engine: `encode_batch` holds no lock of Python's while
it works. Special tokens are added; padding and cutting are ours, whatever the file says.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.bound import Binding, Lengths
from pipeline.errors import BindingError
from pipeline.token_binding import IDS

Array = np.ndarray[Any, Any]

CHUNK_ROWS = 256
CHUNK_LETTERS = 1 << 18
"""Texts that are encoded together, at most. Encodings take some 170 bytes a token (tokenizers
0.23), of which a batch may have many; of a longer text as much is looked at first."""
CHUNK_NBYTES = 180 * CHUNK_LETTERS
LOADED_NBYTES = (64 << 20, 24)
"""What a tokenizer holds: at least, and for each byte of its file (measured 48 MB, 19)."""


@dataclass(frozen=True, slots=True)
class TokenizerFile:
    """A tokenizer.json, as it was when the job was planned."""

    path: str
    """Absolute."""
    sha256: str
    nbytes: int

    @classmethod
    def of(cls, path: str) -> TokenizerFile:
        data = _read(path)
        return cls(path, hashlib.sha256(data).hexdigest(), len(data))

    @property
    def resident_nbytes(self) -> int:
        """What it takes of an engine's memory, at most, beside the tokens it makes."""
        least, each = LOADED_NBYTES
        return least + each * self.nbytes + CHUNK_NBYTES

    def load(self) -> Any:
        """The tokenizers.Tokenizer. Raises BindingError for what is none, or not as planned."""
        data = _read(self.path)
        if hashlib.sha256(data).hexdigest() != self.sha256:
            raise BindingError(
                f"{self.path}: expected the tokenizer that was planned, got another; "
                "it changed after the start; run again with one tokenizer"
            )
        try:
            import tokenizers  # an extra: only where text is to be made tokens
        except ImportError as e:
            raise BindingError(
                "--tokenizer: expected the package tokenizers, got none; "
                "do pip install 'colonnade[text]', or pip install tokenizers"
            ) from e
        try:
            return tokenizers.Tokenizer.from_str(data.decode())
        except Exception as e:  # it raises nothing narrower
            raise BindingError(
                f"{self.path}: expected a tokenizer.json of the tokenizers package, got: {e}"
            ) from e


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as e:
        raise BindingError(f"--tokenizer {path}: cannot be read: {e.strerror}") from e


def check_fits(file: TokenizerFile, binding: Binding) -> None:
    """Raises BindingError for a tokenizer that has more tokens than the model, or that leaves no
    room for text."""
    tokenizer = file.load()
    entries = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1
    for field in binding.fields:
        if field.text == IDS and field.entries is not None and entries > field.entries:
            raise BindingError(
                f"{file.path}: expected at most {field.entries:,} tokens, which is what the "
                f"model's table of {field.input!r} has, got {entries:,}; "
                "is it the model's tokenizer?"
            )
    special = tokenizer.num_special_tokens_to_add(False)
    if binding.lengths is not None and binding.lengths.most <= special:
        raise BindingError(
            f"--max-tokens {binding.lengths.most}: expected more than the {special} special "
            "tokens that the tokenizer adds to each text; give more"
        )


class Encoder:
    """Adds to a batch the columns that a binding's text fields are fed from."""

    def __init__(self, file: TokenizerFile, binding: Binding) -> None:
        assert binding.lengths is not None, "text feeds sequences"
        self.fields = [f for f in binding.fields if f.text]
        self.lengths: Lengths = binding.lengths
        self._tokenizer = file.load()
        self._tokenizer.no_padding()
        if self.lengths.truncate:
            self._tokenizer.enable_truncation(self.lengths.most)
        else:
            self._tokenizer.no_truncation()

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Lists of int64; null where the text is null or no UTF-8, one token more than allowed
        where there are more."""
        made = self._encoded(batch.column(self.fields[0].field))
        for field in self.fields:
            batch = batch.append_column(field.column, made[field.text != IDS])
        return batch

    def _encoded(self, column: pa.Array) -> tuple[pa.Array, pa.Array]:
        """Ids and types."""
        missing = np.zeros(len(column), np.bool_)
        counts = np.zeros(len(column), np.int64)
        ids, types = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for first, texts in _chunks(column):
            rows = [first + i for i, text in enumerate(texts) if text is not None]
            missing[first : first + len(texts)] = [text is None for text in texts]
            found = self._encode([text for text in texts if text is not None])
            most = self.lengths.most + 1
            counts[rows] = [min(len(encoding), most) for encoding in found]
            ids.append(_joined([encoding.ids[:most] for encoding in found]))
            types.append(_joined([encoding.type_ids[:most] for encoding in found]))
        ends = pa.array(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32))
        nulls = pa.array(missing)
        both = (pa.array(np.concatenate(ids)), pa.array(np.concatenate(types)))
        one, other = (pa.ListArray.from_arrays(ends, values, mask=nulls) for values in both)
        return one, other

    def _encode(self, texts: Sequence[str]) -> list[Any]:
        """Encodings. Of a very long text the beginning mostly says enough."""
        starts = [text[:CHUNK_LETTERS] for text in texts]
        found: list[Any] = self._tokenizer.encode_batch(starts) if starts else []
        enough = self.lengths.most + (not self.lengths.truncate)
        for number, (start, text) in enumerate(zip(starts, texts, strict=True)):
            if len(start) < len(text) and len(found[number]) < enough:
                found[number] = self._tokenizer.encode(text)
        return found


def _chunks(column: pa.Array) -> Iterator[tuple[int, list[str | None]]]:
    """First row and texts, few enough to be encoded together."""
    first = letters = 0
    chunk: list[str | None] = []
    for start in range(0, len(column), CHUNK_ROWS):
        for text in _texts(column.slice(start, CHUNK_ROWS)):
            size = len(text or "")
            if chunk and (len(chunk) == CHUNK_ROWS or letters + size > CHUNK_LETTERS):
                yield first, chunk
                first, letters, chunk = first + len(chunk), 0, []
            chunk.append(text)
            letters += size
    if chunk:
        yield first, chunk


def _texts(column: pa.Array) -> list[str | None]:
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:  # Parquet promises UTF-8, and nobody checks
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        large = pa.types.is_large_string(column.type)
        raw = column.cast(pa.large_binary() if large else pa.binary()).to_pylist()
        return [_decoded(text) for text in raw]


def _decoded(text: bytes | None) -> str | None:
    try:
        return None if text is None else text.decode()
    except UnicodeDecodeError:
        return None


def _joined(lists: Sequence[Sequence[int]]) -> Array:
    return np.fromiter(chain.from_iterable(lists), np.int64)
