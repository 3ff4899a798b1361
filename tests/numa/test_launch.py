"""The launcher: real processes that say where they find themselves."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from numa import launch
from numa.memory import policy
from numa.notation import cpulist
from numa.placement import Place, places
from numa.topology import Topology

ROOT = Path(__file__).parents[2]
TOPOLOGY = Topology.discover()
CPU = min(TOPOLOGY.allowed_cpus)
NODE = next(node.id for node in TOPOLOGY.nodes if CPU in node.cpus)

WITNESS = """
import json, os, sys
from numa.affinity import thread_cpus
from numa.memory import policy
print(json.dumps({
    "argv": sys.argv[1:], "pid": os.getpid(), "policy": policy(), "environ": dict(os.environ),
    "masks": [sorted(mask) for mask in thread_cpus().values()],
}))
"""


def run(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words, capture_output=True, text=True, timeout=120, check=False, cwd=ROOT,
        env={**os.environ, **environ},
    )  # fmt: skip


def launched(*words: str) -> subprocess.CompletedProcess[str]:
    return run(sys.executable, "-m", "numa.launch", *words)


@pytest.mark.parametrize("place", places(TOPOLOGY, len(TOPOLOGY.cores)), ids=str)
def test_a_command_finds_itself_on_its_place(place: Place) -> None:
    done = run(*launch.command(place), sys.executable, "-c", WITNESS, "a b", "--", "$x")
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["argv"] == ["a b", "--", "$x"]
    assert seen["masks"] == [list(place.cpus)]
    assert seen["environ"]["COLONNADE_NUMA_CPUS"] == cpulist(place.cpus)
    assert seen["environ"]["COLONNADE_NUMA_NODE"] == str(place.node)
    pools = {name: int(seen["environ"][name]) for name in launch.POOLS}
    assert pools == {name: threads or len(place.cpus) for name, threads in launch.POOLS.items()}
    if seen["environ"]["COLONNADE_NUMA_BIND"] == "":
        assert seen["policy"] == f"bind {place.node}"
    else:  # a kernel or a container that refuses: then the reason stands there
        assert policy().startswith("unknown")


def test_blas_has_one_thread_on_any_number_of_cpus() -> None:
    """It adds in another order with two, whatever the caller's environment says."""
    names = [f"{name}_NUM_THREADS" for name in ("OMP", "OPENBLAS", "MKL", "BLIS")]
    echo = "echo " + " ".join(f"${name}" for name in names)
    cpus = cpulist(TOPOLOGY.allowed_cpus)
    words = [sys.executable, "-m", "numa.launch", cpus, str(NODE), "--", "sh", "-c", echo]
    assert run(*words, **dict.fromkeys(names, "5")).stdout.split() == ["1"] * len(names)


def test_the_process_stays_the_same() -> None:
    words = [*launch.command(Place(0, NODE, (CPU,))), sys.executable, "-c", WITNESS]
    with subprocess.Popen(words, stdout=subprocess.PIPE, cwd=ROOT) as child:
        out, _ = child.communicate(timeout=120)
    assert json.loads(out)["pid"] == child.pid


def test_as_py_executable_in_a_shell() -> None:
    """A Ray worker starts as `bash -c "exec PY_EXECUTABLE default_worker.py ARGUMENTS"`."""
    py_executable = f"{sys.executable} -m numa.launch {CPU} {NODE} -- {sys.executable}"
    done = run("bash", "-c", f"exec {py_executable} -c 'import sys; print(sys.argv[1:])' --x=1 y")
    assert done.stdout.strip() == "['--x=1', 'y']", done.stderr


def test_the_commands_exit_status_is_the_launchers() -> None:
    assert launched(str(CPU), str(NODE), "--", "sh", "-c", "exit 7").returncode == 7


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("0",),
        ("0", "0"),
        ("0", "0", "--"),
        ("0", "0", "true"),
        ("0", "x", "--", "true"),
        ("", "0", "--", "true"),
        ("0", "", "--", "true"),
        ("--help",),
    ],
    ids=" ".join,
)
def test_wrong_calls_show_the_usage(words: tuple[str, ...]) -> None:
    done = launched(*words)
    assert done.returncode == 2
    assert done.stderr.startswith("numa.launch: ")
    assert launch.USAGE in done.stderr


def test_cpus_that_cannot_be_had() -> None:
    done = launched("60000", "0", "--", "true")
    assert (done.returncode, done.stdout) == (1, "")
    assert "expected CPUs 60000" in done.stderr
    assert launched("3-1", "0", "--", "true").returncode == 2


def test_a_node_that_is_not_there_leaves_first_touch_and_says_so() -> None:
    done = launched(str(CPU), "999", "--", "sh", "-c", "echo $COLONNADE_NUMA_BIND")
    assert done.returncode == 0
    assert done.stdout.startswith("set_mempolicy to node 999: ")


def test_a_command_that_is_not_there(tmp_path: Path) -> None:
    done = launched(str(CPU), str(NODE), "--", "no-such-command")
    assert (done.returncode, done.stderr) == (
        127,
        "numa.launch: no-such-command: command not found\n",
    )
    plain = tmp_path / "plain"
    plain.write_text("")
    assert launched(str(CPU), str(NODE), "--", str(plain)).returncode == 126


def test_starts_without_anything_slow() -> None:
    """Every engine starts through it, so what it imports is paid for each time."""
    script = "import sys; before = set(sys.modules); import numa.launch; " \
             "print(*sorted(set(sys.modules) - before))"  # fmt: skip
    new = set(run(sys.executable, "-c", script).stdout.split())
    assert {"numa.launch", "numa.affinity", "numa.memory", "ctypes"} <= new
    slow = {"dataclasses", "inspect", "typing", "re", "pathlib", "json", "subprocess", "psutil"}
    assert not new & slow
