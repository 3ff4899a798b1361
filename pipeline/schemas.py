"""The schemas of a dataset's files, which may differ, and the one schema that all are read with.

Files of years differ: a column comes or goes, int32 becomes int64, another writer orders columns in
its own way. Here is decided, from all files and before anything is read, which fields the dataset
has, of which types, and where its files are unlike. Which fields matter, the job says: it refuses
those it uses that not all files have, or that have no common type (`Unlike.refusal`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import pyarrow as pa

from pipeline.dictionaries import leaf_types, width
from pipeline.errors import BindingError, InputError
from pipeline.merging import merged_field, null_nbytes
from pipeline.partitions import is_partition, plain_field
from pipeline.row_groups import Arrangement

SHOWN = 3
"""Files, and fields, named one by one before the rest is only counted."""

LEAVE_OUT = "leave those files out of --input"


@dataclass(frozen=True, slots=True)
class Among:
    """Some files of a dataset."""

    count: int
    paths: tuple[str, ...]
    """The first of them."""

    def __str__(self) -> str:
        more = self.count - len(self.paths)
        files = "1 file" if self.count == 1 else f"{self.count:,} files"
        return f"{files} ({', '.join(self.paths)}{f' and {more:,} more' if more else ''})"

    @classmethod
    def all_of(cls, some: Iterable[Among]) -> Among:
        told = list(some)
        paths = sorted(path for among in told for path in among.paths)
        return cls(sum(among.count for among in told), tuple(paths[:SHOWN]))


@dataclass(frozen=True, slots=True)
class Unlike:
    """A field that some files lack, or have of another type."""

    name: str
    types: tuple[tuple[str, Among], ...]
    """As files have it, the type of most of them first."""
    lacking: Among
    common: str
    """The type that it is read as; "" where none holds the values of all."""
    reason: str = ""
    """Why there is none."""

    @property
    def told(self) -> str:
        """The types, and which files have them."""
        return " and ".join(f"{kind} in {among}" for kind, among in self.types)

    def refusal(self, *, nulls: bool, way: str = "") -> str:
        """What is wrong with it and what to do, "" for nothing. `nulls`: whether it may be null
        where files lack it. `way`: another way out."""
        if not self.common:
            wrong = f"expected one type in all files, got {self.told}: {self.reason}"
            return f"{wrong}; {way}{self._cast_it()}"
        if self.lacking.count and not nulls:
            return (
                f"expected it in all files, got {self.lacking} without it; {LEAVE_OUT}, or write "
                "them again with the field"
            )
        return ""

    def _cast_it(self) -> str:
        """A command that gives a file the type that most have."""
        (kind, _), (_, other) = self.types[0], self.types[-1]
        again = f"write {'it' if other.count == 1 else 'them'} again with one type"
        try:
            pa.type_for_alias(kind)
        except ValueError:
            return again
        return (
            f"{again}: t = pyarrow.parquet.read_table(OLD); n = t.column_names.index({self.name!r})"
            f"; pyarrow.parquet.write_table(t.set_column(n, {self.name!r}, t[n].cast({kind!r})), "
            "NEW)"
        )

    def __str__(self) -> str:
        """What differs, in few words."""
        total = sum(among.count for _, among in self.types) + self.lacking.count
        if len(self.types) == 1:
            return f"{self.name} is in {total - self.lacking.count:,} of {total:,} files"
        told = ", ".join(f"{kind} in {among.count:,}" for kind, among in self.types)
        lacking = f", in {self.lacking.count:,} not at all" if self.lacking.count else ""
        read = f", read as {self.common}" if self.common else f": {self.reason}"
        return f"{self.name} is {told}{lacking}{read}"


@dataclass(slots=True)
class _Variant:
    """A schema that some files have."""

    schema: pa.Schema
    given: tuple[str, ...]
    """Fields of it that come from folders."""
    count: int = 0
    paths: list[str] = field(default_factory=list)

    def is_of(self, schema: pa.Schema, given: tuple[str, ...]) -> bool:
        return self.given == given and self.schema.equals(schema, check_metadata=False)

    @property
    def among(self) -> Among:
        return Among(self.count, tuple(self.paths))


class Variants:
    """Gathers the schemas of files, each once: most datasets have one, and no more is compared."""

    def __init__(self) -> None:
        self._variants: list[_Variant] = []
        self._numbers: dict[tuple[bytes, tuple[str, ...]], int] = {}
        self._latest = 0

    def add(self, path: str, schema: pa.Schema, given: tuple[str, ...] = ()) -> int:
        """The number of the file's schema, by order of appearance; `given` are those of its fields
        that folders give. Metadata is no difference."""
        known = self._variants
        if not (known and known[self._latest].is_of(schema, given)):
            self._latest = self._number(schema, given)
        variant = self._variants[self._latest]
        variant.count += 1
        if len(variant.paths) < SHOWN:
            variant.paths.append(path)
        return self._latest

    def _number(self, schema: pa.Schema, given: tuple[str, ...]) -> int:
        plain = pa.schema([f.remove_metadata() for f in schema])
        key = (plain.serialize().to_pybytes(), given)
        if key not in self._numbers:
            self._numbers[key] = len(self._variants)
            self._variants.append(_Variant(schema, given))
        return self._numbers[key]

    def united(self) -> United:
        """Of all files: their fields in the order in which they first come."""
        if len(self._variants) == 1:
            return United(self._variants[0].schema)
        names = dict.fromkeys(name for v in self._variants for name in v.schema.names)
        fields, unlike = [], []
        for name in names:
            united, differs = self._field(name)
            fields.append(united)
            unlike += [differs] if differs else []
        schema = pa.schema(fields)
        arrangements = tuple(arrangement(v.schema, schema) for v in self._variants)
        return United(schema, tuple(unlike), arrangements, True)

    def _field(self, name: str) -> tuple[pa.Field, Unlike | None]:
        """The dataset's field, with its first type where none holds all; and how files differ."""
        having = [v for v in self._variants if name in v.schema.names]
        lacking = Among.all_of(v.among for v in self._variants if name not in v.schema.names)
        own = [v.schema.field(name) for v in having]
        found = merged_field(own, nullable=lacking.count > 0)
        united = own[0] if isinstance(found, str) else found
        if not all(map(is_partition, own)):
            united = plain_field(united)
        types = _by_type(own, [v.among for v in having])
        if len(types) == 1 and not lacking.count:
            return united, None
        common, reason = ("", found) if isinstance(found, str) else (str(found.type), "")
        return united, Unlike(name, types, lacking, common, reason)


def _by_type(fields: Sequence[pa.Field], among: Sequence[Among]) -> tuple[tuple[str, Among], ...]:
    """Types, the most frequent first, and the files that have them; names of list elements are no
    difference."""
    kinds: list[pa.DataType] = []
    for each in fields:
        kinds += [each.type] if each.type not in kinds else []
    found = []
    for kind in kinds:
        some = [a for each, a in zip(fields, among, strict=True) if each.type == kind]
        found.append((str(kind), Among.all_of(some)))
    return tuple(sorted(found, key=lambda told: (-told[1].count, told[1].paths)))


@dataclass(frozen=True, slots=True)
class United:
    """What all files of a dataset have together."""

    schema: pa.Schema
    unlike: tuple[Unlike, ...] = ()
    arrangements: tuple[Arrangement | None, ...] = (None,)
    """By number of a file's schema, for its row groups."""
    differ: bool = False
    """Whether files have to be read with types that are not all their own."""


def arrangement(own: pa.Schema, schema: pa.Schema) -> Arrangement | None:
    """What makes row groups of a file tell of the dataset's fields; None for nothing.

    A field that is cast is held twice for a moment, and counts so.
    """
    if own.equals(schema, check_metadata=False):
        return None
    sources, elements, rows = [], [], []
    for each in schema:
        source = own.get_field_index(each.name)
        cast = source >= 0 and own.field(source).type != each.type
        sources.append(source)
        elements.append(sum(width(leaf) or 8 for leaf in leaf_types(each.type)) if cast else 0)
        rows.append(8 if cast else null_nbytes(each.type) if source < 0 else 0)
    return Arrangement(tuple(sources), tuple(elements), tuple(rows))


def refuse_unlike(
    unlike: Sequence[Unlike], names: Iterable[str], where: str, *, nulls: bool, way: str = ""
) -> None:
    """Raises InputError for the first of these fields that cannot be read of all files."""
    known = {each.name: each for each in unlike}
    for name in names:
        if name in known and (why := known[name].refusal(nulls=nulls, way=way)):
            raise InputError(f"{where}: field {name!r}: {why}")


@contextmanager
def naming_files(unlike: Sequence[Unlike], name: str) -> Iterator[None]:
    """What is wrong with a field's type may be the fault of some files: they are named, too."""
    try:
        yield
    except BindingError as e:
        for each in unlike:
            if each.name == name and len(each.types) > 1:
                raise BindingError(f"{e}; files differ: it is {each.told}") from e
        raise


def shown(unlike: Sequence[Unlike], used: Iterable[str] | None = None) -> str:
    """How files differ, in one line, "" where they do not. Fields that are not `used` last, those
    without a common type first."""
    if not unlike:
        return ""
    wanted = {each.name for each in unlike} if used is None else set(used)
    ordered = sorted(unlike, key=lambda each: (each.name not in wanted, bool(each.common)))
    told = [f"{each}{'' if each.name in wanted else ' (not read)'}" for each in ordered[:SHOWN]]
    more = len(unlike) - len(told)
    return "; ".join(told) + (
        f"; and {more:,} more field{'' if more == 1 else 's'}" if more else ""
    )
