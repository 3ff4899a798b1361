"""What explain tells of a segment over images: bands, halo, working set, and what orders cost."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import small_models as small

import engine
from engine.reader import graph_of
from engine.working_set import ImageSet, working_sets

Golden = Callable[[str, str], None]
L2 = 24 << 10


def explained(**switches: Any) -> engine.Explanation:
    """Three convolutions and a pool, of pictures that shrink."""
    rng = np.random.default_rng(2)

    def weights(*shape: int) -> Any:
        keep = rng.random(shape) < 0.3
        return (rng.standard_normal(shape) * keep).astype(np.float32)

    nodes = [
        small.node("Conv", "x w1", "a", pads=[1, 1, 1, 1]),
        small.node("Conv", "a w2", "b", pads=[1, 1, 1, 1], strides=[2, 2]),
        small.node("Conv", "b w3", "c"),
        small.node("GlobalAveragePool", "c", "y"),
    ]
    constants = {
        "w1": weights(8, 3, 3, 3), "w2": weights(16, 8, 3, 3), "w3": weights(32, 16, 1, 1)
    }  # fmt: skip
    shape = {"y": ["N", 32, 1, 1]}
    model = small.model(nodes, {"x": ["N", 3, 20, 20]}, shape, constants)
    found = engine.explain(graph_of(model), points=16, **switches)
    return replace(found, working_sets=working_sets(found.program, L2))


def test_golden_working_set_of_images(golden: Golden) -> None:
    parts = {p.split("\n")[0]: p for p in str(explained()).split("\n\n")}
    golden("explain_images", parts["Working set"] + "\n\n" + parts["Program"])


def test_bands_that_fit_are_counted_and_both_prices_are_in_json() -> None:
    found = explained()
    (told,) = json.loads(json.dumps(found.to_json()))["working_sets"]
    assert told["unit"] == "images" and told["images"] == 8
    fits = [b for b in told["bands"] if b["nbytes"] <= L2]
    visits = [sum(b["visits"] for b in bands) for bands in (fits, told["bands"])]
    assert 0 < told["fitting"] == visits[0] / visits[1] < 1
    assert told["orders"][0]["name"] == "depth first"
    assert told["orders"][-1]["name"] == "layer by layer"
    assert [o["chosen"] for o in told["orders"]].count(True) == 1
    assert all(o["cycles"] >= 0 and o["arena_nbytes"] > 0 for o in told["orders"])


def test_with_columns_off_the_layers_are_the_order_and_columns_are_priced_beside_them() -> None:
    (found,) = explained(columns=False).working_sets
    assert isinstance(found, ImageSet)
    lines = str(found).split("\n")
    assert "layer by layer" in lines[0]
    assert lines[-1].startswith("price layer by layer") and lines[-1].endswith("chosen")
    assert lines[-2].startswith("price in columns") and "chosen" not in lines[-2]
