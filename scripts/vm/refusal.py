"""Runs a command that the kernel does not let set a memory policy, as containers often do.

    python -m scripts.vm.refusal COMMAND [ARGUMENT...]

A seccomp filter is a program of the kernel's, inherited by everything that the command starts:
set_mempolicy, get_mempolicy and mbind fail with EPERM in there, before anything else sees them.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys

from numa.memory import MOVE, SYSCALLS

MBIND = {"x86_64": 237, "aarch64": 235}
SET_NO_NEW_PRIVS, SET_SECCOMP, MODE_FILTER = 38, 22, 2
"""Of prctl()."""
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
"""Of the filter's machine: a word of the call's description; its first is the call's number."""
ALLOW, REFUSE = 0x7FFF0000, 0x00050000 | errno.EPERM


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


def refuse_policies() -> None:
    """From here on, for this thread and all that it starts."""
    machine = os.uname().machine
    calls = (*SYSCALLS[machine][:MOVE], MBIND[machine])
    instructions = [(LOAD, 0, 0, 0)]
    for left, call in zip(range(len(calls), 0, -1), calls, strict=True):
        instructions.append((JUMP_IF_EQUAL, left, 0, call))  # over the calls left, and ALLOW
    instructions += [(RETURN, 0, 0, ALLOW), (RETURN, 0, 0, REFUSE)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *i) for i in instructions))
    program = _Program(len(instructions), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    none = ctypes.c_ulong(0)
    # Without the first, only root may set a filter.
    if libc.prctl(SET_NO_NEW_PRIVS, ctypes.c_ulong(1), none, none, none) or libc.prctl(
        SET_SECCOMP, ctypes.c_ulong(MODE_FILTER), ctypes.byref(program), none, none
    ):
        error = ctypes.get_errno()
        raise OSError(error, f"seccomp filter: {os.strerror(error)}")


if __name__ == "__main__":
    refuse_policies()
    os.execvp(sys.argv[1], sys.argv[1:])
