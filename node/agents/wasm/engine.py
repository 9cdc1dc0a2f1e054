"""The engine all guests of a node share: its configuration, its host functions, and its ticks.

One engine means that a module deployed a thousand times is compiled once and its code is in memory once.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Collection
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import wasmtime
from wasmtime import component

from node.agents.grants import Grant
from node.agents.wasm import interface, world
from node.agents.wasm.asking import ASKING_FUNCTIONS
from node.agents.wasm.compiling import configuration
from node.agents.wasm.component import COMPONENT_LIMIT_BYTES, ComponentInstance, ComponentModule, check_world
from node.agents.wasm.host import Moment
from node.agents.wasm.instance import HOST_FUNCTIONS, WasmInstance
from node.agents.wasm.native import Current, deadline_callback, define_host_function
from node.agents.wasm.policy import WasmPolicy
from node.agents.wasm.preview1 import PREVIEW1_FUNCTIONS
from node.agents.wasm.signatures import EXPORT_TYPES, IMPORT_TYPES

VERSION: Final = version("wasmtime")
"""Of the compiler: what another one made is not loaded."""
CHECKED: Final = hashlib.sha256(repr((world.VERSION, IMPORT_TYPES, EXPORT_TYPES)).encode()).hexdigest()
"""What :meth:`WasmEngine.check` compares with, for the same key: what is kept has passed."""


_Kind = type[wasmtime.Module] | type[component.Component]
Compiled = wasmtime.Module | component.Component
"""What the engine makes of a binary."""


class WasmEngine:
    """See the module's docstring.

    Args:
        parallel: Compile on every core; a node does not, or one deployment would take them all from its loop.
        optimised: Take the time to make good code; without it compiling takes a quarter of it.
    """

    def __init__(self, *, parallel: bool = False, optimised: bool = True) -> None:
        self.engine = wasmtime.Engine(configuration(parallel=parallel, optimised=optimised))
        self.current = Current()
        self.deadline = deadline_callback(self.current)
        self._linker = wasmtime.Linker(self.engine)
        types = {
            signature: _function_type(signature)
            for signature in (*interface.IMPORTS.values(), *interface.PREVIEW1_IMPORTS.values())
        }
        self._kept: list[Any] = [
            define_host_function(
                self._linker, (module, name), types[signatures[name]], self.current, function
            )
            for module, signatures, functions in (
                (interface.CAXTON, interface.IMPORTS, HOST_FUNCTIONS | ASKING_FUNCTIONS),
                (interface.PREVIEW1, interface.PREVIEW1_IMPORTS, PREVIEW1_FUNCTIONS),
            )
            for name, function in functions.items()
        ]

    def tick(self) -> None:
        """Have every guest that runs now asked whether it must end; safe from any thread."""
        self.engine.increment_epoch()

    @functools.cached_property
    def components(self) -> component.Linker:
        """The linker of components, made with the first of them."""
        return world.link_world(self.engine, self.current, self._kept)

    def compile(self, binary: bytes) -> Compiled:
        """Compile a module or a component.

        Raises:
            InvalidWasm: it does not compile.
        """
        kind = component.Component if interface.is_component(binary) else wasmtime.Module
        try:
            return kind(self.engine, binary)
        except wasmtime.WasmtimeError as error:
            raise interface.invalid(" ".join(str(error).split())[:400]) from None

    def check(self, compiled: Compiled) -> None:
        """Check of a component what no grant changes, once for all agents and before it is kept.

        Raises:
            InvalidWasm: it is of another world.
        """
        if isinstance(compiled, component.Component):
            check_world(self.engine, compiled)

    def deserialize(self, binary: bytes, artifact: Path) -> Compiled | None:
        """``binary`` from a file that begins with what its ``serialize`` made; None if that cannot be used.

        The file is machine code: the caller knows that this node made it. It is mapped, and may be removed.
        """
        kind = component.Component if interface.is_component(binary) else wasmtime.Module
        try:
            return kind.deserialize_file(self.engine, str(artifact))
        except wasmtime.WasmtimeError:
            return None

    def taken(self, binary: bytes, artifact: bytes) -> Compiled:
        """``binary`` from what the node's own compiler has made of it.

        Raises:
            InvalidWasm: it was made of something else.
        """
        kind = component.Component if interface.is_component(binary) else wasmtime.Module
        try:
            return kind.deserialize(self.engine, artifact)
        except wasmtime.WasmtimeError as error:
            raise interface.invalid(" ".join(str(error).split())[:400]) from None

    def link(self, module: wasmtime.Module) -> wasmtime.InstancePre:
        """Resolve a module's imports, which have been checked, once for all its instances."""
        return self._linker.instantiate_pre(module)


Guest = WasmInstance | ComponentInstance
"""A started instance of either kind."""


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
        self.has = interface.check_exports(module)
        interface.check_imports(module, grants)
        self.engine = engine
        self.module = module  # kept: the runtime finds it again as long as an agent has it
        self.pre = engine.link(module)

    def instance(self, policy: WasmPolicy, moment: Moment, is_stopped: Callable[[], bool]) -> WasmInstance:
        """A started instance; see :class:`node.agents.wasm.instance.WasmInstance`."""
        return WasmInstance(self, policy, moment, is_stopped)


GuestModule = CoreModule | ComponentModule
"""A compiled module of either kind."""


def guest_module(
    engine: WasmEngine, compiled: Compiled, grants: Collection[Grant], *, checked: bool = False
) -> GuestModule:
    """Check what was compiled and make it ready for instances.

    Args:
        engine: What compiled it.
        compiled: The module.
        grants: What its agent file grants.
        checked: Whether it has passed :meth:`WasmEngine.check`.

    Raises:
        InvalidWasm: it breaks its interface; see the two kinds.
    """
    if not checked:
        engine.check(compiled)
    if isinstance(compiled, component.Component):
        return ComponentModule(engine, compiled)
    return CoreModule(engine, compiled, grants)


def binary_of(source: bytes) -> bytes:
    """WebAssembly text as binary; binary as it is.

    Raises:
        InvalidWasm: it is neither.
    """
    limit = COMPONENT_LIMIT_BYTES if interface.is_component(source) else interface.MODULE_LIMIT_BYTES
    if len(source) > limit:
        interface.check_size(source, limit)
    if source.startswith(b"\0asm"):
        return source
    try:
        return bytes(wasmtime.wat2wasm(source.decode()))
    except UnicodeDecodeError:
        raise interface.invalid("it is neither WebAssembly nor its text format") from None
    except wasmtime.WasmtimeError as error:
        raise interface.invalid(" ".join(str(error).split())[:400]) from None


def _function_type(signature: interface.Signature) -> wasmtime.FuncType:
    types = {"i32": wasmtime.ValType.i32, "i64": wasmtime.ValType.i64}
    return wasmtime.FuncType([types[p]() for p in signature[0]], [types[r]() for r in signature[1]])
