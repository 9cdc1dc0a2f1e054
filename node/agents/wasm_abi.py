"""The interface between a WebAssembly agent and its host, and one sandboxed instance that speaks it.

A core module exports ``memory``, ``caxton_alloc(size) -> pointer`` (the host writes the message there),
``agent_init() -> 0`` and ``handle_message(pointer, length) -> 0``; it may export ``agent_shutdown()``,
``get_capabilities(pointer, length) -> length`` (a JSON array of names) and ``handle_timer(id)``. It may
import from the module ``caxton``: ``send_message(pointer, length) -> 0``, ``console_log``, ``console_error``,
``current_timestamp() -> microseconds`` and ``random_u32()``. A message is a FIPA message as JSON, without
blanks between its tokens, and always has ``content``. What ``handle_message`` sends is JSON too:
``{"performative", "content", "receiver"?, "capability"?}``, a reply when it names neither.

``send_message`` works in ``handle_message`` only.

One call sees one timestamp and one seed, so the same module answers the same message in the same way.
Nothing here touches Trio: it runs on a worker thread.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any, Final

import wasmtime

from node.errors import InvalidWasm, invariant

MODULE_LIMIT_BYTES: Final = 4 * 1024 * 1024
"""Largest module, binary or text."""
MESSAGE_LIMIT_BYTES: Final = 4 * 1024 * 1024
"""Largest message handed in, as JSON."""
SENT_LIMIT_BYTES: Final = 1024 * 1024
"""Largest message sent by a module."""
SENT_LIMIT: Final = 16
"""Most messages sent while handling one."""
HOST_CALLS_LIMIT: Final = 1000
"""Most host calls while handling one message."""
CONSOLE_LIMIT: Final = 64
"""Most console lines kept of one message."""
CONSOLE_LINE_LIMIT: Final = 1_000
"""Longest console line kept, in bytes."""
CAPABILITIES_LIMIT_BYTES: Final = 4096
"""Largest answer of ``get_capabilities``."""

Signature = tuple[tuple[str, ...], tuple[str, ...]]

REQUIRED_EXPORTS: Final[dict[str, Signature]] = {
    "caxton_alloc": (("i32",), ("i32",)),
    "agent_init": ((), ("i32",)),
    "handle_message": (("i32", "i32"), ("i32",)),
}
OPTIONAL_EXPORTS: Final[dict[str, Signature]] = {
    "agent_shutdown": ((), ()),
    "get_capabilities": (("i32", "i32"), ("i32",)),
    "handle_timer": (("i32",), ("i32",)),
}
IMPORTS: Final[dict[str, Signature]] = {
    "send_message": (("i32", "i32"), ("i32",)),
    "console_log": (("i32", "i32"), ()),
    "console_error": (("i32", "i32"), ()),
    "current_timestamp": ((), ("i64",)),
    "random_u32": ((), ("i32",)),
}
LATER_IMPORTS: Final = (
    "subscribe_messages",
    "sleep_micros",
    "store_data",
    "load_data",
    "delete_data",
    "set_timer",
    "cancel_timer",
    "send_local_message",
    "broadcast_message",
)
"""Documented imports that this version refuses at deployment instead of pretending to have them."""


class GuestFailed(Exception):
    """The guest broke a limit, a rule of the interface, or trapped; its instance must be thrown away."""

    def __init__(self, limit: str, reason: str) -> None:
        super().__init__(reason)
        self.limit = limit
        self.reason = reason


@dataclass(frozen=True, slots=True)
class WasmLimits:
    """Bounds of one instance; ``fuel`` is in instructions, for one message."""

    fuel: int
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Moment:
    """The outside world as one call sees it: Unix time in microseconds, and a seed."""

    now_us: int
    seed: bytes


@dataclass(slots=True)
class Said:
    """What a guest said during one call."""

    sent: list[bytes] = field(default_factory=list)
    console: list[tuple[str, str]] = field(default_factory=list)
    host_calls: int = 0
    drawn: int = 0


class WasmModule:
    """A compiled and checked module, with the engine whose epoch ends its calls.

    Args:
        source: WebAssembly, binary or text.
        limits: Bounds of its instances.

    Raises:
        InvalidWasm: it does not compile, lacks an export, or asks for an import there is not.
    """

    def __init__(self, source: bytes, limits: WasmLimits) -> None:
        if len(source) > MODULE_LIMIT_BYTES:
            raise _invalid(f"it has {len(source):,} bytes; at most {MODULE_LIMIT_BYTES:,} are allowed")
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
        config.max_wasm_stack = 256 * 1024
        self.engine = wasmtime.Engine(config)
        self.limits = limits
        try:
            self.module = wasmtime.Module(self.engine, _binary(source))
        except wasmtime.WasmtimeError as error:
            raise _invalid(" ".join(str(error).split())[:400]) from None
        self.has: frozenset[str] = frozenset(export.name for export in self.module.exports)
        _check_exports(self.module)
        _check_imports(self.module)

    def interrupt(self) -> None:
        """End the call that runs now; safe from another thread."""
        self.engine.increment_epoch()


class WasmInstance:
    """One instance: its memory, its fuel, and what it said during the current call.

    Raises:
        GuestFailed: it does not start within its limits.
    """

    def __init__(self, module: WasmModule, moment: Moment) -> None:
        self._module = module
        self._moment = moment
        self.said = Said()
        self._answering = False
        self._store = wasmtime.Store(module.engine)
        self._store.set_limits(
            memory_size=module.limits.memory_bytes, table_elements=10_000, instances=1, tables=4, memories=1
        )
        self._refuel()
        linker = wasmtime.Linker(module.engine)
        for name, signature in IMPORTS.items():
            linker.define_func(
                "caxton", name, _function_type(signature), getattr(self, f"_{name}"), access_caller=True
            )
        try:
            instance = linker.instantiate(self._store, module.module)
        except (wasmtime.WasmtimeError, wasmtime.Trap) as error:
            raise GuestFailed("instantiate", _first_line(error)) from None
        self._exports = instance.exports(self._store)
        self._memory = _memory(self._exports["memory"])
        status = self._call("agent_init")
        if status != 0:
            raise GuestFailed("agent_init", f"agent_init returned {status}")

    def handle(self, message: bytes, moment: Moment) -> Said:
        """Handle one message; the instance is spent when this raises.

        Raises:
            GuestFailed: a limit, a trap, a wrong pointer, or a status other than 0.
        """
        self._begin(moment, answering=True)
        if len(message) > MESSAGE_LIMIT_BYTES:
            raise GuestFailed("message_size", f"the message has {len(message):,} bytes as JSON")
        pointer = self._call("caxton_alloc", len(message)) & 0xFFFF_FFFF
        if pointer == 0 or pointer + len(message) > self._memory.data_len(self._store):
            raise GuestFailed("pointer", f"caxton_alloc({len(message)}) returned {pointer}, which is no room")
        self._memory.write(self._store, message, pointer)
        status = self._call("handle_message", pointer, len(message))
        if status != 0:
            raise GuestFailed("status", f"handle_message returned {status}")
        return self.said

    def capabilities(self, moment: Moment) -> bytes:
        """What ``get_capabilities`` writes, as it is.

        Raises:
            GuestFailed: it breaks a limit.
        """
        self._begin(moment)
        pointer = self._call("caxton_alloc", CAPABILITIES_LIMIT_BYTES) & 0xFFFF_FFFF
        length = self._call("get_capabilities", pointer, CAPABILITIES_LIMIT_BYTES)
        if not 0 <= length <= CAPABILITIES_LIMIT_BYTES:
            raise GuestFailed("capabilities", f"get_capabilities returned {length}")
        return self._read(self._store, pointer, length, CAPABILITIES_LIMIT_BYTES)

    def shut_down(self, moment: Moment) -> None:
        """Tell the guest that it ends, if it wants to know.

        Raises:
            GuestFailed: it breaks a limit.
        """
        if "agent_shutdown" in self._module.has:
            self._begin(moment)
            self._call("agent_shutdown")

    def _begin(self, moment: Moment, *, answering: bool = False) -> None:
        self._moment = moment
        self._answering = answering
        self.said = Said()
        self._refuel()

    def _refuel(self) -> None:
        self._store.set_fuel(self._module.limits.fuel)
        self._store.set_epoch_deadline(1)

    def _call(self, name: str, *arguments: int) -> int:
        function: Any = self._exports[name]
        try:
            return int(function(self._store, *arguments) or 0)
        except wasmtime.Trap as trap:
            raise _trapped(name, trap) from None
        except wasmtime.WasmtimeError as error:
            raise GuestFailed("trap", f"{name}: {_first_line(error)}") from None

    def _read(self, store: Any, pointer: int, length: int, limit: int) -> bytes:
        pointer, length = pointer & 0xFFFF_FFFF, length & 0xFFFF_FFFF
        if length > limit:
            raise GuestFailed("output_size", f"{length:,} bytes at once; at most {limit:,} are taken")
        if pointer + length > self._memory.data_len(store):
            raise GuestFailed("pointer", f"{pointer} + {length} lies outside the module's memory")
        return bytes(self._memory.read(store, pointer, pointer + length))

    def _host_call(self) -> None:
        self.said.host_calls += 1
        if self.said.host_calls > HOST_CALLS_LIMIT:
            raise GuestFailed("host_calls", f"more than {HOST_CALLS_LIMIT} host calls for one message")

    def _guest_bytes(self, caller: wasmtime.Caller, pointer: int, length: int, limit: int) -> bytes:
        self._host_call()
        self._memory = _memory(caller["memory"])  # imports can be called before instantiation returns
        return self._read(caller, pointer, length, limit)

    def _send_message(self, caller: wasmtime.Caller, pointer: int, length: int) -> int:
        data = self._guest_bytes(caller, pointer, length, SENT_LIMIT_BYTES)
        if not self._answering:  # it would be lost, and the guest would not know
            raise GuestFailed("messages", "send_message is only for handle_message")
        if len(self.said.sent) >= SENT_LIMIT:
            raise GuestFailed("messages", f"more than {SENT_LIMIT} messages for one")
        self.said.sent.append(data)
        return 0

    def _console_log(self, caller: wasmtime.Caller, pointer: int, length: int) -> None:
        self._console(caller, "info", pointer, length)

    def _console_error(self, caller: wasmtime.Caller, pointer: int, length: int) -> None:
        self._console(caller, "error", pointer, length)

    def _console(self, caller: wasmtime.Caller, level: str, pointer: int, length: int) -> None:
        kept = min(length & 0xFFFF_FFFF, CONSOLE_LINE_LIMIT)
        data = self._guest_bytes(caller, pointer, kept, CONSOLE_LINE_LIMIT)
        if len(self.said.console) < CONSOLE_LIMIT:
            self.said.console.append((level, data.decode("utf-8", "replace")))

    def _current_timestamp(self, _caller: wasmtime.Caller) -> int:
        self._host_call()
        return self._moment.now_us

    def _random_u32(self, _caller: wasmtime.Caller) -> int:
        self._host_call()
        self.said.drawn += 1
        drawn = hashlib.blake2b(self.said.drawn.to_bytes(8, "big"), key=self._moment.seed, digest_size=4)
        return int.from_bytes(drawn.digest(), "big", signed=True)


def _memory(found: Any) -> wasmtime.Memory:
    invariant(
        isinstance(found, wasmtime.Memory), "the export 'memory' was checked when the module was loaded"
    )
    memory: wasmtime.Memory = found
    return memory


def _binary(source: bytes) -> bytes:
    if source.startswith(b"\0asm"):
        return source
    try:
        return bytes(wasmtime.wat2wasm(source.decode()))
    except UnicodeDecodeError:
        raise _invalid("it is neither WebAssembly nor its text format") from None


def _check_exports(module: wasmtime.Module) -> None:
    found = {export.name: export.type for export in module.exports}
    wrong: list[str] = []
    if not isinstance(found.get("memory"), wasmtime.MemoryType):
        wrong.append("the memory 'memory'")
    for name, signature in {**REQUIRED_EXPORTS, **OPTIONAL_EXPORTS}.items():
        if name not in found and name in OPTIONAL_EXPORTS:
            continue
        if _signature(found.get(name)) != signature:
            wrong.append(f"the function {name}{_show(signature)}")
    if wrong:
        raise _invalid("it does not export " + ", ".join(wrong), missing=wrong)


def _check_imports(module: wasmtime.Module) -> None:
    wrong: list[str] = []
    for needed in module.imports:
        name = f"{needed.module}.{needed.name}"
        if needed.module == "caxton" and needed.name in LATER_IMPORTS:
            wrong.append(f"{name} (documented, but not in this version)")
        elif needed.module != "caxton" or needed.name not in IMPORTS:
            wrong.append(f"{name} (unknown)")
        elif _signature(needed.type) != IMPORTS[needed.name or ""]:
            wrong.append(f"{name} with another signature than {_show(IMPORTS[needed.name or ''])}")
    if wrong:
        raise _invalid("it imports " + ", ".join(wrong), missing=wrong)


def _signature(found: Any) -> Signature | None:
    if not isinstance(found, wasmtime.FuncType):
        return None
    return tuple(str(p) for p in found.params), tuple(str(r) for r in found.results)


def _function_type(signature: Signature) -> wasmtime.FuncType:
    types = {"i32": wasmtime.ValType.i32, "i64": wasmtime.ValType.i64}
    return wasmtime.FuncType([types[p]() for p in signature[0]], [types[r]() for r in signature[1]])


def _show(signature: Signature) -> str:
    return f"({', '.join(signature[0])}) -> ({', '.join(signature[1])})"


_TRAPS: Final = {
    wasmtime.TrapCode.OUT_OF_FUEL: ("fuel", "it used up its instructions"),
    wasmtime.TrapCode.INTERRUPT: ("wall_clock", "it took too long"),
    wasmtime.TrapCode.STACK_OVERFLOW: ("stack", "its stack overflowed"),
    wasmtime.TrapCode.MEMORY_OUT_OF_BOUNDS: ("memory", "it reached outside its memory"),
}


def _trapped(name: str, trap: wasmtime.Trap) -> GuestFailed:
    code = trap.trap_code
    if code in _TRAPS:
        limit, reason = _TRAPS[code]
        return GuestFailed(limit, f"{name}: {reason}")
    return GuestFailed("trap", f"{name}: {code.name.lower() if code else _first_line(trap)}")


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300]


def _invalid(why: str, missing: list[str] | None = None) -> InvalidWasm:
    return InvalidWasm(
        "the WebAssembly module cannot be an agent",
        why=why,
        fix="See 'WebAssembly interface' in docs/agents.md, and the sample configs/agents/echo.wat.",
        details={"missing": missing} if missing else {},
    )
