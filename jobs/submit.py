"""The commands `colonnade submit`, `status` and `stop`: a job on a cluster that is elsewhere."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobs.attempts import leave_with
from jobs.errors import DONE, USER, Interrupted, SpecError
from jobs.resolving import resolve
from jobs.run import job_options, said
from jobs.streams import heedless

if TYPE_CHECKING:
    from jobs.ray_jobs import RayJobs, Submission
    from jobs.spec import JobSpec

_THERE = {"executor": "ray", "address": "auto"}
"""On the head of the cluster the job is an ordinary run that joins it."""

_EXAMPLES = """
\b
Examples:
  colonnade submit --address http://head:8265 --config /shared/job.toml
  colonnade status --address http://head:8265
  colonnade stop --address http://head:8265 colonnade-0123456789ab

Submitting again what runs watches it; what is done is not done again; what failed
or was stopped is submitted anew and goes on where it was. Ctrl-C ends the watching,
not the job. The exit code is the job's. Only Colonnade's own code is sent: model,
input and output must have the same paths on the machines of the cluster.
"""


_address = click.option(
    "--address", metavar="URL",
    help="Dashboard of the cluster, http://HOST:8265. Default: RAY_API_SERVER_ADDRESS.",
)  # fmt: skip


@job_options(without=tuple(_THERE))
@click.command(epilog=_EXAMPLES)
@_address
@click.option("--no-wait", is_flag=True, help="Print the submission's id, and do not watch it.")
@click.option("--config", metavar="FILE", type=click.Path(path_type=Path), help="As for `run`.")
def submit(address: str | None, no_wait: bool, config: Path | None, **given: Any) -> None:
    """Run the job on a remote Ray cluster, through Ray Jobs, and show its log."""
    leave_with(
        lambda: _submit(resolve(said(given) | _THERE, config), address, watch=not no_wait)
    )  # fmt: skip


@click.command()
@_address
@click.option("--json", "as_json", is_flag=True, help="For machines.")
@click.argument("id", required=False)
def status(address: str | None, as_json: bool, id: str | None) -> None:
    """Show the submission ID, with its exit code for ours; without ID, all of them."""
    leave_with(lambda: _status(address, id, as_json))


@click.command()
@_address
@click.argument("id")
def stop(address: str | None, id: str) -> None:
    """End the submission ID in good order; submitting the job again goes on where it was."""
    leave_with(lambda: _stop(address, id))


def _submit(spec: JobSpec, address: str | None, *, watch: bool) -> int:
    from jobs.interrupts import Interrupts
    from jobs.ray_jobs import RayJobs

    with Interrupts() as interrupts:
        cluster = RayJobs(address)
        chosen: Submission | None = None
        try:
            with interrupts.held():  # what was sent is known, and can be told
                chosen, over = _chosen(spec, cluster)
            if not watch:
                print(chosen.id)
            if over or not watch:
                return chosen.exit_code
            chosen = cluster.follow(chosen.id, _show)
        except Interrupted as error:
            if chosen is not None:
                _tell_parted(chosen.id, cluster.address)
            return error.exit_code
    _tell_ended(chosen)
    return chosen.exit_code


def _chosen(spec: JobSpec, cluster: RayJobs) -> tuple[Submission, bool]:
    """The submission to watch: the one that runs, or a new one; and whether all is over."""
    from jobs.shipping import Shipment

    shipment = Shipment.of(spec)
    latest = cluster.latest(shipment.name)
    again = spec.restart or spec.dry_run
    if latest is None or (latest.ended and (again or not latest.succeeded)):
        made = cluster.submit(shipment, 1 if latest is None else latest.attempt + 1)
        _tell(f"submitted as {made.id}")
        return made, False
    if latest.ended:
        _tell(f"nothing to do: {latest.id} was done before; --restart does it anew")
        return latest, True
    if again:
        raise SpecError(
            f"{latest.id}: expected a job that does not run, it is {latest.state.lower()}; "
            f"end it first: {_stop_command(latest.id, cluster.address)}"
        )
    _tell(f"{latest.id} is {latest.state.lower()} already; this is its log")
    return latest, False


def _status(address: str | None, id: str | None, as_json: bool) -> int:
    from jobs.ray_jobs import RayJobs
    from pipeline.wire import to_plain

    cluster = RayJobs(address)
    found = [cluster.find(id)] if id else cluster.all()
    if as_json:
        shown = [to_plain(s) | {"exit_code": s.exit_code if s.ended else None} for s in found]
        print(json.dumps(shown[0] if id else shown))
    else:
        print("\n".join(map(str, found)) or "no submissions")
    return found[0].exit_code if id else DONE


def _stop(address: str | None, id: str) -> int:
    from jobs.ray_jobs import RayJobs

    print(RayJobs(address).stop(id))
    return DONE


@heedless
def _show(text: str) -> None:
    sys.stdout.write(text)


@heedless
def _tell(text: str) -> None:
    click.echo(f"colonnade: {text}", err=True)


def _tell_parted(id: str, address: str) -> None:
    _tell(
        f"{id} goes on without us; to watch it, give the same command again; to end it:\n"
        f"  {_stop_command(id, address)}"
    )


def _tell_ended(submission: Submission) -> None:
    if submission.succeeded:
        return
    code = submission.exit_code
    text = f"{submission.id}: {submission.state.lower()}, exit code {code}"
    if submission.driver_exit_code is None and submission.message:
        text += f": {submission.message}"
    if code == USER:
        text += (
            "; if it could not read a file that is there: only Colonnade's own code is sent, and "
            "model, input and output must have the same paths on the machines of the cluster"
        )
    _tell(text)


def _stop_command(id: str, address: str) -> str:
    return f"colonnade stop --address {address} {id}"
