"""What is sent to a cluster to run a job there: its name, its command, and our own code.

The code alone is shipped, about a megabyte. Model, tokenizer, input and output are named by their
paths, which must mean the same files on the machines of the cluster.
"""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from engine.digest import digest
from jobs.executors import own_settings
from jobs.spec import OPTIONS, JobSpec
from pipeline.errors import PipelineError
from pipeline.search import expand

PACKAGES = ("engine", "jobs", "numa", "pipeline")

HOW = frozenset({
    "executor", "address", "engines", "threads", "batch_rows", "max_errors", "stall_seconds",
    "max_restarts", "restart", "dry_run", "progress", "json", "metrics", "report",
})  # fmt: skip
"""Options that say how a job runs; all others say what it writes, and so which job it is."""

_DIGITS = 12
"""Of the digest; 48 bits tell the jobs of one cluster apart."""


@dataclass(frozen=True, slots=True)
class Shipment:
    """A job on its way to a cluster."""

    name: str
    """Of all submissions of this job: `colonnade-` and a hash of what the job writes."""
    entrypoint: str
    """For the shell of the cluster's head, whose `python` is meant."""
    output: str

    @classmethod
    def of(cls, spec: JobSpec) -> Shipment:
        """The job as the head of the cluster will run it."""
        settings = [f"{name}={value}" for name, value in own_settings().items()]
        words = ["env", *settings, "python", "-m", "jobs.cli", "run", *spec.words()]
        # exec: Ray signals the shell, and takes the shell's exit code for ours.
        return cls(submission_name(spec), f"exec {shlex.join(words)}", spec.output)


def submission_name(spec: JobSpec) -> str:
    """The same for the same job: what it writes, from the files as they are seen from here.

    A run's own fingerprint needs the compiled model and every footer, which only the cluster
    may be able to read; the run compares it there.
    """
    what = {name: getattr(spec, name) for name in OPTIONS if name not in HOW}
    return f"colonnade-{digest([what, _seen(spec)])[:_DIGITS]}"


@contextmanager
def staged_code() -> Iterator[str]:
    """A folder with a copy of our packages and nothing else: what Ray makes a package of."""
    root = Path(__file__).resolve().parents[1]
    with TemporaryDirectory(prefix="colonnade-") as folder:
        for package in PACKAGES:
            shutil.copytree(
                root / package, Path(folder, package), ignore=shutil.ignore_patterns("__pycache__")
            )
        yield folder


def _seen(spec: JobSpec) -> Mapping[str, Any]:
    """Path -> (bytes, mtime_ns) of the model and the inputs, of those that can be seen here."""
    paths = {path for path in (spec.model, spec.tokenizer) if path}
    for text in spec.input:
        with suppress(PipelineError):
            paths |= expand(text)[0]
    found: dict[str, tuple[int, int]] = {}
    for path in paths:
        with suppress(OSError):
            stat = os.stat(path)  # noqa: PTH116 - of many paths, none of which is used again
            found[path] = (stat.st_size, stat.st_mtime_ns)
    return found
