"""scripts/numa_vm: runs a command on a real kernel with several NUMA nodes.

The command sees this machine's files, the folder that it is called from and the environment.
What it writes is gone afterwards, except below --writable folders. Exit status: the command's;
125 when there is no such machine here, 124 when the command did not end in time.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from scripts.vm.machine import GuestError, run
from scripts.vm.parts import MissingParts, find, set_up
from scripts.vm.shape import Shape

TIMED_OUT, MISSING = 124, 125
NUMBERS = {
    "cores": (1, "cores of each node with processors"),
    "smt": (1, "CPUs of a core"),
    "sockets": (0, "sockets that the nodes share evenly; 0 is one a node"),
    "mebibytes": (1024, "memory of each node"),
    "seconds": (600, "that the command may take"),
}
"""Option -> default and help."""
WRITABLE = "what is written below it stays; may be given several times"


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    if not options.command and not options.set_up:
        _parser().error("expected a command, or --set-up, got neither")
    try:
        parts = set_up() if options.set_up else find()
        if not options.command:
            print(parts.folder)
            return 0
        shape = Shape.parse(
            options.nodes,
            **{name: getattr(options, name) for name in NUMBERS if name != "seconds"},
        )
        writable, seconds = options.writable, options.seconds
        return run(parts, shape, _command(options), writable=writable, seconds=seconds)
    except ValueError as error:
        _parser().error(str(error))
    except MissingParts as error:
        return _complain(str(error), MISSING)
    except GuestError as error:
        return _complain(str(error), TIMED_OUT)


def _command(options: argparse.Namespace) -> str:
    """One word is a line for the shell, several are a command and its arguments."""
    words = options.command
    line = words[0] if len(words) == 1 else shlex.join(words)
    if options.refuse_policy:
        line = shlex.join([sys.executable, "-m", "scripts.vm.refusal", "/bin/sh", "-c", line])
    return str(line)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("scripts/numa_vm", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--nodes", default="2", help="2, 4, or 2+1 with one of memory alone")
    for name, (default, text) in NUMBERS.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{text} ({default})")
    add = parser.add_argument
    add("--writable", type=Path, action="append", default=[], metavar="FOLDER", help=WRITABLE)
    add("--refuse-policy", action="store_true", help="the command may set no memory policy")
    add("--set-up", action="store_true", help="fetch what is missing of the machine, once")
    add("command", nargs=argparse.REMAINDER, help="one line, or words")
    return parser


def _complain(message: str, status: int) -> int:
    sys.stderr.write(f"numa_vm: {message}\n")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
