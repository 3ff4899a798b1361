"""Write the sentences in data/: `python -m examples.minilm.make_sentences data`.

They are the English prose of the language reference that Python carries for its `help()`, in
pydoc_data.topics: code, grammar, tables and headings are left out. Another release of Python has
somewhat other sentences; README.md says which one these came from.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from pydoc_data.topics import topics

import pyarrow as pa
import pyarrow.parquet as pq

FILES = 4
ROW_GROUPS = 4
"""A file, so that row ranges have somewhere to split."""

NOT_PROSE = re.compile(r"::=|>>>|^\s*[|+]|^\W+$|\S {3,}\S")
"""A line that tells code, grammar, a table or the rule under a heading."""

BULLET = re.compile(r"^\s*(\*|-|\d+\.|\[\d+\]|Note:|Tip:|See also:)\s+")
END = re.compile(r"(?<=[.!?])[\")”]*\s+(?=[A-Z“\"(*])")
ABBREVIATION = re.compile(r"\b(e\.g|i\.e|etc|vs|cf|Dr|Mr|No|[A-Z])\.$")
WORD = re.compile(r"[A-Za-z][A-Za-z’'-]*$")
WORDS = range(3, 121)
"""Words of a text that is taken."""

PASSAGE = range(75, 121)
"""Words of a paragraph that is taken whole."""


def paragraphs(text: str) -> Iterator[str]:
    """Paragraphs of prose, each on one line, without bullets and without the term explained."""
    for block in re.split(r"\n\s*\n", text):
        lines = block.strip("\n").splitlines()
        if any(NOT_PROSE.search(line) for line in lines):
            continue
        if len(lines) > 1 and indent(lines[1]) > indent(lines[0]) and not BULLET.match(lines[0]):
            del lines[0]
        for item in re.split(r"\n(?=\s*(?:\*|\d+\.) )", "\n".join(lines)):
            yield BULLET.sub("", " ".join(item.split()))


def indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def sentences(paragraph: str) -> Iterator[str]:
    """Its sentences; a full stop after an abbreviation ends none."""
    start = 0
    for end in END.finditer(paragraph):
        if not ABBREVIATION.search(paragraph[start : end.start()]):
            yield paragraph[start : end.end()].strip()
            start = end.end()
    yield paragraph[start:].strip()


def is_english(sentence: str) -> bool:
    """Begins and ends as a sentence, and three words of four are words."""
    words = sentence.split()
    plain = sum(WORD.match(word.strip("\"'“”*().,;:!?")) is not None for word in words)
    return (
        len(words) in WORDS
        and re.match(r"[\"“(*]?[A-Z]", sentence) is not None
        and re.search(r"[.!?][\")”]*$", sentence) is not None
        and plain >= 0.75 * len(words)
    )


def extract(texts: Mapping[str, str]) -> list[str]:
    """Sentences in the order of topics by name, with the longer paragraphs between them.

    A paragraph of several sentences and PASSAGE words comes after its own sentences: such texts
    are met in practice, and no single sentence is as long. Nothing comes twice.
    """
    found: dict[str, None] = {}
    for topic in sorted(texts):
        for paragraph in paragraphs(texts[topic]):
            taken = [s for s in sentences(paragraph) if is_english(s)]
            found |= dict.fromkeys(taken)
            if len(taken) > 1 and len(paragraph.split()) in PASSAGE and is_english(paragraph):
                found[paragraph] = None
    return list(found)


def write(texts: list[str], folder: Path) -> None:
    """FILES Parquet files of about as many rows each: id int64, text string."""
    folder.mkdir(parents=True, exist_ok=True)
    table = pa.table({"id": pa.array(range(len(texts)), pa.int64()), "text": pa.array(texts)})
    rows = -(-len(table) // FILES)
    for number in range(FILES):
        part = table.slice(number * rows, rows)
        path = folder / f"sentences-{number}.parquet"
        pq.write_table(part, path, row_group_size=-(-rows // ROW_GROUPS), compression="zstd")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    texts = extract(topics)
    write(texts, args.folder)
    print(f"{args.folder}: {len(texts):,} sentences in {FILES} files")


if __name__ == "__main__":
    main()
