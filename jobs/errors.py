"""What can go wrong in a job. Each class carries the exit code of the command line."""

from __future__ import annotations

DONE = 0
USER = 1
USAGE = 2
INCOMPLETE = 3
"""Finished, but with rejects over the budget or with shards set aside."""
INFRASTRUCTURE = 4
INTERRUPTED = 128
"""Plus the signal's number: 129 for a closed terminal, 130 for Ctrl-C, 143 for SIGTERM; the job can
be resumed."""


class JobError(Exception):
    """Base of every error this room raises on purpose."""

    exit_code = USER


class SpecError(JobError):
    """An option that is missing, unknown, or does not fit the others: a fault of the command."""

    exit_code = USAGE


class ConfigError(SpecError):
    """The same in a TOML file."""

    exit_code = USER


class InfrastructureError(JobError):
    """Scorers, machines or disks gave up; the same command resumes once that is mended."""

    exit_code = INFRASTRUCTURE


class Interrupted(KeyboardInterrupt):
    """A signal stopped the job; what is committed stays, the same command resumes.

    No JobError, for it may come out of any line: code that explains an `Exception` as a damaged
    model or file must not swallow it.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(f"interrupted by signal {signum}")
        self.exit_code = INTERRUPTED + signum
