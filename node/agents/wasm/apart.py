"""Compiling in a process of its own: a module that takes too long, or too much, costs the node nothing else.

What comes back is machine code, and is trusted because the node's own child wrote it, into a pipe that nobody
else has. Small modules are compiled on a worker: what they can cost is less than a second process does.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import wasmtime

from node.agents.wasm import compiling
from node.agents.wasm.interface import invalid, is_component
from node.errors import ResourceLimitExceeded

APART_BYTES: Final = 4_096
"""Largest module that is compiled on a worker; the worst of this size take 0.25 s and 180 MB."""
SECONDS: Final = 60
"""Seconds that compiling may take."""
SECONDS_PER_MB: Final = 15
"""Further ones for each megabyte; a component in Python has 19, and takes 13 seconds in all on a server."""
MEMORY_BYTES: Final = 1024**3
"""Bytes of memory that it may take."""
MEMORY_PER_BYTE: Final = 32
"""Further ones for each byte of the module; that component takes 370 MB in all."""
_MB: Final = 1024**2
_PASSED_ON: Final = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
"""Variables that a Python may need to start."""


class Compilation:
    """One module on its way.

    Args:
        binary: It; its size has been checked.
    """

    def __init__(self, binary: bytes) -> None:
        self._binary = binary
        self._process: subprocess.Popen[bytes] | None = None
        self._is_given_up = False
        self.seconds = SECONDS + SECONDS_PER_MB * len(binary) // _MB
        self.memory_bytes = MEMORY_BYTES + MEMORY_PER_BYTE * len(binary)

    def run(self) -> bytes:
        """Compile it, blocking, and return what wasmtime's ``deserialize`` takes.

        Raises:
            InvalidWasm: it does not compile, or not within its bounds.
            ResourceLimitExceeded: no process can be started now.
        """
        command = [sys.executable, "-I", "-S", compiling.__file__, str(Path(wasmtime.__file__).parents[1])]
        command += [compiling.COMPONENT if is_component(self._binary) else "module"]
        command += [str(self.seconds), str(self.memory_bytes)]
        pipe = subprocess.PIPE
        passed_on = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        try:
            process = subprocess.Popen(  # noqa: S603 - our own interpreter and file
                command, stdin=pipe, stdout=pipe, stderr=pipe, env=passed_on, cwd="/"
            )
        except OSError as error:
            raise ResourceLimitExceeded(
                "the module cannot be compiled now",
                why=f"its compiler did not start: {error.strerror}",
                fix="Deploy it again when the machine has room.",
            ) from error
        with process:
            self._process = process
            if self._is_given_up:
                process.kill()
            try:
                artifact, said = process.communicate(self._binary, timeout=self.seconds)
            except subprocess.TimeoutExpired:
                raise invalid(f"compiling it takes more than {self.seconds} seconds") from None
            finally:
                self.give_up()
        if process.returncode == compiling.REFUSED:
            raise invalid(" ".join(said.decode(errors="replace").split())[:400])
        if process.returncode:
            raise invalid(
                f"compiling it takes more than {self.seconds} seconds of a processor or"
                f" {self.memory_bytes // _MB:,} MB of memory (its compiler ended with {process.returncode})"
            )
        return artifact

    def give_up(self) -> None:
        """End it, from any thread; nothing happens where it has ended."""
        self._is_given_up = True
        if self._process is not None:
            with contextlib.suppress(OSError):
                self._process.kill()
