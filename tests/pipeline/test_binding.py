from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from engine.graph import Value
from pipeline.binding import Binding, bind
from pipeline.errors import BindingError
from pipeline.layout import Layout, exactly_widens, layout

F32 = np.dtype(np.float32)


def value(name: str, *shape: int | str, dtype: Any = F32) -> Value:
    return Value(name, np.dtype(dtype), shape)


SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False, metadata={"why": "key"}),
        pa.field("image", pa.fixed_shape_tensor(pa.float32(), [28, 28])),
        pa.field("pixels", pa.list_(pa.uint8(), 784)),
        pa.field("wide", pa.list_(pa.float64(), 784)),
        pa.field("loose", pa.list_(pa.float32())),
        pa.field("name", pa.string()),
        pa.field("score", pa.float32()),
        pa.field("photo", pa.fixed_shape_tensor(pa.uint8(), [6, 8, 3])),
    ]
)


def bind_one(
    field: str, *shape: int | str, dtype: Any = F32, keep: Any = (), on_error: str = "fail"
) -> Binding:
    inputs = (value("x", *shape, dtype=dtype),)
    outputs = (value("y", "N", 10),)
    return bind(SCHEMA, inputs, outputs, {"x": field}, keep, on_error=on_error)


@pytest.mark.parametrize(
    ("field", "shape", "note"),
    [
        ("image", ("N", 28, 28), "no copy"),
        ("image", ("N", 1, 28, 28), "no copy, reshaped from [28, 28]"),
        ("image", ("N", 784), "no copy, reshaped from [28, 28]"),
        ("pixels", ("N", 1, 28, 28), "widened from uint8, copied, reshaped from [784]"),
        ("wide:cast", ("N", 784), "rounded from float64, copied"),
        ("loose", ("N", 784), "no copy, lengths checked row by row"),
        ("score", ("N",), "no copy"),
        ("score", ("N", 1), "no copy, reshaped from []"),
        ("id:cast", ("N",), "rounded from int64, copied"),
    ],
)
def test_what_fits_says_how(field: str, shape: tuple[int | str, ...], note: str) -> None:
    (bound,) = bind_one(field, *shape).fields
    assert (bound.shape, bound.note) == (shape[1:], note)
    assert bound.cast is field.endswith(":cast")


def test_an_open_dimension_is_filled_from_the_field() -> None:
    (bound,) = bind_one("pixels", "N", "height", 28).fields
    assert bound.shape == (28, 28)


@pytest.mark.parametrize(
    ("field", "dims", "shape", "axes"),
    [
        ("image", ("h", "w"), (28, 28), ()),
        ("image", ("h", 28), (28, 28), ()),
        ("photo", ("h", "w", 3), (6, 8, 3), ()),
        ("photo", (3, "h", "w"), (3, 6, 8), (2, 0, 1)),
        ("photo", ("c", "h", "w"), (6, 8, 3), ()),
    ],
)
def test_a_tensor_tells_all_open_dimensions(
    field: str, dims: tuple[int | str, ...], shape: tuple[int, ...], axes: tuple[int, ...]
) -> None:
    (bound,) = bind_one(field, "N", *dims).fields
    assert (bound.shape, bound.axes) == (shape, axes)


@dataclass(frozen=True)
class Refusal:
    field: str
    shape: tuple[int | str, ...]
    dtype: Any
    message: str


@pytest.mark.parametrize(
    "case",
    [
        Refusal("image", ("N", 100), F32, "expected 100 elements a row (float32[N, 100]), got 784"),
        Refusal("wide", ("N", 784), F32, "got float64, which does not fit exactly; "
                "do --bind x=wide:cast to round"),
        Refusal("image", ("N", 784), np.int32, "got float32, which does not fit exactly; convert"),
        Refusal("image:cast", ("N", 784), np.int32, "convert the field first"),
        Refusal("id", ("N",), np.float64, "got int64, which does not fit exactly"),
        Refusal("name", ("N", 1), F32, "got string: string is no number"),
        Refusal("loose", ("N", "length"), F32, "leaves length open"),
        Refusal("pixels", ("N", "a", "b"), F32, "leaves a, b open"),
        Refusal("photo", ("N", 3, "a", "b", "c"), F32, "leaves a, b, c open"),
        Refusal("photo", ("N", 5, "a", "b"), F32, "leaves a, b open"),
        Refusal("imag", ("N", 784), F32, "did you mean 'image'?"),
        Refusal("image", (1, 784), F32, "expected a shape that starts with the rows"),
    ],
    ids=lambda case: case.message[-30:],
)  # fmt: skip
def test_what_does_not_fit_is_refused_with_advice(case: Refusal) -> None:
    with pytest.raises(BindingError) as caught:
        bind_one(case.field, *case.shape, dtype=case.dtype)
    assert case.message in str(caught.value)
    assert "input 'x'" in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (pa.list_(pa.list_(pa.float32())), "a list inside a list"),
        (pa.list_(pa.string()), "string is no number"),
        (pa.timestamp("s"), "is no number"),
        (pa.struct([("a", pa.float32())]), "is no number"),
        (pa.fixed_shape_tensor(pa.float32(), [2, 3], permutation=[1, 0]), "permuted"),
    ],
)
def test_types_that_are_no_tensor(kind: pa.DataType, reason: str) -> None:
    found = layout(kind)
    assert isinstance(found, str) and reason in found


def test_a_model_of_strings_is_told_as_such() -> None:
    with pytest.raises(BindingError, match="input 'x': expected numbers, got a model that takes"):
        bind_one("name", "N", dtype=object)
    with pytest.raises(
        BindingError, match="output 'y': expected numbers, got strings; choose other"
    ):
        bind(SCHEMA, (value("score", "N"),), (value("y", "N", dtype=object),))


def test_layouts_nest() -> None:
    kind = pa.list_(pa.list_(pa.fixed_shape_tensor(pa.float16(), [2, 3]), 5))
    assert layout(kind) == Layout((None, 5, 2, 3), np.dtype(np.float16))


def test_inputs_bind_by_name_and_the_rest_is_kept() -> None:
    inputs = (value("image", "N", 784), value("score", "N"))
    bound = bind(SCHEMA, inputs, (value("y", "N"),))
    assert [f.field for f in bound.fields] == ["image", "score"]
    assert bound.keep == ("id", "pixels", "wide", "loose", "name", "photo")
    assert set(bound.columns) == set(SCHEMA.names)


def test_a_missing_field_is_answered_with_the_one_that_would_fit() -> None:
    with pytest.raises(BindingError, match="did you mean --bind x=image"):
        bind(SCHEMA, (value("x", "N", 784),), ())
    narrow = pa.schema([("name", pa.string()), ("image", pa.list_(pa.float32(), 4))])
    with pytest.raises(BindingError, match="name it with --bind names=name"):
        bind(narrow, (value("names", "N", 3),), ())


FLAT = pa.schema([(name, pa.float32()) for name in "abcdefgh"] + [("x", pa.string())])


def refusal(schema: pa.Schema, requested: dict[str, str] | None = None) -> str:
    with pytest.raises(BindingError) as caught:
        bind(schema, (value("x", "N", 8),), (), requested)
    return str(caught.value)


def test_a_field_that_cannot_be_bound_is_not_proposed_again() -> None:
    text = pa.schema([("x", pa.string()), ("id", pa.string())])
    assert refusal(text).endswith(
        "got string: string is no number; convert the field to numbers first, or name another "
        "with --bind"
    )
    fitting = text.append(pa.field("pixels", pa.list_(pa.float32(), 8)))
    assert refusal(fitting).endswith("; did you mean --bind x=pixels?")


@pytest.mark.parametrize("requested", [None, {"x": "a"}, {"x": "a,b,c,d,e,f,g,h"}, {"x": "x"}])
def test_several_fields_for_one_input_are_told_to_be_joined_first(
    requested: dict[str, str] | None,
) -> None:
    for schema in (FLAT, FLAT.remove(8)) if requested != {"x": "x"} else (FLAT,):
        message = refusal(schema, requested)
        assert "several cannot be joined here yet" in message
        assert message.endswith("write them into one fixed_size_list<float>[8] field first")


def test_too_few_numbers_to_join_are_not_told_to_be_joined() -> None:
    two = pa.schema([("id", pa.int64()), ("label", pa.int64())])
    assert refusal(two).endswith("got id, label; name it with --bind x=FIELD")
    text = two.append(pa.field("x", pa.string()))
    assert refusal(text).endswith("to numbers first, or name another with --bind")


def test_no_list_in_a_refusal_is_blank() -> None:
    with pytest.raises(BindingError, match=r"an input of the model \(none\)"):
        bind(SCHEMA, (), (), {"x": "id"})
    empty = pa.schema([])
    with pytest.raises(BindingError, match=r"expected a field \(none\)"):
        bind(empty, (), (), keep=["id"])
    assert "expected a field 'x', got none" in refusal(empty)


def test_an_unknown_input_is_answered_with_the_like_one() -> None:
    with pytest.raises(BindingError, match="did you mean 'inputs'"):
        bind(SCHEMA, (value("inputs", "N"),), (), {"input": "score"})


def test_keep_goes_by_the_order_of_the_schema() -> None:
    assert bind_one("image", "N", 784, keep=["name", "id"]).keep == ("id", "name")
    assert bind_one("image", "N", 784, keep=["image"]).columns == ("image",)
    assert bind_one("image", "N", 784, keep=()).keep == ()
    with pytest.raises(BindingError, match="did you mean 'name'"):
        bind_one("image", "N", 784, keep=["nam"])


def test_outputs_may_not_hide_kept_fields() -> None:
    inputs, outputs = (value("image", "N", 784),), (value("score", "N"),)
    with pytest.raises(BindingError, match=r"output 'score'.*--keep"):
        bind(SCHEMA, inputs, outputs)
    assert bind(SCHEMA, inputs, outputs, keep=["id"]).outputs[0].field == "score"


@pytest.mark.parametrize(
    "output", [value("y", "N", "k"), value("y", 3, 4), Value("y", F32, None),
               value("y", "N", dtype=object)],
)  # fmt: skip
def test_outputs_must_be_known(output: Value) -> None:
    with pytest.raises(BindingError, match="output 'y'"):
        bind(SCHEMA, (value("image", "N", 784),), (output,))


@pytest.mark.parametrize("on_error", ["skip", "null"])
def test_the_output_schema_keeps_fields_as_they_are(on_error: str) -> None:
    inputs = (value("image", "N", 784),)
    outputs = (value("a", "N"), value("b", "N", 1), value("c", "N", 2, 3, dtype=np.int64))
    bound = bind(SCHEMA, inputs, outputs, keep=["id"], on_error=on_error)
    schema = bound.output_schema(SCHEMA)
    null = on_error == "null"
    assert schema.field("id").equals(SCHEMA.field("id"), check_metadata=True)
    assert schema.field("a").equals(pa.field("a", pa.float32(), null))
    item = pa.field("item", pa.float32(), null)
    assert schema.field("b").equals(pa.field("b", pa.list_(item, 1), null))
    assert schema.field("c").type == pa.fixed_shape_tensor(pa.int64(), [2, 3])


def test_widening_is_exact() -> None:
    kinds = [np.dtype(k) for k in "?bBhHiIlLefd"]
    for source in kinds:
        info = np.iinfo(source) if source.kind in "iu" else None
        extremes = [info.min, info.max, info.max - 1] if info else [0, 1]
        for target in kinds:
            if not exactly_widens(source, target):
                continue
            array = np.array(extremes, source)
            assert [int(v) for v in array.astype(target)] == [int(v) for v in array]


def test_the_binding_prints_itself(golden: Any) -> None:
    golden("binding", str(bind_one("pixels", "N", 1, 28, 28, keep=["id", "name"])))
