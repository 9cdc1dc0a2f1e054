"""Types of a component's functions as text, so that they can be compared with those of the world.

wasmtime does not check a host function's type when a component is linked: a component that declares another
one would have its values taken for something else. So they are compared here, before it runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import wasmtime
from wasmtime import component
from wasmtime.component import _types as types  # the classes of plain types are not exported elsewhere

DEPTH_LIMIT: Final = 8
"""Deepest nesting of a type that is told; the world's own are flatter."""

_FAILURE: Final = "variant {unavailable(string), no-room(_), invalid(string)}"
_DONE: Final = f"result<_, {_FAILURE}>"
_TIME: Final = "record {seconds: u64, nanoseconds: u32}"

IMPORT_TYPES: Final[dict[str, dict[str, str]]] = {
    "caxton:agent/types": {},
    "caxton:agent/messages": {
        "reply": f"(performative: string, content: string) -> {_DONE}",
        "send": f"(message: string) -> {_DONE}",
        "request-capability": f"(capability: string, content: string) -> {_DONE}",
    },
    "caxton:agent/log": {"log": "(level: enum {debug, info, warning, error}, text: string)"},
    "caxton:agent/clock": {"now": "() -> u64"},
    "caxton:agent/random": {"draw": "() -> u32"},
    "caxton:agent/key-value": {
        "get": "(key: string) -> option<list<u8>>",
        "set": f"(key: string, value: list<u8>) -> {_DONE}",
        "delete": "(key: string) -> bool",
    },
    "caxton:agent/timers": {
        "set": f"(timer: u32, delay-us: u64) -> {_DONE}",
        "cancel": "(timer: u32) -> bool",
    },
    "caxton:agent/memory": {
        "search": f"(query: string, limit: u32) -> result<list<string>, {_FAILURE}>",
        "store": f"(content: string) -> result<string, {_FAILURE}>",
    },
    "caxton:agent/config": {"get": "(name: string) -> option<string>"},
    "caxton:agent/tools": {"call": f"(name: string, arguments: string) -> result<string, {_FAILURE}>"},
    "caxton:agent/metrics": {"add": "(name: string, value: f64)"},
    "wasi:clocks/wall-clock": {"now": f"() -> {_TIME}", "resolution": f"() -> {_TIME}"},
    "wasi:clocks/monotonic-clock": {
        "now": "() -> u64",
        "resolution": "() -> u64",
        "subscribe-instant": "(when: u64) -> own",
        "subscribe-duration": "(when: u64) -> own",
    },
    "wasi:random/random": {"get-random-bytes": "(len: u64) -> list<u8>", "get-random-u64": "() -> u64"},
    "wasi:random/insecure": {
        "get-insecure-random-bytes": "(len: u64) -> list<u8>",
        "get-insecure-random-u64": "() -> u64",
    },
    "wasi:random/insecure-seed": {"insecure-seed": "() -> tuple<u64, u64>"},
}
"""The functions that the host itself implements, by interface without its version."""

EXPORT_TYPES: Final[dict[str, str]] = {
    "start": "() -> result<_, string>",
    "handle-message": "(message: string) -> result<_, string>",
    "handle-timer": "(timer: u32) -> result<_, string>",
    "capabilities": "() -> list<string>",
    "stop": "()",
}
"""What a component must export."""


def wrong_imports(engine: wasmtime.Engine, kind: component.ComponentType, version: str) -> Iterator[str]:
    """What a component imports that the host implements otherwise, or not at all.

    Args:
        engine: What compiled it.
        kind: Its type.
        version: Of the world.
    """
    for full, found in sorted(kind.imports(engine).items()):
        name, _, its_version = full.partition("@")
        known = IMPORT_TYPES.get(name)
        if name.startswith("wasi:"):
            if known is None:
                continue  # wasmtime's own; it checks their types
        elif known is None or its_version != version:
            yield f"{full[:100]} (unknown)"
            continue
        instance = found.ty
        if not isinstance(instance, component.ComponentInstanceType):
            yield f"{full} (not an interface)"
            continue
        for function, item in sorted(instance.exports(engine).items()):
            if isinstance(item.ty, component.FuncType) and signature(item.ty) != known.get(function):
                yield f"{full}#{function[:100]} (of another type)"


def wrong_exports(engine: wasmtime.Engine, kind: component.ComponentType) -> Iterator[str]:
    """What a component does not export, or with another type."""
    found = {name: item.ty for name, item in kind.exports(engine).items()}
    for name, wanted in EXPORT_TYPES.items():
        function = found.get(name)
        if not isinstance(function, component.FuncType) or signature(function) != wanted:
            yield f"{name}{wanted}"


def signature(function: component.FuncType) -> str:
    """A function's type, for example ``(name: string) -> result<_, string>``."""
    parameters = ", ".join(f"{name}: {_type(kind)}" for name, kind in function.params)
    return f"({parameters})" + ("" if function.result is None else f" -> {_type(function.result)}")


def _type(kind: Any, depth: int = 0) -> str:
    if depth > DEPTH_LIMIT:
        return "..."

    def inner(found: Any) -> str:
        return "_" if found is None else _type(found, depth + 1)

    if isinstance(kind, types.ListType):
        return f"list<{inner(kind.element)}>"
    if isinstance(kind, types.OptionType):
        return f"option<{inner(kind.payload)}>"
    if isinstance(kind, types.ResultType):
        return f"result<{inner(kind.ok)}, {inner(kind.err)}>"
    if isinstance(kind, types.TupleType):
        return f"tuple<{', '.join(inner(element) for element in kind.elements)}>"
    if isinstance(kind, types.RecordType):
        return f"record {{{', '.join(f'{name}: {inner(field)}' for name, field in kind.fields)}}}"
    if isinstance(kind, types.VariantType):
        return f"variant {{{', '.join(f'{name}({inner(case)})' for name, case in kind.cases)}}}"
    if isinstance(kind, types.EnumType):
        return f"enum {{{', '.join(kind.names)}}}"
    if isinstance(kind, types.OwnType):
        return "own"
    return type(kind).__name__.lower()
