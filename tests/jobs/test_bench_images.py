"""`colonnade bench` of pictures: each size of them against L2, and what columns gain."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import small_models as small
from click.testing import CliRunner

from jobs.cli import main


def test_pictures_are_told_by_size_with_the_gain_of_columns_by_segment(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    w = rng.standard_normal((4, 3, 3, 3)).astype(np.float32)
    proto = small.model(
        [small.node("Conv", "x w", "h", strides=[2, 2]), small.node("Relu", "h", "y")],
        {"x": ["N", 3, 13, 13]},
        {"y": ["N", 4, 6, 6]},
        {"w": w},
    )
    onnx.save(proto, tmp_path / "m.onnx")
    quick = ["--rounds", "2", "--seconds", "0.001", "--rows", "16"]
    html = tmp_path / "page.html"
    arguments = ["bench", str(tmp_path / "m.onnx"), *quick, "--html", str(html)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.stderr
    assert "segment 0, " in result.stdout and " with columns, " in result.stdout
    assert "picture   values  band  halo" in result.stdout and "\n  13x13 " in result.stdout
    assert "price layer by layer" in result.stdout
    page = html.read_text()
    assert "13x13 pixels" in page and "6x6 pixels" in page
    assert "of all fit in" in page and "�" not in page + result.stdout
    told = CliRunner().invoke(main, ["bench", str(tmp_path / "m.onnx"), *quick, "--json"])
    sets = json.loads(told.stdout)["explanation"]["working_sets"]
    assert [b["width"] for b in sets[0]["bands"]] == [13, 6]
