"""Compiles one module, and ends; a program of its own, so that it can be ended before.

Fifteen kilobytes of WebAssembly can take a compiler seconds and gigabytes: each loop of a function has a
place for each of its variables. What compiles for ten seconds may also be a component in Python, and no quick
look tells them apart. So the node (:mod:`node.agents.wasm.apart`) starts this file by its name, in a process
with bounds on memory and time, which is first to go where memory runs out, and last to get a processor. It
takes the binary from its standard input and writes what was made of it to its standard output; no other file
and no secret of the node is given to it. It imports nothing of the node, so that it starts in 60 ms.

The engine's configuration is here as well, since that of the node has to be the same.
"""

from __future__ import annotations

import contextlib
import os
import resource
import sys
from typing import Any, Final

REFUSED: Final = 3
"""Exit status where the module does not compile; standard error says why."""
COMPONENT: Final = "component"
STACK_BYTES: Final = 512 * 1024
"""Stack of a guest: a worker thread has 8 MB, of which Python and the host need the rest."""
CONFIGURATION: Final = f"fuel epochs nan-canonical relaxed-simd-deterministic no-gc stack-{STACK_BYTES}"
"""What :func:`configuration` sets, for the key of compiled artifacts: change both together."""
NICENESS: Final = 10
"""How much sooner others get a processor."""


def configuration(*, parallel: bool = False, optimised: bool = True) -> Any:
    """How all modules are compiled and run; see :class:`node.agents.wasm.engine.WasmEngine`."""
    import wasmtime  # noqa: PLC0415 - from a place that this program is told

    config = wasmtime.Config()
    config.consume_fuel = True
    config.epoch_interruption = True
    config.wasm_threads = False
    config.wasm_memory64 = False
    config.wasm_multi_memory = True  # without it wasmtime aborts the process over components that nest
    config.wasm_gc = False  # its heap would be a second memory beside the one that is bounded
    config.wasm_exceptions = False  # they live on that heap
    config.wasm_relaxed_simd_deterministic = True
    config.cranelift_nan_canonicalization = True
    config.max_wasm_stack = STACK_BYTES
    config.parallel_compilation = parallel
    if not optimised:
        config.cranelift_opt_level = "none"
    return config


def main(place: str, kind: str, seconds: int, memory_bytes: int) -> int:
    """Compile what standard input has.

    Args:
        place: The directory that wasmtime is in.
        kind: :data:`COMPONENT`, or anything else for a core module.
        seconds: Of a processor, at most.
        memory_bytes: Of memory, at most, where the system counts it.

    Returns:
        The exit status.
    """
    with contextlib.suppress(OSError):
        os.nice(NICENESS)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:  # noqa: PTH123
        file.write("1000")
    for limit, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_DATA, memory_bytes),
    ):
        with contextlib.suppress(OSError, ValueError):  # a smaller one holds already
            resource.setrlimit(limit, (value, value))
    binary = sys.stdin.buffer.read()
    sys.path.insert(0, place)
    import wasmtime  # noqa: PLC0415 - as above
    from wasmtime import component  # noqa: PLC0415

    made = component.Component if kind == COMPONENT else wasmtime.Module
    try:
        artifact = made(wasmtime.Engine(configuration()), binary).serialize()
    except wasmtime.WasmtimeError as error:
        sys.stderr.write(str(error))
        return REFUSED
    sys.stdout.buffer.write(artifact)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
