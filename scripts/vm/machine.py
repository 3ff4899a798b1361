"""Boots the machine with a command, passes its output on, brings back its exit status."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from scripts.vm.image import write_image
from scripts.vm.parts import Parts
from scripts.vm.shape import Shape

BOOT_SECONDS = 120
"""On top of what the command may take; 7 are usual."""
KERNEL_WORDS = "console=ttyS0 quiet panic=-1 mitigations=off no_timer_check"
"""The last: at its start a kernel counts ticks, and panics ("IO-APIC + timer does not work") where
the emulator got no processor meanwhile. As a guest of KVM it leaves that out by itself."""
CONSOLE_LINES = 20
"""Of the kernel's own words, where it did not come to the command's end."""


class GuestError(Exception):
    """The machine did not come to the end of the command."""


def run(
    parts: Parts,
    shape: Shape,
    command: str,
    *,
    writable: Sequence[Path] = (),
    seconds: int = 600,
    output: int | None = None,
) -> int:
    """Runs a shell command in this folder and environment; its exit status.

    What it writes is gone afterwards, except below the folders `writable`. Its output goes to the
    file descriptor `output`, by default this process's own. GuestError when it takes longer than
    `seconds`, or when the machine cannot be started.
    """
    with tempfile.TemporaryDirectory(prefix="numa-vm-") as name:
        told = Path(name)
        (told / "command").write_text(_script(command))
        (told / "folders").write_text("".join(f"{f.resolve()}\n" for f in writable))
        (told / "seconds").write_text(f"{seconds}\n")
        write_image(parts.modules, parts.busybox, told / "image")
        words = [*parts.command(), *shape.arguments(), *_devices(told, writable)]
        words += ["-kernel", str(parts.kernel), "-initrd", str(told / "image")]
        words += ["-append", f"{KERNEL_WORDS} told={told}"]
        emulator = subprocess.Popen(
            words,
            env=os.environ | parts.environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.PIPE,
        )
        try:
            _, errors = emulator.communicate(timeout=seconds + BOOT_SECONDS)
        except BaseException:
            emulator.kill()
            emulator.wait()
            raise
        return _status(told, errors, seconds)


def _script(command: str) -> str:
    """For the guest's shell: this environment, this folder, then the command."""
    exports = [
        f"export {key}={shlex.quote(value)}"
        for key, value in os.environ.items()
        if key.isidentifier() and key not in ("PWD", "OLDPWD", "_")
    ]
    return "\n".join([*exports, f"cd {shlex.quote(str(Path.cwd()))}", command, ""])


def _devices(told: Path, writable: Sequence[Path]) -> list[str]:
    # Of Intel's, for the emulated AMD tells of no SMT siblings.
    words = ["-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max,vendor=GenuineIntel"]
    words += ["-display", "none", "-monitor", "none", "-nic", "none", "-no-reboot"]
    words += [
        "-serial",
        f"file:{told}/console",
        "-serial",
        "stdio",
        "-serial",
        f"file:{told}/status",
    ]
    shares = [("host", Path("/"), ",readonly=on")]
    shares += [(f"write{n}", folder.resolve(), "") for n, folder in enumerate(writable)]
    for tag, folder, how in shares:
        path = str(folder).replace(",", ",,")  # the emulator's way to write a comma
        share = f"local,path={path},mount_tag={tag},security_model=none,multidevs=remap{how}"
        words += ["-virtfs", share]
    return words


def _status(told: Path, errors: bytes, seconds: int) -> int:
    status = (told / "status").read_text().strip() if (told / "status").exists() else ""
    if status.isdecimal():
        return int(status)
    console = told / "console"
    lines = console.read_text(errors="replace").splitlines() if console.exists() else []
    said = "\n".join([*errors.decode(errors="replace").splitlines(), *lines[-CONSOLE_LINES:]])
    raise GuestError(
        f"emulated machine: expected the command to end within {seconds} s, got no exit status; "
        f"give it more --seconds or look at its last words:\n{said}"
    )
