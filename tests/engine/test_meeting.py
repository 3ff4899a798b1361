"""How far apart two processors are: what the two threads that find out do to a line of cache."""

from __future__ import annotations

import os

import numpy as np
import pytest

from engine.kernels.meeting import _meet, round_trip_ns


def test_one_begins_and_the_other_answers_its_number() -> None:
    line = np.zeros(1, np.int64)
    _meet(line.ctypes.data, 1, 0)
    assert line[0] == 1
    _meet(line.ctypes.data, 1, 1)
    assert line[0] == 2


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two processors meet")
def test_two_processors_meet_and_the_caller_stays_where_it_was() -> None:
    before = os.sched_getaffinity(0)
    assert round_trip_ns(sorted(before)[:2]) > 1, "no light goes a foot and back in that time"
    assert os.sched_getaffinity(0) == before
