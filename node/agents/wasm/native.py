"""Calls between Python and WebAssembly without the conversions of wasmtime's own wrappers.

``wasmtime.Func`` asks for its type and boxes every value at every call: 200 us for a message in and out,
measured, where the calls below take 9 us. More than speed, wasmtime's wrapper keeps what a host function
raised in one variable of the process, so of two guests that fail at once one would be told the other's
reason. Here a host function never raises into WebAssembly: it notes its failure with its instance and traps.

This module, ``byte_lists`` and ``shapes`` reach into wasmtime's ctypes layer; the pinned major makes that
bearable, and their tests notice when it moves.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol

import wasmtime
from wasmtime import _ffi as ffi

from node.errors import invariant

_SIZE = ctypes.c_size_t
_POINTER = ctypes.c_void_p
_U64 = ctypes.c_uint64

HostCallback = ctypes.CFUNCTYPE(_SIZE, _POINTER, _POINTER, ctypes.POINTER(_U64), _SIZE)
"""Environment, caller, values (two words each), their number -> a trap, or 0."""
DeadlineCallback = ctypes.CFUNCTYPE(
    _SIZE, _POINTER, _POINTER, ctypes.POINTER(_U64), ctypes.POINTER(ctypes.c_uint8)
)
"""Context, environment, further ticks, kind of update -> an error, or 0."""

_STOPPED: Final = b"stopped by the host"


_quick = ctypes.PyDLL(ffi.dll._name, handle=ffi.dll._handle)
"""The same library, called without letting go of the interpreter.

What runs guest code lets go, or a guest would hold up the event loop. All else takes nanoseconds, and to get
the interpreter back takes up to its switch interval, 5 ms, while the loop is busy.
"""


def _prototype(name: str, result: Any, *arguments: Any, library: Any = _quick) -> Any:
    function = library[name]  # an object of our own: that of wasmtime's wrappers keeps its types
    function.restype, function.argtypes = result, list(arguments)
    return function


_call = _prototype(
    "wasmtime_func_call_unchecked", _POINTER, _POINTER, _POINTER, _POINTER, _SIZE, _POINTER, library=ffi.dll
)
_memory_data = _prototype("wasmtime_memory_data", _POINTER, _POINTER, _POINTER)
_memory_size = _prototype("wasmtime_memory_data_size", _SIZE, _POINTER, _POINTER)
_set_fuel = _prototype("wasmtime_context_set_fuel", _POINTER, _POINTER, _U64)
_get_fuel = _prototype("wasmtime_context_get_fuel", _POINTER, _POINTER, _POINTER)
_set_deadline = _prototype("wasmtime_context_set_epoch_deadline", None, _POINTER, _U64)
_new_trap = _prototype("wasmtime_trap_new", _POINTER, ctypes.c_char_p, _SIZE)
_new_error = _prototype("wasmtime_error_new", _POINTER, ctypes.c_char_p)
_define = _prototype(
    "wasmtime_linker_define_func_unchecked",
    _POINTER, _POINTER, ctypes.c_char_p, _SIZE, ctypes.c_char_p, _SIZE, _POINTER, HostCallback,
    _POINTER, _POINTER,
)  # fmt: skip
_on_deadline = _prototype(
    "wasmtime_store_epoch_deadline_callback", None, _POINTER, DeadlineCallback, _POINTER, _POINTER
)


class Guest(Protocol):
    """The instance whose code runs on the current thread."""

    failed: Exception | None

    def is_stopped(self) -> bool:
        """Whether its time is up."""
        ...


class Current(threading.local):
    """Which guest runs on this thread: host functions belong to an engine, not to an instance."""

    guest: Any = None


def define_host_function(
    linker: wasmtime.Linker,
    name: tuple[str, str],
    kind: wasmtime.FuncType,
    current: Current,
    function: Callable[..., int | None],
) -> Any:
    """Define ``name``, of a module, as ``function(guest, *words)``; what that raises ends the call.

    Returns:
        What must be kept alive as long as the linker.
    """
    count = len(kind.params)
    places = tuple(range(0, 2 * count, 2))

    def called(_environment: Any, _caller: Any, values: Any, _count: int) -> int:
        guest = current.guest
        try:
            answer = function(guest, *[values[place] for place in places])
        except Exception as error:  # kept, and raised by the call: C code cannot carry it
            guest.failed = error
            return int(_new_trap(_STOPPED, len(_STOPPED)))
        if answer is not None:
            values[0] = answer & 0xFFFF_FFFF_FFFF_FFFF
        return 0

    callback = HostCallback(called)
    place, plain = (part.encode() for part in name)
    error = _define(
        ctypes.cast(linker.ptr(), _POINTER), place, len(place), plain, len(plain),
        ctypes.cast(kind.ptr(), _POINTER), callback, None, None,
    )  # fmt: skip
    invariant(not error, f"the host function {name[1]} is defined once")
    return callback


def stopped() -> int:
    """An error that ends the guest's call; it belongs to wasmtime when it is returned."""
    return int(_new_error(_STOPPED + b"\0"))


def deadline_callback(current: Current) -> Any:
    """What the engine calls when a tick passes during a call: the guest goes on, or ends.

    Several guests share an engine's ticks, so a tick is a question, not a sentence.
    """

    def called(_context: Any, _environment: Any, further: Any, kind: Any) -> int:
        if current.guest.is_stopped():
            return stopped()
        further[0] = 1
        kind[0] = 0  # go on at once
        return 0

    return DeadlineCallback(called)


class Function(NamedTuple):
    """An export and where wasmtime's handle of it lies."""

    at: int
    exported: wasmtime.Func


class NativeStore:
    """A store's fuel and deadline, and the memory and functions of the one instance in it."""

    def __init__(self, store: wasmtime.Store, deadline: Any) -> None:
        self._store = store
        self._context = ctypes.cast(store._context(), _POINTER).value
        self._values = (_U64 * 4)()  # room for two words of two parameters
        self._values_at = ctypes.addressof(self._values)
        self._trap = _POINTER()
        self._trap_at = ctypes.addressof(self._trap)
        self._fuel = _U64()
        self._memory: Any = None
        self._memory_at = 0
        _on_deadline(ctypes.cast(store.ptr(), _POINTER), deadline, None, None)
        _set_deadline(self._context, 1)  # the next tick; who goes on after one is asked at the one after

    def refuel(self, fuel: int) -> None:
        """Give so many instructions."""
        _set_fuel(self._context, fuel)

    def fuel(self) -> int:
        """Instructions that are left."""
        _get_fuel(self._context, ctypes.addressof(self._fuel))
        return self._fuel.value

    def use_memory(self, memory: wasmtime.Memory) -> None:
        """Read and write this memory from now on."""
        self._memory = memory._memory
        self._memory_at = ctypes.addressof(self._memory)

    @property
    def has_memory(self) -> bool:
        """Whether there is a memory yet."""
        return self._memory is not None

    def memory_size(self) -> int:
        """Bytes of memory."""
        return int(_memory_size(self._context, self._memory_at))

    def read(self, at: int, length: int) -> bytes:
        """Bytes of memory; the caller has checked that they are inside."""
        return ctypes.string_at(_memory_data(self._context, self._memory_at) + at, length) if length else b""

    def write(self, at: int, data: bytes) -> None:
        """Change memory; the caller has checked that the bytes fit."""
        if data:
            ctypes.memmove(_memory_data(self._context, self._memory_at) + at, data, len(data))

    def function(self, exported: wasmtime.Func) -> Function:
        """An export of the instance, to be called often."""
        return Function(ctypes.addressof(exported._func), exported)

    def call(self, function: Function, *words: int) -> int:
        """Call an export of one or two parameters at most; its result as an unsigned 32-bit word.

        Raises:
            wasmtime.Trap: the guest trapped.
            wasmtime.WasmtimeError: it was stopped.
        """
        values = self._values
        values[0] = 0
        for index, word in enumerate(words):
            values[2 * index] = word
        error = _call(self._context, function.at, self._values_at, len(words) or 1, self._trap_at)
        if error:
            raise wasmtime.WasmtimeError._from_ptr(ctypes.cast(error, ctypes.POINTER(ffi.wasmtime_error_t)))
        if self._trap.value:
            trap, self._trap.value = self._trap.value, None
            raise wasmtime.Trap._from_ptr(ctypes.cast(trap, ctypes.POINTER(ffi.wasm_trap_t)))
        return int(values[0]) & 0xFFFF_FFFF
