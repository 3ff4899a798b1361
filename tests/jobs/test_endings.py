"""What a job says for itself at its end."""

from __future__ import annotations

from jobs.endings import Limits, over_budget, shards_set_aside
from jobs.errors import INCOMPLETE


def test_rejects_over_the_budget_say_where_they_are() -> None:
    limits = Limits(30.0, 3, 1, stop_on_bad_input=False, rejects="/out/rejects")
    assert over_budget(1, limits) is None
    ending = over_budget(2, limits)
    assert ending is not None and ending.over_budget and ending.exit_code == INCOMPLETE
    assert "2 rows rejected" in ending.message and "/out/rejects" in ending.message


def test_what_is_set_aside_is_named_once_each() -> None:
    one = shards_set_aside({4: "shard 4: /in/4 rows 0:10: NaN"})
    assert one.exit_code == INCOMPLETE
    assert one.message == (
        "1 shard set aside, run again to try once more: shard 4: /in/4 rows 0:10: NaN"
    )
    many = shards_set_aside({n: f"/in/{n}: truncated" for n in (7, 5, 8, 6)})
    assert many.message.startswith("4 shards set aside")
    assert many.message.endswith(
        ": shard 5: /in/5: truncated; shard 6: /in/6: truncated; shard 7: /in/7: truncated"
    )
