"""Signals: raised while nothing runs, noted while the loop runs, at once the second time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from small_job import ROOT

from jobs.errors import Interrupted
from jobs.interrupts import Interrupts


@pytest.fixture(autouse=True)
def terminal() -> Iterator[None]:
    """Where the tests run under nohup, a closed terminal would stop nothing."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_raised_before_the_loop(number: signal.Signals) -> None:
    with pytest.raises(Interrupted) as caught, Interrupts():
        os.kill(os.getpid(), number)
    assert caught.value.exit_code == 128 + number


def test_under_nohup_a_closed_terminal_stops_nothing() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupts():
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_not_swallowed_by_who_explains_exceptions() -> None:
    with pytest.raises(Interrupted), Interrupts():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except Exception as error:  # as a reader does that calls any trouble a damaged file
            raise ValueError("damaged file") from error


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_held_while_ray_starts(number: signal.Signals) -> None:
    setter, reached = signal.signal, []
    with pytest.raises(Interrupted) as caught, Interrupts() as interrupts:
        with interrupts.held():
            signal.signal(number, signal.SIG_DFL)  # as Ray does
            os.kill(os.getpid(), number)
            reached.append("the end of the block")
        reached.append("what comes after it")
    assert caught.value.exit_code == 128 + number and reached == ["the end of the block"]
    assert signal.signal is setter


def test_held_lets_errors_out_and_other_signals_alone() -> None:
    before = signal.getsignal(signal.SIGUSR1)
    with Interrupts() as interrupts:
        with pytest.raises(ValueError, match="no cluster"), interrupts.held():
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)
            raise ValueError("no cluster")
        assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN
        signal.signal(signal.SIGUSR1, before)
        with pytest.raises(Interrupted):
            os.kill(os.getpid(), signal.SIGTERM)


def test_noted_in_the_loop_and_handlers_restored() -> None:
    before = signal.getsignal(signal.SIGTERM)
    noted: list[int] = []
    with Interrupts() as interrupts:
        with interrupts.held():
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # as Ray does
        interrupts.notice = noted.append
        os.kill(os.getpid(), signal.SIGTERM)
    assert noted == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) is before


def test_second_signal_ends_at_once() -> None:
    code = (
        "import os, signal\n"
        "from jobs.interrupts import Interrupts\n"
        "with Interrupts() as i:\n"
        "    i.notice = lambda number: None\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    print('still here', flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    print('never here')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (130, "still here\n")
