"""Calls between Python and components whose types are read once, and not with every call.

wasmtime's wrapper asks for a function's type whenever it is called, builds objects for it, and for each
variant in it compares its cases: half of what a message of a component in Python cost. What a host function
is given has been compared with the world before it runs, and a component's exports are those of its binary:
neither changes.

Like :mod:`node.agents.wasm.native` this reaches into wasmtime's ctypes layer, and its test notices when
that moves.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from wasmtime import Store, component
from wasmtime import _ffi as ffi
from wasmtime.component import _types as types
from wasmtime.component._enter import enter_wasm

from node.agents.wasm.native import Current, stopped
from node.errors import invariant

_VALUE: Final = ffi.wasmtime_component_val_t
_NO_FINALIZER: Final = ctypes.CFUNCTYPE(None, ctypes.c_void_p)()


@dataclass(frozen=True, slots=True)
class Shape:
    """The types of a function: of its parameters, and of its result, if there is one."""

    parameters: tuple[Any, ...]
    result: Any

    @classmethod
    def of(cls, function: component.FuncType) -> Shape:
        """Read them."""
        return cls(tuple(_read(kind) for _, kind in function.params), _read(function.result))


def call(function: component.Func, store: Store, shape: Shape, *arguments: Any) -> Any:
    """Call an export, as ``function(store, *arguments)`` does.

    Raises:
        wasmtime.WasmtimeError: the guest trapped, or was stopped.
    """
    values = (_VALUE * len(arguments))()
    result, given = _VALUE(), 0
    has_result = shape.result is not None
    try:
        for kind, argument in zip(shape.parameters, arguments, strict=True):
            kind.convert_to_c(store, argument, ctypes.pointer(values[given]))
            given += 1
        enter_wasm(
            lambda: ffi.wasmtime_component_func_call(
                ctypes.byref(function._func),
                store._context(),
                values,
                given,
                ctypes.byref(result) if has_result else None,
                int(has_result),
            )
        )
        return shape.result.convert_from_c(result) if has_result else None
    finally:
        for place in range(given):
            ffi.wasmtime_component_val_delete(ctypes.byref(values[place]))


def define_function(
    instance: component.LinkerInstance, name: str, function: Callable[..., Any], current: Current
) -> Any:
    """Define ``name`` as a host function without resources among its values.

    Args:
        instance: The interface it belongs to.
        name: Of the function.
        function: Called with None and its arguments; what it raises ends the call of the guest.
        current: Whose code runs.

    Returns:
        What must be kept alive as long as the linker.
    """
    shapes: list[Shape] = []

    def called(
        _data: Any, _context: Any, kind: Any, arguments: Any, count: int, results: Any, _results: int
    ) -> int:
        try:
            if not shapes:
                with component.FuncType._from_ptr(kind, owner=instance) as found:
                    shapes.append(Shape.of(found))
            shape = shapes[0]
            invariant(count == len(shape.parameters), f"{name} has the parameters of the world")
            values = [
                parameter.convert_from_c(arguments[place]) for place, parameter in enumerate(shape.parameters)
            ]
            answer = function(None, *values)
            if shape.result is not None:
                shape.result.convert_to_c(None, answer, results)
        except Exception as error:  # kept, and raised by the call: C code cannot carry it
            current.guest.failed = current.guest.failed or error
            return stopped()
        return 0

    callback = ffi.wasmtime_component_func_callback_t(called)
    plain = name.encode()
    error = ffi.wasmtime_component_linker_instance_add_func(
        instance.ptr(), ctypes.create_string_buffer(plain), len(plain), callback, None, _NO_FINALIZER
    )
    invariant(not error, f"the host function {name} is defined once")
    return callback


def _read(kind: Any) -> Any:
    """A type that knows its cases, if it has any: wasmtime's own asks for them with every value."""
    if isinstance(kind, types.VariantLikeType):
        cases = [(name, _read(payload)) for name, payload in kind._cases()]
        kind._cases = lambda: cases  # type: ignore[method-assign]
        tagged = kind._tagged()
        kind._tagged = lambda: tagged  # type: ignore[method-assign]
    return kind
