"""Whole jobs over pictures: tensors either way round, JPEG and PNG, and what cannot be decoded."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import picture_jobs as jobs
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from here import here
from onnx import TensorProto
from PIL import Image
from small_job import read_parts

from jobs.cli import main

ROWS = 10
PIXELS = np.stack([jobs.picture(seed) for seed in range(ROWS)])


def score(folder: Path, output: Path, *more: str) -> pa.Table:
    run = here(*jobs.words(folder, output, *more))
    assert run.code == 0, run.stderr
    return read_parts(output)


def outputs(table: pa.Table) -> np.ndarray[Any, Any]:
    return np.array(table["y"].to_pylist(), np.float32)


def planned(folder: Path, output: Path, *more: str) -> Result:
    return CliRunner().invoke(main, jobs.words(folder, output, "--dry-run", *more))


@pytest.mark.parametrize("last", [False, True], ids=["NCHW", "NHWC"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("channels_last", [False, True], ids=["CHW", "HWC"])
def test_tensors_are_turned_as_the_model_needs_them(
    tmp_path: Path, last: bool, dtype: Any, channels_last: bool
) -> None:
    model = jobs.model(last=last)
    rows = PIXELS.astype(dtype)
    field = jobs.tensors(rows if channels_last else rows.transpose(0, 3, 1, 2))
    folder = jobs.write(tmp_path / "in", field, model)
    found = outputs(score(folder, tmp_path / "out"))
    feed = PIXELS.astype(np.float32)
    want = jobs.expected(feed if last else np.ascontiguousarray(feed.transpose(0, 3, 1, 2)), model)
    np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("as_bytes", [False, True], ids=["tensor", "PNG"])
def test_pixels_are_normalised_as_torchvision_does_it(tmp_path: Path, as_bytes: bool) -> None:
    files = pa.array([jobs.encoded(p) for p in PIXELS], pa.binary())
    folder = jobs.write(tmp_path / "in", files if as_bytes else jobs.tensors(PIXELS))
    found = outputs(score(folder, tmp_path / "out", "--image", jobs.IMAGE))
    np.testing.assert_allclose(found, jobs.expected(jobs.normalised(PIXELS)), rtol=1e-5, atol=1e-5)


def test_units_of_255_and_one_number_for_all_channels(tmp_path: Path) -> None:
    folder = jobs.write(tmp_path / "in", jobs.tensors(PIXELS))
    found = outputs(score(folder, tmp_path / "out", "--image", "range=255,mean=127,std=128"))
    feed = (PIXELS.astype(np.float32) - 127) / np.float32(128)
    want = jobs.expected(np.ascontiguousarray(feed.transpose(0, 3, 1, 2)))
    np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-5)


def test_a_model_that_normalises_itself_gets_its_bytes(tmp_path: Path) -> None:
    model = jobs.model(last=True, dtype=TensorProto.UINT8)
    files = [jobs.encoded(jobs.picture(seed, 11, 17), "JPEG") for seed in range(3)]
    folder = jobs.write(tmp_path / "in", pa.array(files, pa.binary()), model)
    found = outputs(score(folder, tmp_path / "out", "--image", "resize=stretch"))
    pictures = [Image.open(io.BytesIO(data)) for data in files]
    small = np.stack([np.asarray(p.resize((8, 8), Image.Resampling.BILINEAR)) for p in pictures])
    np.testing.assert_allclose(found, jobs.expected(small, model), rtol=1e-5, atol=1e-4)
    refused = planned(folder, tmp_path / "x", "--image", jobs.IMAGE)
    assert refused.exit_code == 1 and "the model takes uint8 and normalises itself" in (
        refused.stderr
    )


def test_grey_pictures_feed_one_channel_from_either_field(tmp_path: Path) -> None:
    grey = np.stack([jobs.picture(seed, channels=1) for seed in range(3)])
    model = jobs.model(channels=1)
    feed = np.ascontiguousarray(grey.astype(np.float32).transpose(0, 3, 1, 2)) / np.float32(255)
    files = pa.array([jobs.encoded(p) for p in grey], pa.binary())
    for name, field in (("files", files), ("tensors", jobs.tensors(grey[..., 0]))):
        folder = jobs.write(tmp_path / name, field, model)
        found = outputs(score(folder, tmp_path / f"{name}-out", "--image", "range=1"))
        np.testing.assert_allclose(found, jobs.expected(feed, model), rtol=1e-5, atol=1e-5)


def test_structs_of_bytes_are_pictures(tmp_path: Path) -> None:
    rows = [{"bytes": jobs.encoded(p), "path": None} for p in PIXELS]
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    folder = jobs.write(tmp_path / "in", pa.array(rows, kind))
    found = outputs(score(folder, tmp_path / "out", "--image", jobs.IMAGE))
    np.testing.assert_allclose(found, jobs.expected(jobs.normalised(PIXELS)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("model", [jobs.model(), jobs.model(last=True, dtype=TensorProto.UINT8)])
def test_a_bench_takes_the_pictures_of_a_dataset(tmp_path: Path, model: onnx.ModelProto) -> None:
    """Its contenders agree, onnxruntime among them, which knows of no --image."""
    files = [jobs.encoded(jobs.picture(seed, 11, 17), "JPEG") for seed in range(3)]
    folder = jobs.write(tmp_path / "in", pa.array([*files, b"none"], pa.binary()), model)
    words = ["bench", str(folder / "model.onnx"), "--input", str(folder / "data"), "--json"]
    quick = ["--rounds", "1", "--seconds", "0.001", "--threads", "1", "--rows", "3"]
    image = (
        "resize=stretch"
        if model.graph.input[0].type.tensor_type.elem_type == TensorProto.UINT8
        else jobs.IMAGE
    )
    result = CliRunner().invoke(main, [*words, *quick, "--image", image])
    assert result.exit_code == 0, result.stderr
    plain = json.loads(result.stdout)
    assert plain["rows"] == 3 and plain["versions"]["onnxruntime"]
    bare = CliRunner().invoke(main, [*words, *quick])
    assert bare.exit_code == 1 and "if it holds JPEG or PNG" in bare.stderr


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good pictures in rows 0, 3 and 6; null, cut short, no picture and 16 bits between."""
    good = [jobs.encoded(p, "PNG") for p in PIXELS[:3]]
    cut = jobs.encoded(jobs.picture(9, 64, 64), "JPEG")[:-200]
    deep = jobs.encoded(Image.fromarray(np.full((8, 8), 40_000, np.uint16)))
    rows = [good[0], None, cut, good[1], b"no picture", deep, good[2], b""]
    return jobs.write(tmp_path_factory.mktemp("mixed") / "in", pa.array(rows, pa.binary()))


REASONS = [
    (1, "is null"),
    (2, "cannot be decoded: image file is truncated"),
    (4, "is no JPEG or PNG"),
    (5, "has pixels of more than eight bits (mode I;16)"),
    (7, "is no JPEG or PNG"),
]


def test_the_first_bad_picture_ends_the_job_by_name(mixed: Path, tmp_path: Path) -> None:
    run = here(*jobs.words(mixed, tmp_path / "out", "--image", jobs.IMAGE))
    assert run.code == 1
    assert f"{mixed / 'data' / 'a.parquet'}: row 1, field 'x': is null" in run.stderr


@pytest.mark.parametrize("on_error", ["skip", "null"])
def test_bad_pictures_obey_on_error(mixed: Path, tmp_path: Path, on_error: str) -> None:
    output = tmp_path / "out"
    table = score(mixed, output, "--image", jobs.IMAGE, "--on-error", on_error)
    good = [0, 3, 6]
    want = jobs.expected(jobs.normalised(PIXELS[:3]))
    scored = {row["id"]: row["y"] for row in table.to_pylist()}
    assert sorted(scored) == (good if on_error == "skip" else list(range(8)))
    np.testing.assert_allclose([scored.pop(row) for row in good], want, rtol=1e-5, atol=1e-5)
    assert set(map(str, scored.values())) <= {"None"}
    rejects = pa.concat_tables(
        pq.read_table(path) for path in sorted((output / "_colonnade" / "rejects").iterdir())
    ).to_pylist()
    found = sorted((r["row"], r["field"], r["reason"]) for r in rejects)
    assert [(row, field) for row, field, _ in found] == [(row, "x") for row, _ in REASONS]
    for (_, _, said), (_, reason) in zip(found, REASONS, strict=True):
        assert said.startswith(reason)


def test_the_plan_shows_what_becomes_of_a_field_and_its_price(tmp_path: Path) -> None:
    files = pa.array([jobs.encoded(p, "JPEG") for p in PIXELS], pa.binary())
    folder = jobs.write(tmp_path / "in", files)
    more = ("--image", f"{jobs.IMAGE},resize=10,filter=bicubic")
    run = planned(folder, tmp_path / "out", *more)
    assert run.exit_code == 0, run.output
    assert (
        "x: uint8[N, 3, 8, 8] <- x: binary (decoded, scaled to cover 10x10, cut to 8x8, bicubic)"
        in run.output
    )
    assert f"images  {jobs.IMAGE},range=1,resize=10x10,filter=bicubic" in run.output
    with_files = json.loads(planned(folder, tmp_path / "out", "--json", *more).stdout)
    folder = jobs.write(tmp_path / "tensors", jobs.tensors(PIXELS))
    run = planned(folder, tmp_path / "out", "--image", jobs.IMAGE)
    assert "x: uint8[N, 3, 8, 8] <- x: " in run.output
    assert "(channels turned to the front, copied)" in run.output
    without = json.loads(planned(folder, tmp_path / "out", "--json", "--image", jobs.IMAGE).stdout)
    more_reading = with_files["plan"]["memory"]["reading"] - without["plan"]["memory"]["reading"]
    assert more_reading > 32 << 20, "decoding takes memory, too"


@pytest.mark.parametrize(
    ("field", "image", "said"),
    [
        ("bytes", "", "say how the model wants pictures: --image mean="),
        ("bytes", "size=9", "expected size=8, as the model has it, got 9"),
        ("bytes", "mean=0.5,0.5", "expected mean of 1 or 3 numbers"),
        ("bytes", "resize=7", "expected resize of at least 8x8"),
        ("bytes", "mean=127", "add range=255"),
        ("text", "mean=0.5", "from field 'x' of string; do --bind"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_start(
    tmp_path: Path, field: str, image: str, said: str
) -> None:
    rows = ["a"] * 3 if field == "text" else [jobs.encoded(p) for p in PIXELS[:3]]
    folder = jobs.write(tmp_path / "in", pa.array(rows))
    run = planned(folder, tmp_path / "out", *(["--image", image] if image else []))
    assert run.exit_code == 1 and said in run.stderr, run.output


def test_another_image_is_another_run(tmp_path: Path) -> None:
    folder = jobs.write(tmp_path / "in", pa.array([jobs.encoded(p) for p in PIXELS]))
    score(folder, tmp_path / "out", "--image", jobs.IMAGE)
    again = here(*jobs.words(folder, tmp_path / "out", "--image", "mean=0.5,std=0.5"))
    assert again.code == 1 and "image: the folder has mean=0.485" in again.stderr


def test_explain_shows_the_nodes_in_front_of_the_model(tmp_path: Path) -> None:
    folder = jobs.write(tmp_path / "in", pa.array([jobs.encoded(p) for p in PIXELS]))
    words = ["explain", str(folder / "model.onnx"), "--input", str(folder / "data")]
    run = CliRunner().invoke(main, [*words, "--image", jobs.IMAGE])
    assert run.exit_code == 0, run.output
    assert "x: uint8[N, 3, 8, 8] <- x: binary (decoded, scaled and cut to 8x8" in run.output
    run = CliRunner().invoke(main, [*words[:2], "--image", jobs.IMAGE])
    assert run.exit_code == 2 and "image: expected --input too" in run.stderr
