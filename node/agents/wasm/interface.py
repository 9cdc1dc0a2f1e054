"""The interface between a core module and its host: exports, imports, and the grants that these need.

A core module exports ``memory``, ``caxton_alloc(size) -> pointer`` (the host writes messages there),
``agent_init() -> 0`` and ``handle_message(pointer, length) -> 0``; it may export the rest of
:data:`OPTIONAL_EXPORTS`. It may import from the module ``caxton`` what :data:`IMPORTS` lists and its agent
file grants, and of WASI preview 1 what :mod:`node.agents.wasm.preview1` answers. Strings and messages are
pointer and length into its memory.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

import wasmtime

from node.agents.grants import Grant
from node.errors import InvalidWasm

MODULE_LIMIT_BYTES: Final = 4 * 1024 * 1024
"""Largest module, binary or text."""
FUNCTIONS_LIMIT: Final = 50_000
"""Most functions of a module: compiling takes time and memory for each, however small it is."""

CAXTON: Final = "caxton"
"""The module from which agents import."""
PREVIEW1: Final = "wasi_snapshot_preview1"
"""The module of WASI preview 1."""

Signature = tuple[tuple[str, ...], tuple[str, ...]]
"""Parameters and results."""

REQUIRED_EXPORTS: Final[dict[str, Signature]] = {
    "caxton_alloc": (("i32",), ("i32",)),
    "agent_init": ((), ("i32",)),
    "handle_message": (("i32", "i32"), ("i32",)),
}
INITIALIZE: Final = "_initialize"
"""What WASI's reactors export, to be called before anything else."""
OPTIONAL_EXPORTS: Final[dict[str, Signature]] = {
    INITIALIZE: ((), ()),
    "agent_shutdown": ((), ()),
    "get_capabilities": (("i32", "i32"), ("i32",)),
    "handle_timer": (("i32",), ("i32",)),
}
IMPORTS: Final[dict[str, Signature]] = {
    "send_message": (("i32", "i32"), ("i32",)),
    "send_local_message": (("i32", "i32"), ("i32",)),
    "broadcast_message": (("i32", "i32"), ("i32",)),
    "subscribe_messages": (("i32", "i32"), ("i32",)),
    "console_log": (("i32", "i32"), ()),
    "console_error": (("i32", "i32"), ()),
    "current_timestamp": ((), ("i64",)),
    "sleep_micros": (("i64",), ()),
    "random_u32": ((), ("i32",)),
    "store_data": (("i32", "i32", "i32", "i32"), ("i32",)),
    "load_data": (("i32", "i32", "i32", "i32"), ("i32",)),
    "delete_data": (("i32", "i32"), ("i32",)),
    "set_timer": (("i32", "i64"), ("i32",)),
    "cancel_timer": (("i32",), ("i32",)),
    "search_memory": (("i32", "i32", "i32"), ("i32",)),
    "store_memory": (("i32", "i32"), ("i32",)),
    "call_tool": (("i32", "i32", "i32", "i32"), ("i32",)),
    "take_answer": (("i32", "i32"), ("i32",)),
}
NEEDS: Final[dict[str, Grant]] = {
    "send_local_message": Grant.MESSAGES,
    "broadcast_message": Grant.BROADCAST,
    "current_timestamp": Grant.CLOCK,
    "sleep_micros": Grant.CLOCK,
    "random_u32": Grant.RANDOM,
    "store_data": Grant.STATE,
    "load_data": Grant.STATE,
    "delete_data": Grant.STATE,
    "set_timer": Grant.TIMERS,
    "cancel_timer": Grant.TIMERS,
    "search_memory": Grant.MEMORY,
    "store_memory": Grant.MEMORY,
    "call_tool": Grant.TOOLS,
}
"""The grant that an import needs; the others need none."""

_ONE: Final[Signature] = (("i32",), ("i32",))
_TWO: Final[Signature] = (("i32", "i32"), ("i32",))
_THREE: Final[Signature] = (("i32", "i32", "i32"), ("i32",))
PREVIEW1_IMPORTS: Final[dict[str, Signature]] = {
    "args_get": _TWO,
    "args_sizes_get": _TWO,
    "environ_get": _TWO,
    "environ_sizes_get": _TWO,
    "clock_res_get": _TWO,
    "clock_time_get": (("i32", "i64", "i32"), ("i32",)),
    "fd_close": _ONE,
    "fd_fdstat_get": _TWO,
    "fd_fdstat_set_flags": _TWO,
    "fd_filestat_get": _TWO,
    "fd_prestat_get": _TWO,
    "fd_prestat_dir_name": _THREE,
    "fd_read": (("i32",) * 4, ("i32",)),
    "fd_seek": (("i32", "i64", "i32", "i32"), ("i32",)),
    "fd_write": (("i32",) * 4, ("i32",)),
    "path_open": (("i32",) * 5 + ("i64", "i64", "i32", "i32"), ("i32",)),
    "poll_oneoff": (("i32",) * 4, ("i32",)),
    "proc_exit": (("i32",), ()),
    "random_get": _TWO,
    "sched_yield": ((), ("i32",)),
}
"""Of WASI preview 1, what the runtimes of Go, C, Zig and Rust import though they need none of it."""

_FUNCTION_SECTION: Final = 3
_NESTED_SECTIONS: Final = (1, 4)  # of a component: a core module, a component


def check_exports(module: wasmtime.Module) -> frozenset[str]:
    """Check that everything is there that an agent must have.

    Returns:
        Which of the functions of an agent it exports.

    Raises:
        InvalidWasm: names what is missing or has another signature.
    """
    found = {export.name: export.type for export in module.exports}
    wrong: list[str] = []
    if not isinstance(found.get("memory"), wasmtime.MemoryType):
        wrong.append("the memory 'memory'")
    for name, signature in {**REQUIRED_EXPORTS, **OPTIONAL_EXPORTS}.items():
        if name not in found and name in OPTIONAL_EXPORTS:
            continue
        if _signature(found.get(name)) != signature:
            wrong.append(f"the function {name}{show(signature)}")
    if wrong:
        raise invalid("it does not export " + ", ".join(wrong), missing=wrong)
    return frozenset(found) & {*REQUIRED_EXPORTS, *OPTIONAL_EXPORTS}


def check_imports(module: wasmtime.Module, grants: Collection[Grant]) -> None:
    """Check that a module imports nothing but what there is and what is granted.

    Raises:
        InvalidWasm: names every import that is unknown, of another signature, or not granted.
    """
    wrong: list[str] = []
    lacking: dict[str, None] = {}
    for needed in module.imports:
        name = needed.name or ""
        full = f"{needed.module}.{name}"
        known = {CAXTON: IMPORTS, PREVIEW1: PREVIEW1_IMPORTS}.get(needed.module, {})
        if name not in known:
            wrong.append(f"{full[:100]} (unknown)")
        elif _signature(needed.type) != known[name]:
            wrong.append(f"{full} with another signature than {show(known[name])}")
        elif needed.module == CAXTON and name in NEEDS and NEEDS[name] not in grants:
            wrong.append(f"{full} (not granted)")
            lacking[NEEDS[name].value] = None
    if wrong:
        more = f" and {len(wrong) - 20} more" if len(wrong) > 20 else ""
        fix = f"Grant it in the agent file: wasm: {{grants: [{', '.join(lacking)}]}}." if lacking else ""
        raise invalid("it imports " + ", ".join(wrong[:20]) + more, missing=wrong[:20], fix=fix)


def check_size(binary: bytes, limit_bytes: int = MODULE_LIMIT_BYTES) -> None:
    """Refuse what would cost too much to compile, before it is compiled.

    Raises:
        InvalidWasm: the module is too large, or has too many functions.
    """
    if len(binary) > limit_bytes:
        raise invalid(f"it has {len(binary):,} bytes; at most {limit_bytes:,} are allowed")
    functions = _count_functions(binary)
    if functions > FUNCTIONS_LIMIT:
        raise invalid(f"it has {functions:,} functions; at most {FUNCTIONS_LIMIT:,} are allowed")


def invalid(why: str, missing: list[str] | None = None, fix: str = "") -> InvalidWasm:
    """The error of a module that cannot be an agent."""
    return InvalidWasm(
        "the WebAssembly module cannot be an agent",
        why=why,
        fix=fix or "See 'WebAssembly interface' in docs/wasm.md, and the sample configs/agents/echo.wat.",
        details={"missing": missing} if missing else {},
    )


def show(signature: Signature) -> str:
    """A signature as the documentation writes it."""
    return f"({', '.join(signature[0])}) -> ({', '.join(signature[1])})"


def _signature(found: Any) -> Signature | None:
    if not isinstance(found, wasmtime.FuncType):
        return None
    return tuple(str(p) for p in found.params), tuple(str(r) for r in found.results)


def is_component(binary: bytes) -> bool:
    """Whether it is a component rather than a core module; both begin alike."""
    return binary[:4] == b"\0asm" and binary[6:8] == b"\x01\x00"


def without_debug(binary: bytes) -> bytes:
    """A core module without its debug information (``.debug_*``); names of functions stay.

    What is not a well-formed core module is given back as it is.
    """
    if binary[:8] != b"\0asm\x01\0\0\0":
        return binary
    kept, at = [binary[:8]], 8
    while at < len(binary):
        size, start = read_u32(binary, at + 1)
        end = start + size
        if end > len(binary):
            return binary
        length, name = read_u32(binary, start)
        is_debug = binary[at] == 0 and binary[name : name + min(length, 7)] == b".debug_"
        kept += [] if is_debug else [binary[at:end]]
        at = end
    return b"".join(kept)


def _count_functions(binary: bytes) -> int:
    """Functions of a module, or of all modules inside a component, to any depth.

    What is damaged counts for nothing here: compiling says what is wrong with it.
    """
    found = 0
    parts = [(0, len(binary))]
    while parts:
        at, end = parts.pop()
        nested = _NESTED_SECTIONS if is_component(binary[at : at + 8]) else ()
        at += 8
        while at < end:
            section = binary[at]
            size, at = read_u32(binary, at + 1)
            if section in nested:
                parts.append((at, min(at + size, end)))
            elif not nested and section == _FUNCTION_SECTION:
                found += read_u32(binary, at)[0]
            at += size
    return found


def read_u32(binary: bytes, at: int) -> tuple[int, int]:
    """A LEB128 number and where it ends."""
    value = 0
    for index, byte in enumerate(binary[at : at + 5]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, at + index + 1
    return 0, len(binary)
