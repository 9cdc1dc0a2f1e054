"""One sandboxed instance of a core module: its memory, its fuel, and the host as it sees it.

Nothing here touches Trio: it runs on a worker thread, one call at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar, TypeVarTuple, Unpack, cast

import wasmtime

from node.agents.wasm.failure import GuestFailed, backtrace, where
from node.agents.wasm.host import (
    CONSOLE_LINE_LIMIT,
    SENT_LIMIT_BYTES,
    Host,
    Moment,
    Phase,
    Said,
    Status,
    Way,
)
from node.agents.wasm.interface import INITIALIZE
from node.agents.wasm.native import NativeStore
from node.agents.wasm.policy import WasmPolicy
from node.agents.wasm.state import KEY_LIMIT_BYTES, VALUE_LIMIT_BYTES, StateChanges

if TYPE_CHECKING:
    from node.agents.wasm.engine import CoreModule

MESSAGE_LIMIT_BYTES: Final = 4 * 1024 * 1024
"""Largest message handed in, as JSON."""
CAPABILITIES_LIMIT_BYTES: Final = 4096
"""Largest answer of ``get_capabilities``."""
TABLE_LIMIT: Final = 10_000
"""Most elements of an instance's tables."""
PATTERN_LIMIT_BYTES: Final = 512
"""Longest pattern over topics."""

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_WORD: Final = 0xFFFF_FFFF


class WasmInstance:
    """An instance that has started.

    Args:
        module: What it is an instance of.
        policy: Its bounds.
        moment: The world in which it starts.
        is_stopped: Asked from time to time whether it must end.

    Raises:
        GuestFailed: it does not start within its limits.
    """

    def __init__(
        self, module: CoreModule, policy: WasmPolicy, moment: Moment, is_stopped: Callable[[], bool]
    ) -> None:
        self._module = module
        self.policy = policy
        self.is_stopped = is_stopped
        self.failed: Exception | None = None
        self.host = Host(policy, moment)
        store = wasmtime.Store(module.engine.engine)
        store.set_limits(
            memory_size=policy.memory_bytes, table_elements=TABLE_LIMIT, instances=1, tables=4, memories=1
        )
        self._native = NativeStore(store, module.engine.deadline)
        self._store = store
        self._exports: Any = None  # until it has started
        try:
            self._start()
        except GuestFailed as error:
            error.console = self.host.end()
            raise

    @property
    def said(self) -> Said:
        """What it asked for during the current call."""
        return self.host.said

    @property
    def fuel_used(self) -> int:
        """Instructions of the current call so far."""
        return self.policy.fuel - self._native.fuel()

    @property
    def memory_bytes(self) -> int | None:
        """Bytes of its memory."""
        return self._native.memory_size()

    def handle(
        self,
        message: bytes,
        moment: Moment,
        state: StateChanges | None = None,
        timers: frozenset[int] = frozenset(),
    ) -> Said:
        """Handle one message; the instance is spent when this raises.

        Raises:
            GuestFailed: a limit, a trap, a wrong pointer, or a status other than 0.
        """
        self._begin(Phase.MESSAGE, moment, state, timers)
        if len(message) > MESSAGE_LIMIT_BYTES:
            raise GuestFailed("message_size", f"the message has {len(message):,} bytes as JSON")
        pointer = self._call("caxton_alloc", len(message))
        if pointer == 0 or pointer + len(message) > self._native.memory_size():
            raise GuestFailed("pointer", f"caxton_alloc({len(message)}) returned {pointer}, which is no room")
        self._native.write(pointer, message)
        return self._finish("handle_message", pointer, len(message))

    def handle_timer(
        self,
        timer: int,
        moment: Moment,
        state: StateChanges | None = None,
        timers: frozenset[int] = frozenset(),
    ) -> Said:
        """Tell the guest that a timer is up.

        Raises:
            GuestFailed: as for :meth:`handle`.
        """
        self._begin(Phase.TIMER, moment, state, timers)
        return self._finish("handle_timer", timer & _WORD)

    def capabilities(self, moment: Moment) -> bytes:
        """What ``get_capabilities`` writes, as it is.

        Raises:
            GuestFailed: it breaks a limit.
        """
        self._begin(Phase.OTHER, moment)
        pointer = self._call("caxton_alloc", CAPABILITIES_LIMIT_BYTES)
        length = self._call("get_capabilities", pointer, CAPABILITIES_LIMIT_BYTES)
        if length > CAPABILITIES_LIMIT_BYTES:
            raise GuestFailed("capabilities", f"get_capabilities returned {_signed(length)}")
        return self._read(pointer, length, CAPABILITIES_LIMIT_BYTES)

    def shut_down(self, moment: Moment) -> None:
        """Tell the guest that it ends, if it wants to know.

        Raises:
            GuestFailed: it breaks a limit.
        """
        if "agent_shutdown" in self._functions:
            self._begin(Phase.OTHER, moment)
            self._call("agent_shutdown")

    def guest_bytes(self, pointer: int, length: int, limit: int) -> bytes:
        """What a host function was pointed at.

        Raises:
            GuestFailed: it lies outside the memory, or is longer than ``limit``.
        """
        return self._read(pointer & _WORD, length & _WORD, limit)

    def put(self, pointer: int, room: int, data: bytes) -> int:
        """Write into the guest's room if it is large enough; the length of the data in any case.

        Raises:
            GuestFailed: the room lies outside the memory.
        """
        pointer, room = pointer & _WORD, room & _WORD
        self._check_range(pointer, room)
        if len(data) <= room:
            self._native.write(pointer, data)
        return len(data)

    def _begin(
        self,
        phase: Phase,
        moment: Moment,
        state: StateChanges | None = None,
        timers: frozenset[int] = frozenset(),
    ) -> None:
        self.host.begin(phase, moment, state, timers)
        self._native.refuel(self.policy.fuel)

    def _finish(self, name: str, *words: int) -> Said:
        status = self._call(name, *words)
        if status != 0:
            raise GuestFailed("status", f"{name} returned {_signed(status)}")
        return self.host.said

    def _start(self) -> None:
        self._native.refuel(self.policy.fuel)
        self._enter("its start function", self._instantiate)
        exports: Any = self._exports
        self._functions = {name: self._native.function(exports[name]) for name in self._module.has}
        if INITIALIZE in self._functions:
            self._call(INITIALIZE)
        status = self._call("agent_init")
        if status != 0:
            raise GuestFailed("agent_init", f"agent_init returned {_signed(status)}")

    def _instantiate(self) -> None:
        instance = self._module.pre.instantiate(self._store)
        self._exports = instance.exports(self._store)
        self._native.use_memory(cast("wasmtime.Memory", self._exports["memory"]))

    def _call(self, name: str, *words: int) -> int:
        return self._enter(name, self._native.call, self._functions[name], *words)

    def _enter(self, name: str, call: Callable[[Unpack[Ts]], T], *arguments: *Ts) -> T:
        current = self._module.engine.current
        before, current.guest = current.guest, self
        try:
            return call(*arguments)
        except (wasmtime.Trap, wasmtime.WasmtimeError) as error:
            raise self._failure(name, error) from None
        finally:
            current.guest = before

    def _failure(self, name: str, error: wasmtime.Trap | wasmtime.WasmtimeError) -> GuestFailed:
        noted, self.failed = self.failed, None
        if isinstance(noted, GuestFailed):
            return noted.at(backtrace(str(error)))
        if noted is not None:
            raise noted  # a bug of the host, not of the guest
        if isinstance(error, wasmtime.Trap):
            return _trapped(name, error)
        if self.is_stopped():
            return GuestFailed("wall_clock", f"{name}: it took too long", backtrace(str(error)))
        return GuestFailed("instantiate" if self._exports is None else "trap", f"{name}: {last_line(error)}")

    def _read(self, pointer: int, length: int, limit: int) -> bytes:
        if length > limit:
            raise GuestFailed("output_size", f"{length:,} bytes at once; at most {limit:,} are taken")
        self._check_range(pointer, length)
        return self._native.read(pointer, length)

    def _check_range(self, pointer: int, length: int) -> None:
        if not self._native.has_memory:
            raise GuestFailed("pointer", "a host function was called before the instance had started")
        if pointer + length > self._native.memory_size():
            raise GuestFailed("pointer", f"{pointer} + {length} lies outside the module's memory")


# The host functions, by the names of the imports


def _send(way: Way) -> Callable[[WasmInstance, int, int], int]:
    def send(guest: WasmInstance, pointer: int, length: int) -> int:
        guest.host.charge()
        return guest.host.send(way, guest.guest_bytes(pointer, length, SENT_LIMIT_BYTES))

    return send


def _console(level: str) -> Callable[[WasmInstance, int, int], None]:
    def console(guest: WasmInstance, pointer: int, length: int) -> None:
        guest.host.charge()
        kept = min(length & _WORD, CONSOLE_LINE_LIMIT)
        guest.host.log(level, guest.guest_bytes(pointer, kept, CONSOLE_LINE_LIMIT))

    return console


def _subscribe(guest: WasmInstance, pointer: int, length: int) -> int:
    guest.host.charge()
    return guest.host.subscribe(guest.guest_bytes(pointer, length, PATTERN_LIMIT_BYTES))


def _now(guest: WasmInstance) -> int:
    guest.host.charge()
    return guest.host.now_us()


def _sleep(guest: WasmInstance, micros: int) -> None:
    guest.host.charge()
    guest.host.sleep(_signed64(micros))


def _random(guest: WasmInstance) -> int:
    guest.host.charge()
    return guest.host.random_u32()


def _store(guest: WasmInstance, key: int, key_length: int, value: int, length: int) -> int:
    guest.host.charge()
    name = guest.guest_bytes(key, key_length, KEY_LIMIT_BYTES)
    return guest.host.store(name, guest.guest_bytes(value, length, VALUE_LIMIT_BYTES))


def _load(guest: WasmInstance, key: int, key_length: int, room: int, room_length: int) -> int:
    guest.host.charge()
    found = guest.host.load(guest.guest_bytes(key, key_length, KEY_LIMIT_BYTES))
    return Status.NOT_FOUND if found is None else guest.put(room, room_length, found)


def _delete(guest: WasmInstance, key: int, key_length: int) -> int:
    guest.host.charge()
    return guest.host.delete(guest.guest_bytes(key, key_length, KEY_LIMIT_BYTES))


def _set_timer(guest: WasmInstance, timer: int, delay_us: int) -> int:
    guest.host.charge()
    return guest.host.set_timer(timer & _WORD, _signed64(delay_us))


def _cancel_timer(guest: WasmInstance, timer: int) -> int:
    guest.host.charge()
    return guest.host.cancel_timer(timer & _WORD)


HOST_FUNCTIONS: Final[dict[str, Callable[..., int | None]]] = {
    "send_message": _send(Way.SEND),
    "send_local_message": _send(Way.LOCAL),
    "broadcast_message": _send(Way.BROADCAST),
    "subscribe_messages": _subscribe,
    "console_log": _console("info"),
    "console_error": _console("error"),
    "current_timestamp": _now,
    "sleep_micros": _sleep,
    "random_u32": _random,
    "store_data": _store,
    "load_data": _load,
    "delete_data": _delete,
    "set_timer": _set_timer,
    "cancel_timer": _cancel_timer,
}

_TRAPS: Final = {
    wasmtime.TrapCode.OUT_OF_FUEL: ("fuel", "it used up its instructions"),
    wasmtime.TrapCode.INTERRUPT: ("wall_clock", "it took too long"),
    wasmtime.TrapCode.STACK_OVERFLOW: ("stack", "its stack overflowed"),
    wasmtime.TrapCode.MEMORY_OUT_OF_BOUNDS: ("memory", "it reached outside its memory"),
}


def _trapped(name: str, trap: wasmtime.Trap) -> GuestFailed:
    frames = backtrace(str(trap))
    code = trap.trap_code
    if code in _TRAPS:
        limit, reason = _TRAPS[code]
        return GuestFailed(limit, f"{name}: {reason}{where(frames)}", frames)
    what = code.name.lower() if code else last_line(trap)
    return GuestFailed("trap", f"{name}: {what}{where(frames)}", frames)


def last_line(error: BaseException) -> str:
    """The innermost cause that wasmtime tells."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300]


def _signed(word: int) -> int:
    return word - (1 << 32) if word >= 1 << 31 else word


def _signed64(word: int) -> int:
    return word - (1 << 64) if word >= 1 << 63 else word
