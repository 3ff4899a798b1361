from __future__ import annotations

import json
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import events
from pipeline.journal import ManifestEntry
from pipeline.parts import Part, Seconds
from pipeline.shards import Lease, Shard
from pipeline.wire import from_plain, to_plain

finite = st.floats(allow_nan=False)
seconds = st.builds(Seconds, *[finite] * 4)
parts = st.builds(Part, seconds=seconds)
GIVEN: dict[str, dict[str, st.SearchStrategy[object]]] = {
    "ScorerReady": {"report": st.dictionaries(st.text(), st.text() | st.integers() | finite)},
    "PartWritten": {"part": parts},
    "PartCommitted": {"seconds": seconds},
    "JobEnded": {"seconds": finite},
}


@pytest.mark.parametrize("name", events.EVENTS)
@settings(max_examples=20, deadline=None)
@given(st.data())
def test_every_event_comes_back_from_json(name: str, data: st.DataObject) -> None:
    event = data.draw(st.builds(events.EVENTS[name], **GIVEN.get(name, {})))
    assert events.from_json(events.to_json(event)) == event


def test_the_table_of_events_is_the_union() -> None:
    assert set(events.EVENTS.values()) == set(get_args(events.Event))


@given(st.from_type(ManifestEntry))
def test_entries_come_back(entry: ManifestEntry) -> None:
    assert from_plain(ManifestEntry, json.loads(json.dumps(to_plain(entry)))) == entry


SHARD = Shard(1, "/in/a.parquet", "parquet", (0, 1), 10, 99, 0, 55, 66)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"rows": "10"}, "Lease.shard.rows: expected"),
        ({"rows": True}, "Lease.shard.rows: expected"),
        ({"row_groups": [0, "1"]}, "Lease.shard.row_groups: expected"),
        ({"extra": 1}, "unknown extra"),
        ({"path": None}, "Lease.shard.path: expected"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_place(changed: dict[str, object], reason: str) -> None:
    plain = to_plain(Lease(SHARD, 0))
    assert from_plain(Lease, plain) == Lease(SHARD, 0)
    plain["shard"] |= changed
    with pytest.raises(ValueError, match=reason):
        from_plain(Lease, plain)


def test_a_missing_field_is_refused() -> None:
    with pytest.raises(ValueError, match="attempt"):
        from_plain(Lease, {"shard": to_plain(SHARD)})


def test_an_unknown_event_is_refused() -> None:
    with pytest.raises(ValueError, match="expected one of ScorerReady"):
        events.from_json('{"event": "Explode"}')
    with pytest.raises(ValueError, match="expected one of"):
        events.from_json("[]")
