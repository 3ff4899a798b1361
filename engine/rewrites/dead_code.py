"""Nodes whose results nobody reads."""

from __future__ import annotations

from engine.graph import Node
from engine.rewrites.rewrite import Edit, Rewrite, View


def _at(node: Node, view: View) -> Edit | str | None:
    if any(map(view.used, node.writes)):
        return None
    return Edit((node,), reason="nobody reads its results")


DEAD_CODE = Rewrite("dead_code", "removes nodes whose results nobody reads", _at)
