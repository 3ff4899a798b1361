"""The machine code of kernels, their hot loops taken out: for whoever makes one faster.

`python -m scripts.machine_code gemm_f32_4x16 --tier avx2` prints every loop that multiplies and
adds, with what there is to count in it. A tier that this machine lacks is compiled, too, in a
process of its own, and read; nothing runs.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_AVX2 = "+sse4.2,+popcnt,+avx,+avx2,+fma,+f16c,+bmi,+bmi2,+lzcnt"
_AVX512 = f"{_AVX2},+avx512f,+avx512cd,+avx512bw,+avx512dq,+avx512vl"
TIERS = {
    "avx2": ("haswell", _AVX2),
    "avx512": ("skylake-avx512", _AVX512),
    "zen4": ("znver4", _AVX512),
}
"""Name -> what numba is told of the processor: NUMBA_CPU_NAME, NUMBA_CPU_FEATURES."""

_LABEL = re.compile(r"^([.\w$]+):")
_JUMP = re.compile(r"^j\w+\s+([.\w$]+)")
_VECTOR = re.compile(r"%([xyz]mm)\d+")
_ADDEND = {"132": 1, "213": 0, "231": 2}
"""Which operand of a multiply-add is added, in the assembler's order."""
_STACK = {True: re.compile(r"\(%r[sb]p\b"), False: re.compile(r"\(%rsp\b")}
"""By whether the function keeps a frame: without one, %rbp is a register like others."""
_FRAME = "movq %rsp, %rbp"


@dataclass(frozen=True)
class Loop:
    """A loop without branches inside: a label, and a jump back to it."""

    lines: tuple[str, ...]
    """Instructions as the assembler writes them: sources first, the destination last."""
    frame: bool = True
    """Whether the function that it stands in keeps %rbp at its frame on the stack."""

    def _having(self, pattern: str) -> list[str]:
        return [line for line in self.lines if re.match(pattern, line)]

    @cached_property
    def multiply_adds(self) -> list[str]:
        return self._having("vf(n?)m(add|sub)")

    @property
    def accumulators(self) -> int:
        """Sums that a round takes from the one before: what hides the latency of multiply-adds."""
        written, carried = set[str](), set[str]()
        for line in self._having("v"):
            operands = re.split(r", (?![^(]*\))", line.split(" ", 1)[1])
            if form := re.match(r"vfmadd(132|213|231)", line):
                carried |= {operands[_ADDEND[form[1]]]} - written
            written.add(operands[-1])
        return len(carried & written)

    @property
    def from_memory(self) -> int:
        """Multiply-adds that read an operand from memory, at no instruction of its own."""
        return sum("(" in line for line in self.multiply_adds)

    @property
    def loads(self) -> int:
        """Instructions that read vectors or weights from memory."""
        return sum("(" in line and not self._stores(line) for line in self._having("v"))

    @property
    def stores(self) -> list[str]:
        """Instructions that write vectors to memory."""
        return [line for line in self._having("v") if self._stores(line)]

    @staticmethod
    def _stores(line: str) -> bool:
        return re.search(r"\([^()]*\)( \{%k\d\})?$", line) is not None

    @property
    def on_stack(self) -> list[str]:
        """Vectors that found no register: written to the stack, or read from it."""
        stack = _STACK[self.frame]
        return [line for line in self.lines if _VECTOR.search(line) and stack.search(line)]

    @property
    def spilled(self) -> list[str]:
        """Those of them that are written: what else is on the stack never changes in the loop."""
        return [line for line in self.on_stack if self._stores(line)]

    @property
    def calls(self) -> list[str]:
        return self._having("call")

    @property
    def by_lane(self) -> list[str]:
        """Lanes taken out, put in or converted one by one."""
        return self._having(r"(vcvtt?s[sdi]|vextract|vinsert|vpextr|vpinsr|vmovd\b|vmovq\b)")

    @property
    def registers(self) -> set[str]:
        """Kinds of vector registers: xmm, ymm, zmm."""
        return {name for line in self.lines for name in _VECTOR.findall(line)}

    def __str__(self) -> str:
        counts = (
            f"{len(self.multiply_adds)} multiply-adds ({self.from_memory} from memory), "
            f"{self.loads} loads, {len(self.stores)} stores, {len(self.spilled)} spilled, "
            f"{'/'.join(sorted(self.registers))}, {len(self.lines)} instructions"
        )
        return "\n".join([counts, *(f"    {line}" for line in self.lines)])


def loops(assembly: str) -> list[Loop]:
    """The innermost loops that are one straight run of instructions and multiply and add."""
    found, label, body, frame = [], "", list[str](), False
    for raw in assembly.splitlines():
        line = " ".join(raw.split("#", 1)[0].split())
        if name := _LABEL.match(line):
            label, body = name[1], []
            frame = frame and label.startswith(".")  # any other label is a function
        elif line and not line.startswith("."):
            body.append(line)
            frame = frame or line == _FRAME
            jump = _JUMP.match(line)
            if jump and jump[1] == label and body:
                found.append(Loop(tuple(body), frame))
            if jump or line.startswith("ret"):
                label, body = "", []
    return [loop for loop in found if loop.multiply_adds]


def assembly(kernels: Sequence[str], tier: str = "") -> dict[str, str]:
    """The machine code of each kernel as text, for a tier, or for this machine."""
    if not tier:
        return {name: _compiled_here(name) for name in kernels}
    name, features = TIERS[tier]
    told = {"NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": features}
    command = [sys.executable, "-m", "scripts.machine_code", "--json", *kernels]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **told}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{tier}: expected machine code, got:\n{done.stderr}")
    found: dict[str, str] = json.loads(done.stdout)
    return found


def _compiled_here(name: str) -> str:
    from engine.kernels.building import build  # numba reads the processor when it is imported

    return str(build(name)._library.get_asm_str())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kernel", nargs="+", help="names of KERNELS, such as spmm_f32_sell4x16")
    parser.add_argument("--tier", choices=TIERS, default="", help="not this machine's")
    parser.add_argument("--json", action="store_true", help="whole code, by kernel")
    args = parser.parse_args()
    found = assembly(args.kernel, args.tier)
    if args.json:
        print(json.dumps(found))
        return
    for name, text in found.items():
        for number, loop in enumerate(loops(text), 1):
            print(f"{name}, loop {number}: {loop}\n")


if __name__ == "__main__":
    main()
