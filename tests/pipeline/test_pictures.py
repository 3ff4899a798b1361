"""Decoding: orientation, modes, scaling and cutting, refusals, memory."""

from __future__ import annotations

import io
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import picture_jobs as jobs
import pyarrow as pa
import pytest
from PIL import Image

from engine.graph import Value
from pipeline import pictures
from pipeline.binding import Binding, bind
from pipeline.bound import FieldBinding
from pipeline.errors import BindingError
from pipeline.picture_rules import PictureRules, parse
from pipeline.pictures import Decoder
from pipeline.tensors import bad_rows, to_feeds, without_rows

ROOT = Path(__file__).resolve().parents[2]
Array = np.ndarray[Any, Any]


def binding(rules: PictureRules, *shape: int | str, kind: pa.DataType | None = None) -> Binding:
    value = Value("x", np.dtype(np.uint8), ("N", *shape))
    output = Value("y", np.dtype(np.float32), ("N",))
    return bind(pa.schema([("x", kind or pa.binary())]), (value,), (output,), pictures=rules)


def feed(files: list[bytes | None], image: str, *shape: int | str) -> Array:
    """Of the good ones, [rows, *shape]."""
    rules = parse(image)
    bound = binding(rules, *shape)
    batch = pa.record_batch({"x": pa.array(files, pa.binary())})
    made = Decoder(rules, bound, 2)(batch)
    return np.asarray(to_feeds(without_rows(made, bad_rows(made, bound)), bound)["x"])


def reasons(*files: bytes | None) -> list[str]:
    rules = PictureRules()
    bound = binding(rules, 3, 8, 8)
    made = Decoder(rules, bound, 2)(pa.record_batch({"x": pa.array(files, pa.binary())}))
    return [bad.reason for bad in bad_rows(made, bound)]


def decoded(file: bytes, channels: int = 3, side: int = 8, image: str = "size=8") -> Array:
    """[H, W, C]"""
    return feed([file], image.replace("8", str(side)), side, side, channels)[0]


def test_both_layouts_and_open_dimensions() -> None:
    picture = jobs.picture(0)
    file = jobs.encoded(picture)
    np.testing.assert_array_equal(feed([file], "range=1", 8, 8, 3)[0], picture)
    np.testing.assert_array_equal(feed([file], "range=1", 3, 8, 8)[0], picture.transpose(2, 0, 1))
    np.testing.assert_array_equal(feed([file], "size=8", 3, "h", "w")[0].shape, (3, 8, 8))
    with pytest.raises(BindingError, match="leaves h open; add size=H"):
        binding(PictureRules(), 3, "h", "w")


def test_advice_is_taken_by_the_model_that_it_is_given_for() -> None:
    with pytest.raises(BindingError, match="--image filter=bilinear, and size=HxW"):
        bind(pa.schema([("x", pa.binary())]), (Value("x", np.dtype(np.uint8), ("N", 8, 8, 3)),), ())
    assert binding(parse("filter=bilinear"), 8, 8, 3).fields[0].picture


def test_a_picture_stands_upright_as_viewers_show_it() -> None:
    upright = Image.fromarray(jobs.picture(1))
    exif = Image.Exif()
    exif[0x0112] = 6  # Orientation: turn a quarter clockwise to show
    lying = upright.transpose(Image.Transpose.ROTATE_90)
    file = jobs.encoded(lying, "PNG", exif=exif)
    np.testing.assert_array_equal(decoded(file), np.asarray(upright))


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK"])
@pytest.mark.parametrize("channels", [1, 3])
def test_modes_become_the_models_channels_as_pillow_converts_them(mode: str, channels: int) -> None:
    image = Image.fromarray(jobs.picture(2)).convert(mode)
    kind = "JPEG" if mode == "CMYK" else "PNG"
    file = jobs.encoded(image, kind, **({"quality": 95} if kind == "JPEG" else {}))
    again = Image.open(io.BytesIO(file)).convert("RGB" if channels == 3 else "L")
    want = np.asarray(again).reshape(8, 8, channels)
    np.testing.assert_array_equal(decoded(file, channels), want)


def test_transparency_is_dropped_and_the_colour_under_it_stays() -> None:
    pixels = np.dstack([jobs.picture(3), np.zeros((8, 8), np.uint8)])
    np.testing.assert_array_equal(decoded(jobs.encoded(pixels)), pixels[..., :3])
    palette = Image.fromarray(jobs.picture(3)).convert("P")
    file = jobs.encoded(palette, transparency=bytes([0] * 256))
    np.testing.assert_array_equal(decoded(file), np.asarray(palette.convert("RGB")))


def test_scaling_and_cutting_are_torchvisions() -> None:
    """Resize(12) and CenterCrop(8): the longer side is rounded down, the cut's place rounded."""
    for height, width in ((20, 31), (31, 20), (9, 40), (12, 13)):
        image = Image.fromarray(jobs.picture(4, height, width))
        short, long = min(height, width), max(height, width)
        longer = int(12 * long / short)
        h, w = (12, longer) if width >= height else (longer, 12)
        scaled = np.asarray(image.resize((w, h), Image.Resampling.BILINEAR))
        top, left = round((h - 8) / 2), round((w - 8) / 2)
        found = feed([jobs.encoded(image)], "resize=12", 8, 8, 3)[0]
        np.testing.assert_array_equal(found, scaled[top : top + 8, left : left + 8])


def test_without_resize_the_whole_shorter_side_is_kept() -> None:
    image = Image.fromarray(jobs.picture(5, 16, 40))
    scaled = np.asarray(image.resize((20, 8), Image.Resampling.BICUBIC))
    found = feed([jobs.encoded(image)], "filter=bicubic", 8, 8, 3)[0]
    np.testing.assert_array_equal(found, scaled[:, 6:14])


def test_a_size_that_is_no_square_is_covered() -> None:
    for height, width in ((50, 20), (20, 50), (8, 12)):
        image = jobs.picture(6, height, width)
        assert feed([jobs.encoded(image)], "resize=10x14", 8, 12, 3).shape == (1, 8, 12, 3)


def test_stretching_takes_the_whole_picture() -> None:
    image = Image.fromarray(jobs.picture(7, 5, 30))
    want = np.asarray(image.resize((8, 8), Image.Resampling.NEAREST))
    found = feed([jobs.encoded(image)], "resize=stretch,filter=nearest", 8, 8, 3)[0]
    np.testing.assert_array_equal(found, want)


def test_a_cameras_file_of_several_pictures_gives_the_first() -> None:
    first, second = (Image.fromarray(jobs.picture(seed, 16, 16)) for seed in (1, 2))
    file = jobs.encoded(
        first, "MPO", save_all=True, append_images=[second], quality=95, subsampling=0
    )
    near = decoded(file, side=16).astype(int) - jobs.picture(1, 16, 16)
    assert np.abs(near).mean() < 10


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_file_cut_anywhere_is_a_bad_row_or_nothing_else(kind: str) -> None:
    file = jobs.encoded(jobs.picture(8, 32, 32), kind)
    cuts = range(0, len(file) - 20, 7)
    found = reasons(*(file[:cut] for cut in cuts))
    assert len(found) == len(cuts)
    assert all(r.startswith(("cannot be decoded: ", "is no JPEG or PNG")) for r in found)


def test_other_formats_deep_pixels_and_nulls_are_named() -> None:
    deep = jobs.encoded(Image.fromarray(np.full((8, 8), 40_000, np.uint16)))
    gif = jobs.encoded(jobs.picture(9), "GIF")
    assert reasons(deep, gif, None, b"") == [
        "has pixels of more than eight bits (mode I;16)",
        "is no JPEG or PNG",
        "is null",
        "is no JPEG or PNG",
    ]


def test_a_picture_too_large_for_the_bound_is_refused_before_it_is_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pictures, "MOST_PIXELS", 300)
    file = jobs.encoded(jobs.picture(10, 20, 20))
    assert reasons(file, jobs.encoded(jobs.picture(1))) == [
        "has 20x20 pixels, expected at most 300"
    ]


def test_large_pictures_are_decoded_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "LARGE_PIXELS", 300)
    decoder = Decoder(PictureRules(), binding(PictureRules(), 3, 8, 8), 4)
    held: list[bool] = []
    whole = pictures._scaled

    def scaled(*given: Any) -> Array:
        held.append(decoder._large.locked())
        return whole(*given)

    monkeypatch.setattr(pictures, "_scaled", scaled)
    files = [jobs.encoded(jobs.picture(seed, 20, 20)) for seed in range(6)]
    decoder(pa.record_batch({"x": pa.array(files, pa.binary())}))
    assert held == [True] * 6


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_decoding_stays_under_its_price(tmp_path: Path, kind: str) -> None:
    """The largest picture, turned by its EXIF, in a process of its own."""
    exif = Image.Exif()
    exif[0x0112] = 6
    side = math.isqrt(pictures.MOST_PIXELS)
    options = {"progressive": True, "subsampling": 0} if kind == "JPEG" else {"compress_level": 1}
    large = Image.fromarray(jobs.picture(11, side, side))
    (tmp_path / "large").write_bytes(jobs.encoded(large, kind, exif=exif, **options))
    done = subprocess.run(
        [sys.executable, __file__, tmp_path / "large"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, [ROOT, ROOT / "tests"]))},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    grown = int(done.stdout)
    assert pictures.MOST_PIXELS * 4 < grown < pictures.decoding_nbytes(1)


def grown_by_decoding(path: str) -> int:
    """Bytes that this process grew by, at most, while it decoded the picture."""
    decoder = Decoder(PictureRules(), binding(PictureRules(), 3, 8, 8), 1)
    small, large = jobs.encoded(jobs.picture(0)), Path(path).read_bytes()
    batches = [pa.record_batch({"x": pa.array([d], pa.binary())}) for d in (small, large)]
    decoder(batches[0])
    before = peak_nbytes()
    made = decoder(batches[1])
    assert made.column("\0pixels of x").null_count == 0, made.column("\0problems of x")
    return peak_nbytes() - before


def peak_nbytes() -> int:
    """Of this process's memory since it began; getrusage would count its parent's, too."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) << 10


@pytest.mark.parametrize("kind", [pa.large_binary(), pa.binary_view()])
def test_other_types_of_bytes(kind: pa.DataType) -> None:
    bound = binding(PictureRules(), 8, 8, 3, kind=kind)
    batch = pa.record_batch({"x": pa.array([jobs.encoded(jobs.picture(1)), None], kind)})
    made = Decoder(PictureRules(), bound, 2)(batch)
    assert [(bad.row, bad.reason) for bad in bad_rows(made, bound)] == [(1, "is null")]


def test_no_rows_and_rows_of_a_slice() -> None:
    bound = binding(PictureRules(), 8, 8, 3)
    decoder = Decoder(PictureRules(), bound, 2)
    files = [jobs.encoded(jobs.picture(seed)) for seed in range(4)]
    batch = pa.record_batch({"x": pa.array(files, pa.binary())})
    assert to_feeds(decoder(batch.slice(0, 0)), bound)["x"].shape == (0, 8, 8, 3)
    found = to_feeds(decoder(batch.slice(2)), bound)["x"]
    np.testing.assert_array_equal(found[0], jobs.picture(2))


def test_the_columns_that_are_made_hide_no_field() -> None:
    (field,) = binding(PictureRules(), 8, 8, 3).fields
    assert isinstance(field, FieldBinding)
    assert field.column.startswith("\0") and field.problems.startswith("\0")


@pytest.mark.parametrize(
    ("text", "rules"),
    [
        (
            "mean=0.5,0.4,0.3, std=0.2,size=7x9",
            PictureRules((0.5, 0.4, 0.3), (0.2,), size=(7, 9)),
        ),
        ("range=255,mean=127", PictureRules((127.0,), range=255)),
        ("resize=256,filter=bicubic", PictureRules(resize=(256, 256), filter="bicubic")),
        ("resize=stretch", PictureRules(stretch=True)),
    ],
)
def test_image_says(text: str, rules: PictureRules) -> None:
    assert parse(text) == rules == parse(str(rules))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0.5", "expected KEY=VALUE"),
        ("men=1", "expected one of mean, std, range, size, resize, filter, got 'men'"),
        ("mean=a", "expected numbers for mean"),
        ("std=0", "expected std of finite numbers above 0"),
        ("mean=nan", "expected mean of finite numbers"),
        ("mean=0.1,0.2,std=1,1,1", "expected as many numbers of mean as of std"),
        ("mean=123.7", "add range=255"),
        ("range=2", "expected range of 1 or 255"),
        ("size=0", "expected size as H or HxW"),
        ("size=2x3x4", "expected size as H or HxW"),
        ("resize=big", "expected resize as H or HxW"),
        ("filter=box", "expected filter of bilinear or nearest"),
        ("size=3,size=4", "expected size once"),
    ],
)
def test_image_says_nothing_else(text: str, said: str) -> None:
    with pytest.raises(BindingError, match=said):
        parse(text)


if __name__ == "__main__":
    print(grown_by_decoding(sys.argv[1]))
