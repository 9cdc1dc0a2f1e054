"""Host functions of components that return bytes, without wasmtime's conversion of each byte by itself.

wasmtime's wrapper makes several objects of every byte, 1.9 us: the 2,496 bytes that a Python component
draws when its ``random`` is imported took half of its start. Here a list is one copy out of a table.

Like :mod:`node.agents.wasm.native` this reaches into wasmtime's ctypes layer, and its test notices when
that moves.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any, Final

from wasmtime import WasmtimeError, component
from wasmtime import _ffi as ffi

from node.agents.wasm.native import stopped
from node.errors import invariant

_VALUE: Final = ffi.wasmtime_component_val_t
_VALUE_BYTES: Final = ctypes.sizeof(_VALUE)


def _u8(byte: int) -> bytes:
    value = _VALUE()
    value.kind = ffi.WASMTIME_COMPONENT_U8
    value.of.u8 = byte
    return bytes(value)


_BYTES: Final = tuple(_u8(byte) for byte in range(256))
"""Each byte as a component's value."""
_NO_FINALIZER: Final = ctypes.CFUNCTYPE(None, ctypes.c_void_p)()


def define_bytes_function(
    instance: component.LinkerInstance, name: str, function: Callable[..., bytes | None], *, optional: bool
) -> Any:
    """Define ``name`` as a function of texts and 64-bit numbers that returns ``list<u8>``.

    Args:
        instance: The interface it belongs to.
        name: Of the function.
        function: Called with None and its arguments; it may raise nothing but :class:`WasmtimeError`.
        optional: Whether it returns ``option<list<u8>>``, and None is an answer.

    Returns:
        What must be kept alive as long as the linker.
    """

    def called(
        _data: Any, _context: Any, _type: Any, arguments: Any, count: int, results: Any, _results: int
    ) -> int:
        try:
            answer = function(None, *[_argument(arguments[place]) for place in range(count)])
        except WasmtimeError:  # its reason is noted with the guest
            return stopped()
        if optional:
            results[0].kind = ffi.WASMTIME_COMPONENT_OPTION
            results[0].of.option = None if answer is None else ffi.wasmtime_component_val_new(_list(answer))
        else:
            results[0] = _list(answer or b"")
        return 0

    callback = ffi.wasmtime_component_func_callback_t(called)
    plain = name.encode()
    error = ffi.wasmtime_component_linker_instance_add_func(
        instance.ptr(), ctypes.create_string_buffer(plain), len(plain), callback, None, _NO_FINALIZER
    )
    invariant(not error, f"the host function {name} is defined once")
    return callback


def _argument(value: Any) -> str | int:
    """An argument as Python has it; wasmtime frees it after the call."""
    if value.kind == ffi.WASMTIME_COMPONENT_STRING.value:
        text = value.of.string
        return ctypes.string_at(text.data, text.size).decode() if text.size else ""
    return int(value.of.u64)


def _list(data: bytes) -> Any:
    """Bytes as a list, which belongs to wasmtime from then on."""
    value = _VALUE()
    value.kind = ffi.WASMTIME_COMPONENT_LIST
    values = b"".join([_BYTES[byte] for byte in data])
    source = ctypes.cast(ctypes.c_char_p(values), ctypes.POINTER(_VALUE))
    ffi.wasmtime_component_vallist_new(ctypes.byref(value.of.list), len(data), source)
    return value
