"""What is computed of a dataset is kept while the same one is asked about.

Planning and pricing, machine by machine, ask the same questions several times, and each answer
looks at every row group: seconds, when there are a million.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import wraps
from typing import TypeVar

from pipeline.dataset import Dataset

T = TypeVar("T")


def remembered(compute: Callable[..., T]) -> Callable[..., T]:
    """`compute(dataset, *more)`, whose answers about the latest dataset are kept."""
    latest: list[Dataset] = []
    answers: dict[tuple[Hashable, ...], T] = {}

    @wraps(compute)
    def answer(dataset: Dataset, *more: Hashable) -> T:
        if not latest or latest[0] is not dataset:
            latest[:] = [dataset]
            answers.clear()
        if more not in answers:
            answers[more] = compute(dataset, *more)
        return answers[more]

    return answer
