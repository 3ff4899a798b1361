"""`colonnade bench`: what it reports hangs together; nothing here asserts a speed."""

from __future__ import annotations

import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import small_job
import small_models as small
from click.testing import CliRunner, Result
from small_job import Source

from engine import rival
from jobs.cli import main
from jobs.pages.markup import Markup, tag

QUICK = ("--rounds", "2", "--seconds", "0.001", "--rows", "40")
HOSTILE = '<script>alert(1)</script>"&\x1b[31m'
VOID = {"meta", "rect", "line"}
CORES = len(os.sched_getaffinity(0))


class Page(HTMLParser):
    """Text and attributes of a page whose elements are properly nested."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in VOID
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["bench", *(str(a) for a in arguments)])


def bench(*arguments: object) -> Any:
    result = invoke(*arguments, *QUICK, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return small_job.write(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fallback between native segments, with names that want to be markup."""
    rng = np.random.default_rng(1)
    constants = {
        "w": rng.standard_normal((8, 6)).astype(np.float32),
        "k": np.array(1, np.int64),
        "v": rng.standard_normal((2, 8)).astype(np.float32),
        "b": np.zeros(8, np.float32),
        "c": np.zeros(2, np.float32),
    }
    nodes = [
        small.node("Gemm", "x w b", "g", transB=1, name=f"first{HOSTILE}"),
        small.node("CumSum", "g k", "t", name=f"sum{HOSTILE}"),
        small.node("Gemm", "t v c", "y", transB=1, name="last"),
    ]
    model = small.model(nodes, {"x": ["N", 6]}, {"y": ["N", 2]}, constants)
    for node in model.graph.node:
        node.output[0] = {"g": f"g{HOSTILE}", "t": f"t{HOSTILE}"}.get(node.output[0], "y")
        node.input[0] = {"g": f"g{HOSTILE}", "t": f"t{HOSTILE}"}.get(node.input[0], "x")
    path = tmp_path_factory.mktemp("models") / "<b>bold&.onnx"
    onnx.save(model, path)
    return path


def test_json_has_its_keys_and_hangs_together(source: Source) -> None:
    plain = bench(source.model)
    assert list(plain) == [
        "model", "date", "rows", "tokens", "shortest", "longest", "padding", "rounds", "seconds",
        "feeds", "notes", "versions", "machine", "figures", "ratio_to_onnxruntime", "profile",
        "segments", "explanation",
    ]  # fmt: skip
    assert (plain["tokens"], plain["longest"], plain["padding"]) == (0, 0, 0)
    assert (plain["rows"], plain["rounds"], plain["feeds"]) == (40, 2, "made up, seeded")
    names = {"colonnade", "onnxruntime", "columns off", "sparse off"}
    by_cores: dict[int, dict[str, Any]] = {}
    for figure in plain["figures"]:
        by_cores.setdefault(figure["cores"], {})[figure["contender"]] = figure
        assert 0 < figure["lowest"] <= figure["median"] <= figure["highest"]
    assert set(by_cores) == {1, len(plain["machine"]["cpus"])}
    for cores, found in by_cores.items():
        assert set(found) == names
        ours = found["colonnade"]["median"]
        for name, figure in found.items():
            assert figure["ratio"] == pytest.approx(ours / figure["median"])
            assert figure["scaling"] == pytest.approx(
                figure["median"] / by_cores[1][name]["median"]
            )
        assert plain["ratio_to_onnxruntime"][str(cores)] == found["onnxruntime"]["ratio"]
    (segment,) = plain["segments"]
    assert segment["nodes"] == 2 and segment["columns"] > 0
    assert segment["gain"] == pytest.approx(segment["layers"] / segment["columns"])
    steps = plain["profile"]["steps"]
    assert sum(s["share"] for s in steps) == pytest.approx(1)
    assert {s["node"] for s in steps} == {"", "first", "second"}
    assert {"useful_gflops", "dense_gflops", "multiply_adds", "kernel"} <= set(steps[0])
    assert plain["versions"]["onnxruntime"] and plain["explanation"]["nodes"]


def test_the_table_names_contenders_nodes_and_the_cache(source: Source) -> None:
    result = invoke(source.model, *QUICK)
    assert result.exit_code == 0, result.stderr
    for text in ("colonnade", "onnxruntime", "columns off", "sparse off", "first", "second", "L2"):
        assert text in result.stdout
    assert result.stdout.count("%") >= 4 and result.stderr == ""


def test_real_rows_come_from_the_dataset(source: Source) -> None:
    plain = bench(source.model, "--input", source.data, "--bind", "x=x", "--engine-only")
    assert plain["rows"] == 40 and plain["feeds"] == f"first rows of {source.data}"
    assert "onnxruntime" not in plain["versions"] and "ratio_to_onnxruntime" not in plain
    result = invoke(source.model, "--input", source.data, "--bind", "x=nothing", *QUICK)
    assert result.exit_code == 1 and "'nothing'" in result.stderr


def test_a_dataset_with_fewer_rows_is_taken_whole(source: Source) -> None:
    result = invoke(
        source.model, "--input", source.data / "in-0.parquet", "--json", "--engine-only",
        "--rounds", 1, "--seconds", 0.001, "--rows", 5000,
    )  # fmt: skip
    plain = json.loads(result.stdout)
    assert plain["rows"] == sum(small_job.GROUPS) and "5,000 were wanted" in plain["feeds"]


def test_one_thread_is_measured_once(source: Source) -> None:
    plain = bench(source.model, "--threads", 1, "--engine-only")
    assert [f["cores"] for f in plain["figures"]] == [1, 1, 1]


def test_without_onnxruntime_the_rest_is_measured(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    plain = bench(source.model)
    assert {f["contender"] for f in plain["figures"]} == {"colonnade", "columns off", "sparse off"}
    assert any("pip install onnxruntime" in note for note in plain["notes"])


def test_a_model_that_onnxruntime_refuses_is_measured_without_it(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise rival.UnsupportedError("onnxruntime cannot load it: too new")

    monkeypatch.setattr(rival, "Rival", refuse)
    plain = bench(source.model)
    assert plain["notes"] == ["onnxruntime cannot load it: too new"]
    assert "ratio_to_onnxruntime" not in plain


def test_a_disagreement_is_an_error(
    source: Source, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    honest = rival.Rival.run

    def wrong(self: rival.Rival, feeds: Any) -> Any:
        return {name: array * 1.01 for name, array in honest(self, feeds).items()}

    monkeypatch.setattr(rival.Rival, "run", wrong)
    page = tmp_path / "page.html"
    result = invoke(source.model, *QUICK, "--html", page)
    assert result.exit_code == 1 and result.stdout == "" and not page.exists()
    assert "onnxruntime on 1 core" in result.stderr and "output y: differs by" in result.stderr


def test_the_page_is_whole_escaped_and_contains_every_node(hostile: Path, tmp_path: Path) -> None:
    target = tmp_path / "page.html"
    result = invoke(hostile, *QUICK, "--html", target)
    assert result.exit_code == 0, result.stderr
    assert "\x1b" not in result.stdout
    source = target.read_text(encoding="utf-8")
    page = Page(source)
    shown = HOSTILE.replace("\x1b", "\N{REPLACEMENT CHARACTER}")
    for text in (f"first{shown}", f"sum{shown}", "last", "<b>bold&.onnx", "Cache stop", "L2"):
        assert text in page.text
    assert "no kernel for CumSum" in page.text
    assert not page.tags & {"script", "link", "img", "iframe", "object", "b>bold"}
    outside = re.compile(r"https?:|//|url\(|@import|javascript:")
    for name, value in page.attributes:
        assert name not in ("src", "href") and not name.startswith("on")
        assert name in ("title", "aria-label") or not outside.search(value)
    style = source[source.index("<style>") : source.index("</style>")]
    assert not outside.search(style) and "prefers-color-scheme: dark" in style


def test_text_becomes_markup_by_tag_alone() -> None:
    assert tag("p", "<i>", cls='"') == '<p class="&quot;">&lt;i&gt;</p>'
    assert tag("p", [tag("b", "x"), Markup("&amp;")], id=None) == "<p><b>x</b>&amp;</p>"
    assert tag("rect", aria_label="a\u202eb") == '<rect aria-label="a\N{REPLACEMENT CHARACTER}b"/>'


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["m", "--rows", "0"], "rows: expected at least 1, got 0"),
        (["m", "--tokens", "0"], "tokens: expected at least 1, got 0"),
        (["m", "--tokens", "9", "--input", "x"], "rows of --input have their own lengths"),
        (["m", "--rounds", "0"], "rounds: expected at least 1, got 0"),
        (["m", "--seconds", "nan"], "seconds: expected at least 0.001, got nan"),
        (["m", "--threads", "0"], "threads: expected at least 1, got 0"),
        (["m", "--bind", "x"], "expected INPUT=FIELD, got 'x'"),
        (["m", "--bind", "x=y"], "expected --input too"),
        (["m", "--image", "std=1"], "expected --input too"),
        (["m", "--html", "no/such/folder/x.html"], "expected a file in a folder that exists"),
    ],
)
def test_usage_errors_exit_with_2(arguments: list[str], said: str) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2 and said in result.stderr


def test_a_missing_model_is_named() -> None:
    result = invoke("missing.onnx")
    assert result.exit_code == 1 and "missing.onnx" in result.stderr


def test_tokens_for_a_model_without_sequences_are_refused(source: Source) -> None:
    result = invoke(source.model, "--tokens", 8)
    assert result.exit_code == 2 and "expected a model of sequences" in result.stderr


def test_more_threads_than_cores_are_refused(source: Source) -> None:
    result = invoke(source.model, "--threads", CORES + 1)
    assert result.exit_code == 1 and f"got {CORES + 1}" in result.stderr


def test_rows_that_the_model_cannot_take_say_what_to_do(tmp_path: Path) -> None:
    """Made-up places in a table that is too short for them."""
    nodes = [small.node("Gather", "table x", "y", name="lookup")]
    table = np.zeros((2, 3), np.float32)
    model = small.model(nodes, {"x": ["N"]}, {"y": ["N", 3]}, {"table": table})
    model.graph.input[0].CopyFrom(small.info("x", ["N"], np.int64))
    onnx.save(model, tmp_path / "lookup.onnx")
    result = invoke(tmp_path / "lookup.onnx", *QUICK)
    assert result.exit_code == 1
    assert "lookup (Gather)" in result.stderr and "give real ones with --input" in result.stderr


def test_open_dimensions_are_taken_and_noted(tmp_path: Path) -> None:
    nodes = [small.node("Relu", "x", "y", name="relu")]
    model = small.model(nodes, {"x": ["N", "some"]}, {"y": ["N", "some"]})
    onnx.save(model, tmp_path / "open.onnx")
    plain = bench(tmp_path / "open.onnx", "--engine-only")
    assert len(plain["notes"]) == 1 and "were taken as 32" in plain["notes"][0]
