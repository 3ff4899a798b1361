"""Fixtures that every room's tests share, and how the tests are dealt to pytest-xdist's workers."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

GOLDEN = Path(__file__).parent / "golden"

FIRST = (
    "tests/cluster/",
    "tests/numa/test_real_kernel.py",
    "tests/examples/test_minilm.py",
    "tests/engine/test_topologies.py",
    "tests/jobs/",
)
"""What takes longest starts first, so that no worker is left with it when the others are done."""

CLUSTER = "tests/cluster/"

# How long an example takes says how busy the machine is.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

# Ray runs its workers at the lowest priority but four: beside other tests they would hardly run.
os.environ.setdefault("RAY_worker_niceness", "0")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests with a real Ray are tried again when they fail: on a busy machine Ray itself misses its
    own limits of time."""
    for item in items:
        if item.get_closest_marker("cluster") is not None:
            item.add_marker(pytest.mark.flaky(reruns=1))
    items.sort(key=lambda item: _turn(item.nodeid))


def _turn(nodeid: str) -> int:
    return next((turn for turn, name in enumerate(FIRST) if nodeid.startswith(name)), len(FIRST))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Files go whole to a worker, and all files with a real Ray to the same one: clusters beside
    each other starve."""
    from xdist.scheduler import LoadFileScheduling

    class OneCluster(LoadFileScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return CLUSTER if nodeid.startswith(CLUSTER) else super()._split_scope(nodeid)

    return OneCluster(config, log)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite tests/golden/*.txt")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """`golden(name, text)`: the text must equal tests/golden/name.txt."""

    def check(name: str, text: str) -> None:
        path = GOLDEN / f"{name}.txt"
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(exist_ok=True)
            path.write_text(text.rstrip() + "\n")
        assert path.exists(), f"{path}: no golden text; run pytest --update-golden and read it"
        assert text.rstrip() + "\n" == path.read_text()

    return check
