"""Signals: raised while nothing runs, noted while the loop runs, at once the second time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from small_job import ROOT

from jobs.errors import Interrupted
from jobs.interrupts import Interrupts


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_raised_before_the_loop(number: signal.Signals) -> None:
    with pytest.raises(Interrupted) as caught, Interrupts():
        os.kill(os.getpid(), number)
    assert caught.value.exit_code == 128 + number


def test_not_swallowed_by_who_explains_exceptions() -> None:
    with pytest.raises(Interrupted), Interrupts():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except Exception as error:  # as a reader does that calls any trouble a damaged file
            raise ValueError("damaged file") from error


def test_noted_in_the_loop_and_handlers_restored() -> None:
    before = signal.getsignal(signal.SIGTERM)
    noted: list[int] = []
    with Interrupts() as interrupts:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # as Ray does
        interrupts.arm()
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
