"""Puts a command on its place before it starts: `python -m numa.launch CPUS NODES -- COMMAND...`

Pins the process to CPUS ("0-3,8"), binds its memory to NODES ("0"), and becomes the command by
exec, so process id, open files and signals stay the same. Affinity and policy outlive the exec,
therefore every page and every thread of the command, its interpreter and its libraries included,
is where it belongs. As `py_executable` of a Ray runtime environment it takes the worker's
arguments at its end: `python -m numa.launch 0-3 0 -- /path/to/python` default_worker.py ...

The command finds in its environment what became of it:
    COLONNADE_NUMA_CPUS, COLONNADE_NUMA_NODE    its place
    COLONNADE_NUMA_BIND                         "" if memory is bound, else why not

Costs one more start of the interpreter, so nothing slow is imported here: no dataclasses, no
pathlib, no typing (a test keeps it so). Ends with status 2 for a wrong call, 1 for CPUs that
cannot be had, 127 or 126 for a command that is not found or cannot be run, as a shell does.
"""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping, Sequence

from numa.affinity import pin_all_threads
from numa.errors import NumaError
from numa.memory import bind
from numa.notation import cpulist, parse_cpulist

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost a start
if TYPE_CHECKING:
    from numa.placement import Place

USAGE = "usage: python -m numa.launch CPUS NODES -- COMMAND [ARGUMENT...]"
CPUS, NODE, BIND = "COLONNADE_NUMA_CPUS", "COLONNADE_NUMA_NODE", "COLONNADE_NUMA_BIND"

POOLS = {
    "OMP_NUM_THREADS": 1,       # OpenMP; and the pool of pyarrow, which is not used
    "OPENBLAS_NUM_THREADS": 1,  # numpy
    "MKL_NUM_THREADS": 1,       # numpy, built otherwise
    "BLIS_NUM_THREADS": 1,      # numpy, built otherwise
    "NUMBA_NUM_THREADS": 0,
    "NUMEXPR_MAX_THREADS": 0,
    "RAYON_NUM_THREADS": 0,
}  # fmt: skip
"""Threads of each pool; 0 for the number of CPUs, because some libraries count the machine's and
not their own. BLAS gets one: it cuts a product by the number of its threads, and adds in another
order along another cut, but an engine's bytes must not depend on how many CPUs it got."""


def command(place: Place) -> list[str]:
    """The words to put before a command line so that it runs on a place."""
    launch = [sys.executable, "-m", "numa.launch"]
    return [*launch, cpulist(place.cpus), cpulist(place.nodes), "--"]


def settle(cpus: frozenset[int], nodes: frozenset[int], environ: MutableMapping[str, str]) -> None:
    """Pin and bind this process, and write into `environ` what the command should know."""
    pin_all_threads(cpus)
    environ[BIND] = bind(*nodes)
    environ[CPUS], environ[NODE] = cpulist(cpus), cpulist(nodes)
    environ.update({name: str(threads or len(cpus)) for name, threads in POOLS.items()})


def main(arguments: Sequence[str]) -> int:
    """Becomes the command; returns only when that fails, with the exit status."""
    match arguments:
        case [cpus, nodes, "--", program, *rest]:
            pass
        case _:
            return _complain(f"got {' '.join(arguments) or 'nothing'}; {USAGE}", 2)
    try:
        wanted, homes = parse_cpulist(cpus), parse_cpulist(nodes)
    except NumaError as error:
        return _complain(f"{error}; {USAGE}", 2)
    if not wanted or not homes:
        got = f"{cpus!r} and {nodes!r}"
        return _complain(f"expected at least one CPU and one node, got {got}; {USAGE}", 2)
    try:
        settle(wanted, homes, os.environ)
        os.execvp(program, [program, *rest])
    except NumaError as error:
        return _complain(str(error), 1)
    except FileNotFoundError:
        return _complain(f"{program}: command not found", 127)
    except OSError as error:
        return _complain(f"{program}: {error.strerror}", 126)


def _complain(message: str, status: int) -> int:
    sys.stderr.write(f"numa.launch: {message}\n")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
