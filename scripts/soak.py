"""Kill something of a job every few seconds, resume it until it is done, then check its history.

`python -m scripts.soak [--seconds 180] [--executor ray]` scores a made-up dataset a few rows at a
time. Scorers are killed and frozen, the driver is killed and interrupted, at random. What every
life of the driver reported is written down as JSON lines; when the time is up the job is left to
end, and the history is checked offline, with the output folder:

- every row is in the output once, with the values that one undisturbed run gives;
- every shard was committed once, and stands once in the journal;
- nothing was lent after it had been committed, in the same life or in a later one;
- every life ended with a code that is promised, and none was still there long after its last
  strike.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from scripts.models.mlp import mlp

ROOT = Path(__file__).resolve().parent.parent
WIDTH, FILES = 16, 4
ROWS = 50
"""Of a row group."""
MAY_END_WITH = frozenset({0, 3, 4, 130, 143, -signal.SIGKILL, -signal.SIGINT, -signal.SIGTERM})
"""-2 and -15: the signal came before the command had its handlers."""
LIVES = 1000
HUNG = "hung"
"""Instead of an exit code: it went on and on, and was killed."""

Event = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Job:
    """What is scored, and how it is struck."""

    folder: Path
    groups: int
    """Row groups of each file."""
    executor: str = "local"
    pause: tuple[float, float] = (1.0, 3.0)
    """Seconds between two strikes, at least and at most."""
    patience: float = 120.0
    """Seconds without a strike after which a life should have ended: many times what one takes."""

    @property
    def rows(self) -> int:
        return FILES * self.groups * ROWS

    @property
    def output(self) -> Path:
        return self.folder / "out"

    def words(self, output: Path, *more: str) -> list[str]:
        start = [sys.executable, "-m", "jobs.cli", "run", "--model", str(self.folder / "m.onnx")]
        start += ["--input", str(self.folder / "data"), "--output", str(output)]
        return [*start, "--engines", "2", "--threads", "1", "--progress", "json", *more]


def make(job: Job) -> None:
    """The model and the dataset."""
    onnx.save(mlp((WIDTH, 4 * WIDTH, WIDTH), 0.8), job.folder / "m.onnx")
    (job.folder / "data").mkdir()
    random = np.random.default_rng(1)
    for number in range(FILES):
        ids = np.arange(job.rows // FILES) + number * (job.rows // FILES)
        values = pa.array(random.standard_normal(len(ids) * WIDTH).astype(np.float32))
        table = pa.table({"id": ids, "x": pa.FixedSizeListArray.from_arrays(values, WIDTH)})
        pq.write_table(table, job.folder / "data" / f"{number}.parquet", row_group_size=ROWS)


def soak(job: Job, seconds: float, seed: int) -> list[Event]:
    """Lives of the driver, struck until the time is up, and then until one has ended that found
    parts of an earlier one, were it all of them. The history."""
    dice, until, history = random.Random(seed), time.monotonic() + seconds, list[Event]()
    for number in range(LIVES):
        there = sorted(finals(job.output))
        history.append({"event": "Life", "number": number, "finals": there})
        code, events = life(job, dice, until)
        history += [*events, {"event": "Death", "number": number, "code": code}]
        if code == HUNG or (code == 0 and there and time.monotonic() > until):
            return history
    raise SystemExit(f"soak: the job was not done after {LIVES} lives; seed {seed}")


def life(job: Job, dice: random.Random, until: float) -> tuple[int | str, list[Event]]:
    """One driver from its start to its end, struck now and then; its exit code and its events."""
    patient, hung = max(until, time.monotonic()) + job.patience, False
    more = ["--batch-rows", "2", "--stall-seconds", "5", "--executor", job.executor]
    with (
        tempfile.TemporaryFile("w+") as said,
        subprocess.Popen(
            job.words(job.output, *more), cwd=ROOT, stdout=said, stderr=subprocess.STDOUT
        ) as process,
    ):
        driver = psutil.Process(process.pid)
        while process.poll() is None:
            time.sleep(dice.uniform(*job.pause))
            if time.monotonic() < until:
                strike(driver, dice, job.executor)
            elif hung := time.monotonic() > patient:
                process.kill()
                break
        said.seek(0)
        return HUNG if hung else process.wait(), list(read_events(said.read()))


def strike(driver: psutil.Process, dice: random.Random, executor: str) -> None:
    """One misfortune: a signal for the driver, a scorer killed, or a scorer frozen."""
    with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
        victims = list(scorers(driver, executor))
        if dice.random() < 0.3:
            # A driver that is killed leaves the Ray that it started; other signals stop it, too.
            kill = [signal.SIGKILL] if executor == "local" else []
            driver.send_signal(dice.choice([*kill, signal.SIGTERM, signal.SIGINT]))
        elif victims:
            number = dice.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGSTOP])
            os.kill(dice.choice(victims).pid, number)


def scorers(driver: psutil.Process, executor: str) -> Iterator[psutil.Process]:
    for child in driver.children(recursive=executor == "ray"):
        if executor == "local" or child.cmdline()[:1] == ["ray::ScorerActor"]:
            yield child


def read_events(text: str) -> Iterator[Event]:
    """The whole JSON lines; a driver that was killed may have torn its last one."""
    for line in text.splitlines():
        with contextlib.suppress(ValueError):
            event = json.loads(line)
            if isinstance(event, dict) and "event" in event:
                yield event


def finals(output: Path) -> set[int]:
    """Shards whose part stands under its final name."""
    return {int(path.stem.removeprefix("part-")) for path in output.glob("part-*")}


def faults(history: Sequence[Event]) -> list[str]:
    """What a history breaks of the promises; nothing, if all is well."""
    found: list[str] = []
    committed: Counter[int] = Counter()
    known: set[int] = set()
    for event in history:
        match event["event"]:
            case "Life":
                known |= set(event["finals"])
                lost = known - set(event["finals"])
                found += [f"shard {index}: its part is gone again" for index in sorted(lost)]
            case "ShardLent":
                index = event["lease"]["shard"]["index"]
                if index in known:
                    found.append(f"shard {index}: lent after it was committed")
            case "PartCommitted":
                committed[event["shard"]] += 1
                known.add(event["shard"])
            case "Death" if event["code"] not in MAY_END_WITH:
                found.append(f"life {event['number']}: ended with {event['code']}")
    return found + [f"shard {i}: committed {n} times" for i, n in committed.items() if n > 1]


def check_output(job: Job, reference: Path) -> list[str]:
    """What the folder breaks of the promises: rows, values, journal, marker."""
    found: list[str] = []
    table, wanted = read(job.output), read(reference)
    if table["id"].to_pylist() != list(range(job.rows)):
        found.append(f"expected {job.rows} ids once each and in order, got {len(table)} rows")
    elif not table.equals(wanted):
        found.append("the values are not those of an undisturbed run")
    lines = (job.output / "_colonnade" / "journal.jsonl").read_text().splitlines()
    indices = Counter(json.loads(line)["shard"] for line in lines)
    found += [f"shard {i}: {n} lines in the journal" for i, n in indices.items() if n > 1]
    if set(indices) != (shards := finals(reference)):
        found.append(f"expected {len(shards)} shards in the journal, got {len(indices)}")
    if not (job.output / "_SUCCESS").exists():
        found.append("expected _SUCCESS, got none")
    return found


def broken(job: Job, history: Sequence[Event], reference: Path) -> list[str]:
    """All that a soak breaks of the promises; the folder is looked at if the job ended."""
    return faults(history) or check_output(job, reference)


def read(output: Path) -> pa.Table:
    return pa.concat_tables(
        [pq.read_table(path, partitioning=None) for path in sorted(output.glob("part-*.parquet"))]
    )


def counted(history: Sequence[Event]) -> str:
    """How much happened, for people."""
    names = Counter(event["event"] for event in history)
    wanted = ("Life", "ShardLent", "ScorerDied", "PartDiscarded", "PartCommitted")
    return ", ".join(f"{names[name]} {name}" for name in wanted)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=180.0)
    parser.add_argument("--executor", choices=("local", "ray"), default="local")
    parser.add_argument("--groups", type=int, default=100, help="row groups of each of 4 files")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="colonnade-soak-") as folder:
        job = Job(Path(folder), args.groups, args.executor)
        make(job)
        quiet = Path(folder, "quiet")
        subprocess.run(job.words(quiet), cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        history = soak(job, args.seconds, args.seed)
        found = broken(job, history, quiet)
    print(f"seed {args.seed}: {counted(history)}")
    print(
        "\n".join(found) or "every row once, every shard committed once, nothing after its commit"
    )
    raise SystemExit(bool(found))


if __name__ == "__main__":
    main()
