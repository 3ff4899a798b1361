"""Ray Jobs: submissions on the head of a cluster, asked for through its dashboard.

Ray gives each submission an id that is used once. Those of one job are `colonnade-<hash>`, then
`colonnade-<hash>-2` and so on: a job that failed or was stopped is submitted anew, and goes on
where its output folder is.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from time import monotonic, sleep
from typing import Any
from urllib.parse import urlsplit

import ray.job_submission as ray_jobs

from jobs.errors import DONE, INFRASTRUCTURE, INTERRUPTED, InfrastructureError, SpecError
from jobs.executors.ray_machines import check_reachable
from jobs.shipping import Shipment, staged_code

_WANTED = ("aiohttp", "pydantic", "requests")
"""What Ray's own client needs and ray without its extra `default` does not bring."""

_ID = re.compile(r"(colonnade-[0-9a-f]+)(?:-(\d+))?")

_LOST_SECONDS = 60.0
"""How long a head may be out of reach before we stop waiting for it."""

_STARTING = "No available agent"
"""What a head says that was started some seconds ago."""

_POLL_SECONDS = 1.0

_SIGTERM = 15
"""What Ray sends to a job that is stopped."""


@dataclass(frozen=True, slots=True)
class Submission:
    """One row of Ray's table of jobs."""

    id: str
    state: str
    """Ray's word: PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED."""
    message: str
    """Ray's, where it has one."""
    driver_exit_code: int | None
    """Of our command; None while it runs, and where Ray could not start it."""
    output: str

    @property
    def name(self) -> str:
        return _parts(self.id)[0]

    @property
    def attempt(self) -> int:
        """From 1."""
        return _parts(self.id)[1]

    @property
    def ended(self) -> bool:
        return self.state in ("STOPPED", "SUCCEEDED", "FAILED")

    @property
    def succeeded(self) -> bool:
        return self.state == "SUCCEEDED"

    @property
    def exit_code(self) -> int:
        """Of `colonnade run` there, as a shell would tell it; 0 for one that has not ended."""
        if self.succeeded or not self.ended:
            return DONE
        if self.state == "STOPPED":
            return INTERRUPTED + _SIGTERM
        code = self.driver_exit_code
        if code is None:  # Ray's trouble: no worker, no package, a head that was lost
            return INFRASTRUCTURE
        return code if code > 0 else INTERRUPTED - code

    def __str__(self) -> str:
        code = f", exit code {self.exit_code}" if self.ended else ""
        return f"{self.id}: {self.state.lower()}{code}; output {self.output or 'unknown'}"


class RayJobs:
    """The submissions of one cluster."""

    def __init__(self, address: str | None) -> None:
        """`address` of the dashboard, http://HOST:8265; None: RAY_API_SERVER_ADDRESS has it.

        Raises SpecError without an address, InfrastructureError for one where no Ray answers.
        """
        self.address = _checked(address or os.environ.get("RAY_API_SERVER_ADDRESS", ""))
        if missing := [name for name in _WANTED if find_spec(name) is None]:
            raise InfrastructureError(
                f"ray: expected its extra `default` for Ray Jobs, got no {', '.join(missing)}; "
                "pip install 'colonnade[submit]'"
            )
        check_reachable(urlsplit(self.address).netloc)
        os.environ["RAY_API_SERVER_ADDRESS"] = self.address  # Ray's client obeys it above all
        with self._asking():
            self._client = ray_jobs.JobSubmissionClient(self.address)

    def all(self) -> list[Submission]:
        """Ours, in the order of their ids."""
        with self._asking():
            rows = self._client.list_jobs()
        ours = [_row(d) for d in rows if _ID.fullmatch(d.submission_id or "")]
        return sorted(ours, key=lambda s: (s.name, s.attempt))

    def latest(self, name: str) -> Submission | None:
        """The last attempt at the job of that name."""
        return next((s for s in reversed(self.all()) if s.name == name), None)

    def find(self, id: str) -> Submission:
        """Raises SpecError where there is none."""
        with self._asking():
            try:
                return _row(self._client.get_job_info(id))
            except RuntimeError as error:
                if "status code 404" not in str(error):
                    raise
        raise SpecError(
            f"{self.address}: expected the id of a submission, got {id!r}, which is not there; "
            "`colonnade status` lists those that are"
        )

    def submit(self, shipment: Shipment, attempt: int) -> Submission:
        """A new submission; where somebody else was faster with the same one, theirs."""
        id = shipment.name if attempt == 1 else f"{shipment.name}-{attempt}"
        with self._asking(), staged_code() as folder:
            until = monotonic() + _LOST_SECONDS
            while not self._took(id, shipment, folder, last=monotonic() > until):
                sleep(_POLL_SECONDS)
            return self.find(id)

    def _took(self, id: str, shipment: Shipment, folder: str, *, last: bool) -> bool:
        """Whether the head has the submission; False for one whose agents are still starting,
        unless this is the `last` attempt."""
        try:
            self._client.submit_job(
                entrypoint=shipment.entrypoint, submission_id=id,
                runtime_env={"working_dir": folder}, metadata={"output": shipment.output},
            )  # fmt: skip
        except RuntimeError as error:
            if _STARTING in str(error) and not last:
                return False
            if "already exists" not in str(error):
                raise
        return True

    def follow(self, id: str, emit: Callable[[str], None]) -> Submission:
        """Gives `emit` the whole log, then what is added to it, until the submission has ended.

        A lost connection is made anew. Raises InfrastructureError when the head stays lost.
        """
        log, lost = _Log(emit), 0.0
        while True:
            try:
                ended = self.find(id).ended
                lost = 0.0
                if (self._read(id, log) or ended) and (found := self.find(id)).ended:
                    return found
            except InfrastructureError as error:
                lost = lost or monotonic()
                if monotonic() - lost > _LOST_SECONDS:
                    raise InfrastructureError(
                        f"{error}; {id} may well go on: give the same command to watch it again"
                    ) from error
            sleep(_POLL_SECONDS)

    def stop(self, id: str) -> Submission:
        """Asks Ray to end it (SIGTERM, and SIGKILL three seconds later), and waits until it has."""
        found = self.find(id)
        if not found.ended:
            with self._asking():
                self._client.stop_job(id)
        until = monotonic() + _LOST_SECONDS
        while not (found := self.find(id)).ended:
            if monotonic() > until:
                raise InfrastructureError(
                    f"{id}: expected it to end within {_LOST_SECONDS:g} s, it is "
                    f"{found.state.lower()}; look at Ray's dashboard, {self.address}"
                )
            sleep(_POLL_SECONDS)
        return found

    def _read(self, id: str, log: _Log) -> bool:
        """The log to its end, if the connection holds so long; else what there is of it now."""
        with self._asking():
            try:
                asyncio.run(self._tail(id, log))
                return True
            except Exception:  # aiohttp's have no other base; some proxies refuse websockets
                log.rewind()
                log.add(self._client.get_job_logs(id))
                return False

    async def _tail(self, id: str, log: _Log) -> None:
        log.rewind()
        async for text in self._client.tail_job_logs(id):
            log.add(text)

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Ray's client raises RuntimeError for every answer but 200."""
        try:
            yield
        except (RuntimeError, OSError) as error:  # requests' errors are OSErrors
            raise InfrastructureError(
                f"{self.address}: expected an answer of Ray Jobs, got: {error}; is it the "
                "dashboard's address, and is RAY_AUTH_MODE as the cluster has it?"
            ) from error


class _Log:
    """A log that is read from its start again whenever the connection was lost."""

    def __init__(self, emit: Callable[[str], None]) -> None:
        self._emit = emit
        self._shown = 0
        self._read = 0

    def rewind(self) -> None:
        self._read = 0

    def add(self, text: str) -> None:
        """Emits what of `text`, which follows on what was read, was not shown before."""
        new = text[max(0, self._shown - self._read) :]
        self._read += len(text)
        if new:
            self._shown = self._read
            self._emit(new)


def _checked(address: str) -> str:
    """http://HOST:PORT."""
    full = address if "://" in address else f"http://{address}"
    parts = urlsplit(full)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SpecError(
            f"address: expected http://HOST:8265, where the cluster's dashboard is, got "
            f"{address or 'none'!r}; give --address or set RAY_API_SERVER_ADDRESS"
        )
    return full.rstrip("/")


def _parts(id: str) -> tuple[str, int]:
    """Name and attempt of an id of ours."""
    match = _ID.fullmatch(id)
    return (match[1], int(match[2] or 1)) if match else (id, 1)


def _row(details: Any) -> Submission:
    return Submission(
        details.submission_id, str(details.status.value), details.message or "",
        details.driver_exit_code, (details.metadata or {}).get("output", ""),
    )  # fmt: skip
