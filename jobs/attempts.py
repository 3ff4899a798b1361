"""Attempts: a command's action, and the exit code of whatever comes of it."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from typing import NoReturn

import click

from engine.errors import EngineError
from jobs.errors import INFRASTRUCTURE, INTERRUPTED, USER, JobError
from jobs.streams import heedless, open_missing
from numa.errors import NumaError
from pipeline.errors import PipelineError


def leave_with(action: Callable[[], int]) -> NoReturn:
    """Ends the process with the action's exit code."""
    open_missing()
    sys.exit(_attempt(action))


def _attempt(action: Callable[[], int]) -> int:
    """The action's exit code; errors made on purpose become one line on stderr and their code."""
    try:
        return action()
    except (EngineError, NumaError, PipelineError, JobError) as error:
        _complain(str(error))
        return int(getattr(error, "exit_code", USER))
    except BrokenPipeError:  # `| head`: click ends the process quietly
        raise
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _complain(f"{where}{error.strerror or error}")
        return USER
    except KeyboardInterrupt as error:  # outside of `run`'s handlers; click would exit with 1
        return int(getattr(error, "exit_code", INTERRUPTED + signal.SIGINT))
    except MemoryError:
        _complain("out of memory; try fewer --engines or --batch-rows")
        return INFRASTRUCTURE


@heedless
def _complain(message: str) -> None:
    click.echo(f"colonnade: {message}", err=True)
