"""The engine all guests of a node share: its configuration, its host functions, and its ticks.

One engine means that a module deployed a thousand times is compiled once and its code is in memory once.
"""

from __future__ import annotations

from collections.abc import Collection
from importlib.metadata import version
from typing import Any, Final

import wasmtime

from node.agents.grants import Grant
from node.agents.wasm import interface
from node.agents.wasm.instance import HOST_FUNCTIONS
from node.agents.wasm.native import Current, deadline_callback, define_host_function

VERSION: Final = version("wasmtime")
"""Of the compiler: what another one made is not loaded."""
STACK_BYTES: Final = 256 * 1024
"""Stack of a guest: a worker thread has 8 MB, of which Python and the host need the rest."""
CONFIGURATION: Final = (
    f"fuel epochs nan-canonical relaxed-simd-deterministic one-memory no-gc stack-{STACK_BYTES}"
)
"""What :func:`_configuration` sets, for the key of compiled artifacts: change both together."""


class WasmEngine:
    """See the module's docstring."""

    def __init__(self) -> None:
        self.engine = wasmtime.Engine(_configuration())
        self.current = Current()
        self.deadline = deadline_callback(self.current)
        self._linker = wasmtime.Linker(self.engine)
        self._kept: list[Any] = [
            define_host_function(
                self._linker, name, _function_type(interface.IMPORTS[name]), self.current, function
            )
            for name, function in HOST_FUNCTIONS.items()
        ]

    def tick(self) -> None:
        """Have every guest that runs now asked whether it must end; safe from any thread."""
        self.engine.increment_epoch()

    def compile(self, binary: bytes) -> wasmtime.Module:
        """Compile a module.

        Raises:
            InvalidWasm: it does not compile.
        """
        try:
            return wasmtime.Module(self.engine, binary)
        except wasmtime.WasmtimeError as error:
            raise interface.invalid(" ".join(str(error).split())[:400]) from None

    def deserialize(self, artifact: bytes) -> wasmtime.Module | None:
        """A module from what :meth:`wasmtime.Module.serialize` made; None if this engine cannot use it.

        The bytes are machine code: the caller knows that this node made them.
        """
        try:
            return wasmtime.Module.deserialize(self.engine, artifact)
        except wasmtime.WasmtimeError:
            return None

    def link(self, module: wasmtime.Module) -> wasmtime.InstancePre:
        """Resolve a module's imports, which have been checked, once for all its instances."""
        return self._linker.instantiate_pre(module)


class CoreModule:
    """A compiled, checked and linked module.

    Args:
        engine: What compiled it.
        module: The module.
        grants: What its agent file grants.

    Raises:
        InvalidWasm: it lacks an export, or imports what there is not or is not granted.
    """

    def __init__(self, engine: WasmEngine, module: wasmtime.Module, grants: Collection[Grant]) -> None:
        interface.check_exports(module)
        interface.check_imports(module, grants)
        known = {**interface.REQUIRED_EXPORTS, **interface.OPTIONAL_EXPORTS, "memory": None}
        self.engine = engine
        self.module = module  # kept: the runtime finds it again as long as an agent has it
        self.has: frozenset[str] = frozenset(e.name for e in module.exports if e.name in known)
        self.pre = engine.link(module)


def binary_of(source: bytes) -> bytes:
    """WebAssembly text as binary; binary as it is.

    Raises:
        InvalidWasm: it is neither.
    """
    if len(source) > interface.MODULE_LIMIT_BYTES:
        interface.check_size(source)
    if source.startswith(b"\0asm"):
        return source
    try:
        return bytes(wasmtime.wat2wasm(source.decode()))
    except UnicodeDecodeError:
        raise interface.invalid("it is neither WebAssembly nor its text format") from None
    except wasmtime.WasmtimeError as error:
        raise interface.invalid(" ".join(str(error).split())[:400]) from None


def _configuration() -> wasmtime.Config:
    config = wasmtime.Config()
    config.consume_fuel = True
    config.epoch_interruption = True
    config.wasm_threads = False
    config.wasm_memory64 = False
    config.wasm_multi_memory = False
    config.wasm_gc = False  # its heap would be a second memory beside the one that is bounded
    config.wasm_exceptions = False  # they live on that heap
    config.wasm_relaxed_simd_deterministic = True
    config.cranelift_nan_canonicalization = True
    config.max_wasm_stack = STACK_BYTES
    config.parallel_compilation = False  # or one deployment would take every core from the event loop
    return config


def _function_type(signature: interface.Signature) -> wasmtime.FuncType:
    types = {"i32": wasmtime.ValType.i32, "i64": wasmtime.ValType.i64}
    return wasmtime.FuncType([types[p]() for p in signature[0]], [types[r]() for r in signature[1]])
