"""Which files an input means: a file, a folder with all below it, or a glob."""

from __future__ import annotations

import glob
import os
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import pyarrow.fs as pf

from pipeline.errors import InputError
from pipeline.stores import OWN, as_path, is_hidden, is_url
from pipeline.stores.remote import reading, refuse_missing_bucket, split

SUFFIXES = (".parquet", ".pq", ".parq", ".arrow", ".ipc", ".feather")
"""What is taken from a folder; its other files (readme, licence) are passed over."""

MAGIC = (b"PAR1", b"ARROW1")
"""How files of data begin."""

ANY_DEPTH = "**"
DATA = "/"
"""Stands for any file with one of SUFFIXES; as a pattern it matches no name."""
WHOLE = (ANY_DEPTH, DATA)
"""What is taken from a folder that was given, or matched, itself."""

Patterns = tuple[str, ...]
"""One for each level of folders, but for ANY_DEPTH; the last is for files."""


@dataclass(frozen=True, slots=True)
class _Place:
    """A folder on the way, and what is still to be matched below it."""

    path: str
    real: str
    patterns: Patterns


def expand(text: str) -> tuple[set[str], str]:
    """Absolute paths of the files that one input means, and where they were looked for.

    The latter is a folder, a glob, or "" for a single file. Raises InputError for nothing at all.
    """
    text = as_path(text)
    if is_url(text):
        return expand_url(text)
    # abspath, not resolve: a dataset made of symbolic links keeps the names it was given.
    path = os.path.abspath(Path(text).expanduser())  # noqa: PTH100
    if Path(path).is_dir():
        return set(_search(path, WHOLE)), path
    if Path(path).exists():
        return {path}, ""
    if not glob.has_magic(text):
        raise InputError(f"{text}: expected a file, folder or glob, got nothing; check the path")
    base, patterns = _split(path)
    found = set(_search(base, patterns)) if Path(base).is_dir() else set()
    if not found:
        raise InputError(
            f"{text}: expected files, got no match; check the pattern (names that begin with _ "
            "or . are passed over)"
        )
    return found, path


def base_of(root: str) -> str:
    """The folder below which a search of `root`, as `expand` gives it, finds its files."""
    if is_url(root):
        return _split_url(root)[0] if glob.has_magic(root) else root
    return root if Path(root).is_dir() else _split(root)[0]


def expand_url(url: str) -> tuple[set[str], str]:
    """The same in an object store, whose folders are what keys have in common."""
    url = url.rstrip("/")
    base, patterns = _split_url(url) if glob.has_magic(url) else (url, WHOLE)
    with reading(url):
        files, key = split(base)
        if base == url and files.get_file_info(key).type == pf.FileType.File:
            return {url}, ""
        selector = pf.FileSelector(key, recursive=True, allow_not_found=True)
        listed = files.get_file_info(selector)
        if not listed:
            refuse_missing_bucket(url)
    inside = [f.path[len(key) + 1 :] for f in listed if f.type == pf.FileType.File]
    found = {name for name in inside if matches(patterns, name.split("/"))}
    for folder in {name.rpartition("/")[0] for name in found} | ({""} if base == url else set()):
        above = f"{folder}/" if folder else ""
        ours = any(name.startswith(f"{above}{OWN}/") for name in inside)
        if ours and f"{above}_SUCCESS" not in inside:
            raise _unfinished(f"{base}/{folder}".rstrip("/"))
    if not found:
        raise InputError(
            f"{url}: expected objects, got none; check bucket, path and pattern (names that "
            "begin with _ or . are passed over)"
        )
    return {f"{base}/{name}" for name in found}, url


def reads(root: str, file: str) -> bool:
    """Whether a search of `root`, a folder or a glob as `expand` gives it, would take the file."""
    if is_url(root) or is_url(file):
        return _reads_url(root, file)
    folder = Path(root).is_dir()
    base, patterns = (root, WHOLE) if folder else _split(root)
    real = Path(os.path.realpath(file))
    if not real.is_relative_to(os.path.realpath(base)):
        return False
    if folder:
        return True  # even where names are passed over: a folder is read-only as a whole
    return matches(patterns, real.relative_to(os.path.realpath(base)).parts)


def matches(patterns: Patterns, parts: Sequence[str]) -> bool:
    """Whether a search would take the file at this way below its base."""
    *folders, name = parts
    states = {patterns}
    for level in folders:
        states = {after for state in states for after in _steps(state, level, folder=True)}
    return any(() in _steps(state, name, folder=False) for state in states)


def _reads_url(root: str, file: str) -> bool:
    if not (is_url(root) and is_url(file)):
        return False
    base, patterns = _split_url(root) if glob.has_magic(root) else (root, WHOLE)
    if not file.startswith(f"{base}/"):
        return False
    return base == root or matches(patterns, file[len(base) + 1 :].split("/"))


def _split_url(url: str) -> tuple[str, Patterns]:
    """The prefix before the first wildcard, and the patterns below it."""
    scheme, _, path = url.partition("://")
    base, patterns = _split(path)
    if base == ".":
        raise InputError(f"{url}: expected the name of a bucket, got a pattern; name the bucket")
    return f"{scheme}://{base}", patterns


def _split(pattern: str) -> tuple[str, Patterns]:
    """The folder before the first wildcard, and the patterns below it."""
    parts = Path(pattern).parts
    first = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    patterns = list(parts[first:])
    if patterns[-1] == ANY_DEPTH:
        patterns.append(DATA)
    return str(Path(*parts[:first])), tuple(
        p for i, p in enumerate(patterns) if p != ANY_DEPTH or patterns[i - 1 : i] != [p]
    )


def _search(base: str, patterns: Patterns) -> Iterator[str]:
    """Files below `base`. Links are followed, but no real folder is matched twice the same way.

    What is reached without a link is visited first, so that it keeps its real name.
    """
    places = deque([_Place(base, os.path.realpath(base), patterns)])
    links: deque[_Place] = deque()
    seen: set[tuple[str, Patterns]] = set()
    while places or links:
        place = (places or links).popleft()
        if (place.real, place.patterns) in seen:
            continue
        seen.add((place.real, place.patterns))
        taken = []
        for entry in _entries(place.path):
            folder = Path(entry.path).is_dir() if entry.is_symlink() else entry.is_dir()
            ways = list(_steps(place.patterns, entry.name, folder=folder))
            if not ways and not folder and place.patterns[-1] == DATA:
                _refuse_bare(entry)
            for after in ways:
                if not folder:
                    taken.append(entry.path)
                elif entry.is_symlink():
                    links.append(_Place(entry.path, os.path.realpath(entry.path), after))
                else:
                    real = f"{place.real.rstrip('/')}/{entry.name}"
                    places.append(_Place(entry.path, real, after))
        if taken or place.patterns == WHOLE:
            _refuse_unfinished(place.path)
        yield from taken


def _steps(patterns: Patterns, name: str, *, folder: bool) -> Iterator[Patterns]:
    """What is still to be matched behind `name`, for each way to match it; () for a file."""
    first, rest = patterns[0], patterns[1:]
    hidden = is_hidden(name)
    if first == ANY_DEPTH:
        if folder and not hidden:
            yield patterns
        yield from _steps(rest, name, folder=folder)
    elif first == DATA:
        if not folder and not hidden and name.lower().endswith(SUFFIXES):
            yield ()
    elif fnmatchcase(name, first) and (not hidden or first.startswith(name[0])):
        if folder:
            yield rest or WHOLE
        elif not rest:
            yield ()


def _entries(folder: str) -> list[os.DirEntry[str]]:
    """Sorted by name. A folder that cannot be read is not passed over: its rows would be lost."""
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda entry: entry.name)
    except OSError as e:
        raise InputError(f"{folder}: cannot be read: {e.strerror}; check its permissions") from e


def _refuse_bare(entry: os.DirEntry[str]) -> None:
    """Raises InputError for data in a file whose name has no ending, as Hive's 000000_0: passed
    over, its rows would be missed by nobody."""
    if "." in entry.name or is_hidden(entry.name) or not entry.is_file():
        return
    try:
        with Path(entry.path).open("rb") as file:
            begin = file.read(len(MAGIC[-1]))
    except OSError:
        return  # not known to be data, as any other file that is passed over
    if begin.startswith(MAGIC):
        raise InputError(
            f"{entry.path}: holds data, but a folder's data is told by the ending of its name "
            f"({', '.join(SUFFIXES)}); rename it, or give the files by a glob, such as "
            f"{Path(entry.path).parent}/*"
        )


def _refuse_unfinished(folder: str) -> None:
    if (Path(folder) / OWN).is_dir() and not (Path(folder) / "_SUCCESS").exists():
        raise _unfinished(folder)


def _unfinished(folder: str) -> InputError:
    return InputError(
        f"{folder}: expected a finished dataset, got the output of an unfinished run; "
        "finish that run first"
    )


def each_once(paths: list[str], stats: list[os.stat_result | None]) -> tuple[set[str], list[str]]:
    """One path for each real file, and the other names of these files.

    The real path stays where it is among them, else the first. `stats` belong to `paths`, None
    for what cannot be looked at.
    """
    names: dict[tuple[int, int] | str, list[str]] = {}
    for path, stat in zip(paths, stats, strict=True):
        names.setdefault((stat.st_dev, stat.st_ino) if stat else path, []).append(path)
    hard_linked = {p for p, stat in zip(paths, stats, strict=True) if stat and stat.st_nlink > 1}
    kept: set[str] = set()
    for group in names.values():
        if len(group) == 1:
            kept.update(group)
            continue
        # Numbers of files are not unique on every network file system: look again.
        by_file: dict[str, list[str]] = {}
        for path in group:
            file = "" if path in hard_linked else os.path.realpath(path)
            by_file.setdefault(file, []).append(path)
        kept.update(_most_real(same) for same in by_file.values())
    return kept, sorted(set(paths) - kept)


def _most_real(paths: list[str]) -> str:
    return min(paths, key=lambda path: (path != os.path.realpath(path), path))
