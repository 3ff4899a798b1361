"""`--where`: which rows of the input are scored, and which row groups need not be read for it.

    where = parse("day >= '2024-01-01' and (kind in ['a', 'b'] or note is None)").fitted(schema)
    batch.filter(where.mask(batch))

The text is an expression in Python's syntax, of which little is taken: and, or, not, comparisons,
`in [...]`, `is None`, names of fields, field('any name'), numbers, strings, True and False. It is
parsed, never run. A comparison with null is neither true nor false, and such a row is left out.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import InputError


class FilterError(InputError):
    """What --where says cannot be understood, or does not fit the dataset."""


@dataclass(frozen=True, slots=True)
class Range:
    """What a footer tells of a field in one row group."""

    low: Any
    high: Any
    """None where it does not tell; NaN is between no two numbers."""
    nulls: int | None
    rows: int


@dataclass(frozen=True, slots=True)
class _Comparison:
    """How two values are compared, and what a range of values tells beforehand."""

    mask: Callable[[Any, Any], Any]
    may: Callable[[Any, Any, Any], bool]
    """(low, high, value): whether it can be true of a value between low and high."""
    must: Callable[[Any, Any, Any], bool]
    """(low, high, value): whether it is true of each of them."""
    mirrored: str


_COMPARISONS: dict[str, _Comparison] = {
    "<": _Comparison(pc.less, lambda a, b, v: a < v, lambda a, b, v: b < v, ">"),
    "<=": _Comparison(pc.less_equal, lambda a, b, v: a <= v, lambda a, b, v: b <= v, ">="),
    ">": _Comparison(pc.greater, lambda a, b, v: b > v, lambda a, b, v: a > v, "<"),
    ">=": _Comparison(pc.greater_equal, lambda a, b, v: b >= v, lambda a, b, v: a >= v, "<="),
    "==": _Comparison(pc.equal, lambda a, b, v: a <= v <= b, lambda a, b, v: a == v == b, "=="),
    "!=": _Comparison(
        pc.not_equal, lambda a, b, v: not a == v == b, lambda a, b, v: v < a or b < v, "!="
    ),
}

_SYMBOLS: dict[type[ast.cmpop], str] = {
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.Eq: "==",
    ast.NotEq: "!=",
}


@dataclass(frozen=True, slots=True)
class Field:
    name: str


@dataclass(frozen=True, slots=True)
class Compare:
    field: Field
    symbol: str
    value: Any
    """A number, a string, True or False; or another Field."""


@dataclass(frozen=True, slots=True)
class IsNull:
    field: Field


@dataclass(frozen=True, slots=True)
class Not:
    part: Condition


@dataclass(frozen=True, slots=True)
class Joined:
    """and, or"""

    word: str
    parts: tuple[Condition, ...]


Condition = Compare | IsNull | Not | Joined


@dataclass(frozen=True, slots=True)
class Where:
    """A condition on rows; str() is its one spelling."""

    text: str
    condition: Condition

    def __str__(self) -> str:
        return self.text

    @property
    def fields(self) -> tuple[str, ...]:
        """Those that it looks at, each once."""
        return tuple(dict.fromkeys(_fields(self.condition)))

    def fitted(self, schema: pa.Schema) -> Where:
        """With values in their fields' own types. Raises FilterError for fields that are not
        there or cannot be compared like that."""
        for name in self.fields:
            if name not in schema.names:
                raise FilterError(
                    f"--where {self}: expected fields of the dataset, got {name!r}; it has "
                    f"{', '.join(schema.names)}"
                )
        used = pa.schema([schema.field(name) for name in self.fields])
        try:
            fitted = Where(self.text, _fitted(self.condition, used))
            fitted.mask(pa.RecordBatch.from_pylist([], used))
            return fitted
        except (pa.ArrowException, NotImplementedError, OverflowError) as e:
            kinds = ", ".join(f"{name} is {schema.field(name).type}" for name in self.fields)
            raise FilterError(
                f"--where {self}: expected values that can be compared, but {kinds}: {e}"
            ) from e

    def mask(self, batch: pa.RecordBatch) -> pa.BooleanArray:
        """True, False or null for each row; rows of True are scored."""
        return _mask(self.condition, batch)

    def may_hold(self, ranges: Mapping[str, Range]) -> bool:
        """Whether it can be true of any row of a row group."""
        return _may(self.condition, ranges)


def parse(text: str) -> Where:
    """Raises FilterError."""
    try:
        tree = ast.parse(text.strip(), mode="eval")
        return Where(ast.unparse(tree), _condition(tree.body))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as e:
        said = e.msg if isinstance(e, SyntaxError) else str(e)
        raise FilterError(
            f"--where {text}: expected a condition like \"a > 3 and b == 'x'\", got: {said}"
        ) from e


def _condition(node: ast.expr) -> Condition:
    """ValueError says what is not taken."""
    if isinstance(node, ast.BoolOp):
        word = "and" if isinstance(node.op, ast.And) else "or"
        return Joined(word, tuple(map(_condition, node.values)))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return Not(_condition(node.operand))
    if isinstance(node, ast.Compare):
        sides = [node.left, *node.comparators]
        pairs = zip(sides, node.ops, sides[1:], strict=False)
        parts = tuple(_comparison(left, op, right) for left, op, right in pairs)
        return parts[0] if len(parts) == 1 else Joined("and", parts)
    value = _operand(node)
    if isinstance(value, Field):  # a field of booleans
        return Compare(value, "==", True)
    raise ValueError(f"{ast.unparse(node)}, which is no condition")


def _comparison(left: ast.expr, op: ast.cmpop, right: ast.expr) -> Condition:
    if isinstance(op, ast.Is | ast.IsNot):
        field = _operand(left)
        if not isinstance(field, Field) or not _is_none(right):
            raise ValueError("`is` with something else than FIELD is None")
        return IsNull(field) if isinstance(op, ast.Is) else Not(IsNull(field))
    if isinstance(op, ast.In | ast.NotIn):
        found = _in(left, right)
        return found if isinstance(op, ast.In) else Not(found)
    if _is_none(left) or _is_none(right):
        raise ValueError("a comparison with None; write `is None`")
    first, symbol, second = _operand(left), _SYMBOLS[type(op)], _operand(right)
    if isinstance(first, Field):
        return Compare(first, symbol, second)
    if isinstance(second, Field):
        return Compare(second, _COMPARISONS[symbol].mirrored, first)
    raise ValueError(f"{ast.unparse(left)} {symbol} {ast.unparse(right)}, which has no field")


def _in(left: ast.expr, right: ast.expr) -> Condition:
    field = _operand(left)
    if not isinstance(field, Field) or not isinstance(right, ast.List | ast.Tuple | ast.Set):
        raise ValueError("`in` with something else than FIELD in [VALUE, ...]")
    values = [_operand(item) for item in right.elts]
    if not values or any(isinstance(value, Field) for value in values):
        raise ValueError("`in` with a list that is empty or has fields in it")
    return Joined("or", tuple(Compare(field, "==", value) for value in values))


def _operand(node: ast.expr) -> Any:
    """A Field or a plain value."""
    if isinstance(node, ast.Name):
        return Field(node.id)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "field":
        name = node.args[0] if len(node.args) == 1 and not node.keywords else None
        if isinstance(name, ast.Constant) and isinstance(name.value, str):
            return Field(name.value)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = _operand(node.operand)
        if type(value) in (int, float):
            return -value
    if isinstance(node, ast.Constant) and type(node.value) in (int, float, str, bool):
        return node.value
    raise ValueError(f"{ast.unparse(node)}, which is neither a field nor a value")


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _fields(condition: Condition) -> Iterator[str]:
    match condition:
        case Compare(field, _, value):
            yield field.name
            if isinstance(value, Field):
                yield value.name
        case IsNull(field):
            yield field.name
        case Not(part):
            yield from _fields(part)
        case Joined(_, parts):
            for part in parts:
                yield from _fields(part)


def _mask(condition: Condition, batch: pa.RecordBatch) -> Any:
    match condition:
        case Compare(field, symbol, value):
            column = _column(batch, field)
            other = _column(batch, value) if isinstance(value, Field) else _scalar(value, column)
            return _COMPARISONS[symbol].mask(column, other)
        case IsNull(field):
            return _column(batch, field).is_null()
        case Not(part):
            return pc.invert(_mask(part, batch))
        case Joined(word, parts):
            join = pc.and_kleene if word == "and" else pc.or_kleene
            return functools.reduce(join, (_mask(part, batch) for part in parts))


def _column(batch: pa.RecordBatch, field: Field) -> Any:
    column = batch.column(field.name)
    if isinstance(column, pa.DictionaryArray):
        return column.dictionary_decode()
    # Arrow compares no views
    return column.cast(pa.large_string()) if pa.types.is_string_view(column.type) else column


def _scalar(value: Any, column: Any) -> pa.Scalar:
    """The value in the column's type, if it is of that kind: `_value` made it so."""
    plain = _plain(value)
    if type(value) in _ALIKE and not _ALIKE[type(value)](column.type):
        return plain
    try:
        return plain.cast(column.type)  # pa.scalar(2.5, pa.int32()) would be 2
    except (pa.ArrowException, NotImplementedError):
        return plain


def _fitted(condition: Condition, schema: pa.Schema) -> Condition:
    match condition:
        case Compare(field, symbol, value) if not isinstance(value, Field):
            return Compare(field, symbol, _value(value, schema.field(field.name).type))
        case Not(part):
            return Not(_fitted(part, schema))
        case Joined(word, parts):
            return Joined(word, tuple(_fitted(part, schema) for part in parts))
    return condition


def _value(value: Any, kind: pa.DataType) -> Any:
    """In the field's own type where it fits: 0.1 is the float32 next to it, a string is a day.
    Otherwise as it is: 2.5 lies between two integers."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not _ALIKE[type(value)](kind):
        return value
    try:
        return _plain(value).cast(kind).as_py()
    except (pa.ArrowException, NotImplementedError, ValueError) as e:
        if isinstance(e, pa.ArrowInvalid) and isinstance(value, str) and pa.types.is_temporal(kind):
            zone = ", whose values end in an offset, such as Z" * bool(getattr(kind, "tz", None))
            raise pa.ArrowInvalid(f"{value!r} is no {kind}{zone}") from e
        return value


def _plain(value: Any) -> pa.Scalar:
    """As Arrow infers it, and a number too large for int64 as uint64, as many hashes are.
    OverflowError beyond."""
    large = type(value) is int and value >= 1 << 63
    return pa.scalar(value, pa.uint64() if large else None)


def _is_number(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    )


_ALIKE: dict[type, Callable[[pa.DataType], bool]] = {
    int: _is_number,
    float: _is_number,
    bool: pa.types.is_boolean,
    str: lambda kind: not _is_number(kind) and not pa.types.is_boolean(kind),
}
"""Fields whose type a value may take: "3" is no number, and 3 is not true."""


def _may(condition: Condition, ranges: Mapping[str, Range]) -> bool:
    match condition:
        case Compare():
            return _told(condition, ranges, "may", unknown=True)
        case IsNull(field):
            found = ranges.get(field.name)
            return found is None or found.nulls is None or found.nulls > 0
        case Not(part):
            return not _must(part, ranges)
        case Joined(word, parts):
            decide = all if word == "and" else any
            return decide(_may(part, ranges) for part in parts)


def _must(condition: Condition, ranges: Mapping[str, Range]) -> bool:
    match condition:
        case Compare():
            return _told(condition, ranges, "must", unknown=False)
        case IsNull(field):
            found = ranges.get(field.name)
            return found is not None and found.nulls == found.rows
        case Not(part):
            return not _may(part, ranges)
        case Joined(word, parts):
            decide = all if word == "and" else any
            return decide(_must(part, ranges) for part in parts)


def _told(compare: Compare, ranges: Mapping[str, Range], what: str, *, unknown: bool) -> bool:
    """What a footer tells of a comparison with a value; `unknown` where it tells nothing.

    Statistics leave NaN out, which is unequal to everything and not smaller than anything: of
    floating fields they tell what may be smaller, larger or equal, and nothing else.
    """
    found = ranges.get(compare.field.name)
    if found is None or isinstance(compare.value, Field):
        return unknown
    if what == "may" and found.nulls == found.rows:
        return False  # of null nothing is true
    if found.low is None or found.high is None:
        return unknown
    floating = isinstance(found.low, float)
    if (what == "must" and (floating or found.nulls != 0)) or (floating and compare.symbol == "!="):
        return unknown
    told: Callable[[Any, Any, Any], bool] = getattr(_COMPARISONS[compare.symbol], what)
    try:
        return bool(told(found.low, found.high, compare.value))
    except TypeError:  # days and strings, numbers and decimals
        return unknown
