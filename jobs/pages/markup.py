"""HTML that escapes by itself: text is a str, markup is Markup, and only tag() makes Markup."""

from __future__ import annotations

import html
from collections.abc import Iterable

VOID = frozenset({"meta", "rect", "line"})
"""Elements that hold nothing."""


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


Child = str | Markup | Iterable["Child"]


def tag(name: str, /, *children: Child, **attributes: object) -> Markup:
    """`tag("td", text, cls="num")`: children that are not Markup are escaped, attributes always.

    `cls` is class, `_` in a name becomes `-`, and attributes that are None are left out.
    """
    said = "".join(
        f' {"class" if key == "cls" else key.replace("_", "-")}="{_escaped(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in VOID:
        return Markup(f"<{name}{said}/>")
    return Markup(f"<{name}{said}>{join(children)}</{name}>")


def join(children: Iterable[Child]) -> Markup:
    """One after the other, whatever is not Markup escaped."""
    return Markup("".join(_html(child) for child in children))


def _html(child: Child) -> str:
    if isinstance(child, Markup):
        return child
    return _escaped(child) if isinstance(child, str) else join(child)


def _escaped(text: str) -> str:
    return html.escape(visible(text))


def visible(text: str) -> str:
    """Names come from untrusted files: what cannot be printed, or turns the direction of text or a
    terminal's colour, becomes a mark."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
