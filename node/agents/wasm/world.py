"""The world ``caxton:agent@1.0.0`` (``wit/agent.wit``) as a component's host functions.

Components are linked against all of it, since their toolchains import whole worlds; what is not granted ends
the call that asks for it. Of WASI preview 2 a component gets an empty one: no files, environment, arguments,
standard streams or network. WASI's clocks and randomness are the host's own, so they follow the grants and
the deterministic mode: not granted they stand still, since language runtimes ask for them at their start.
Waiting for a clock is refused, as it would hold a worker where no instruction is counted.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

import msgspec
import wasmtime
from wasmtime import component

from node.agents.grants import Grant
from node.agents.wasm.byte_lists import define_bytes_function
from node.agents.wasm.failure import GuestFailed, NotDone
from node.agents.wasm.host import SENT_LIMIT_BYTES, Status, Way
from node.agents.wasm.native import Current
from node.agents.wasm.outside import Errands
from node.agents.wasm.shapes import define_function
from node.agents.wasm.signatures import IMPORT_TYPES
from node.agents.wasm.state import KEY_LIMIT_BYTES, VALUE_LIMIT_BYTES

VERSION: Final = "1.0.0"
"""Of the world; a component built for another is refused."""
WASI_VERSION: Final = "0.2.12"
"""The version under which wasmtime defines WASI: only under the same name is a function replaced."""
RANDOM_LIMIT_BYTES: Final = 65_536
"""Most random bytes at once."""

HostFunction = Callable[..., Any]


def _failure(tag: str, text: str | None = None) -> component.Variant:
    return component.Variant(tag, text)


def _status(status: int) -> component.Variant | None:
    if status == Status.OK:
        return None
    return _failure("no-room") if status == Status.NO_ROOM else _failure("invalid", "out of bounds")


def _send(guest: Any, message: str) -> component.Variant | None:
    data = message.encode()
    if len(data) > SENT_LIMIT_BYTES:
        raise GuestFailed(
            "output_size", f"a message of {len(data):,} bytes; {SENT_LIMIT_BYTES:,} are allowed"
        )
    return _status(guest.host.send(Way.SEND, data))


def _compose(guest: Any, content: str, **fields: str) -> component.Variant | None:
    if len(content.encode()) > SENT_LIMIT_BYTES:
        raise GuestFailed("output_size", f"content of more than {SENT_LIMIT_BYTES:,} bytes")
    try:
        value = msgspec.json.decode(content)
    except (msgspec.DecodeError, RecursionError):
        return _failure("invalid", "the content is not JSON")
    return _send(guest, msgspec.json.encode({**fields, "content": value}).decode())


def _reply(guest: Any, performative: str, content: str) -> component.Variant | None:
    return _compose(guest, content, performative=performative)


def _request(guest: Any, capability: str, content: str) -> component.Variant | None:
    return _compose(guest, content, performative="request", capability=capability)


def _log(guest: Any, level: str, text: str) -> None:
    guest.host.log(level, text.encode())


def _set(guest: Any, key: str, value: bytes) -> component.Variant | None:
    name = key.encode()
    if len(name) > KEY_LIMIT_BYTES or len(value) > VALUE_LIMIT_BYTES:
        return _failure("invalid", "the key or the value is too long")
    return _status(guest.host.store(name, bytes(value)))


def _set_timer(guest: Any, timer: int, delay_us: int) -> component.Variant | None:
    return _status(guest.host.set_timer(timer, delay_us))


def _search(errands: Errands, query: str, limit: int) -> list[str]:
    return errands.search(query, limit)


def _store(errands: Errands, content: str) -> str:
    return errands.store(content)


def _call(errands: Errands, name: str, arguments: str) -> str:
    return errands.call(name, arguments)


def _asked(ask: Callable[..., str | list[str]]) -> HostFunction:
    def function(guest: Any, *arguments: Any) -> str | list[str] | component.Variant:
        try:
            return ask(guest.host.outside(), *arguments)
        except NotDone as error:
            return _failure(error.kind, None if error.kind == "no-room" else error.reason)

    return function


def _parameter(guest: Any, name: str) -> str | None:
    found = guest.policy.parameters
    return json.dumps(found[name]) if name in found else None


_Table = dict[str, tuple[Grant | None, dict[str, HostFunction]]]

INTERFACES: Final[_Table] = {
    "types": (None, {}),
    "messages": (None, {"reply": _reply, "send": _send, "request-capability": _request}),
    "log": (None, {"log": _log}),
    "clock": (Grant.CLOCK, {"now": lambda guest: guest.host.now_us()}),
    "random": (Grant.RANDOM, {"draw": lambda guest: guest.host.random_u32() & 0xFFFF_FFFF}),
    "key-value": (
        Grant.STATE,
        {
            "get": lambda guest, key: guest.host.load(key.encode()),
            "set": _set,
            "delete": lambda guest, key: guest.host.delete(key.encode()) == Status.OK,
        },
    ),
    "timers": (
        Grant.TIMERS,
        {
            "set": _set_timer,
            "cancel": lambda guest, timer: guest.host.cancel_timer(timer) == Status.OK,
        },
    ),
    "memory": (Grant.MEMORY, {"search": _asked(_search), "store": _asked(_store)}),
    "config": (None, {"get": _parameter}),
    "tools": (Grant.TOOLS, {"call": _asked(_call)}),
    "metrics": (None, {"add": lambda guest, name, value: guest.host.count(name, value)}),
}
"""Interfaces of the world, the grant that each needs, and its functions."""


def _wall_clock(guest: Any) -> Any:
    now_us = guest.host.now_us() if Grant.CLOCK in guest.policy.grants else 0
    found: Any = component.Record()
    found.seconds, found.nanoseconds = now_us // 1_000_000, now_us % 1_000_000 * 1000
    return found


def _wall_resolution(_guest: Any) -> Any:
    found: Any = component.Record()
    found.seconds, found.nanoseconds = 0, 1000
    return found


def _monotonic(guest: Any) -> int:
    return int(guest.host.now_us()) * 1000 if Grant.CLOCK in guest.policy.grants else 0


def _no_waiting(_guest: Any, _until: int) -> None:
    raise GuestFailed("grants", "it waited for a WASI clock; a guest cannot wait while it is called")


def _random_bytes(guest: Any, length: int) -> bytes:
    if length > RANDOM_LIMIT_BYTES:
        raise GuestFailed("output_size", f"{length:,} random bytes at once; {RANDOM_LIMIT_BYTES:,} are given")
    return bytes(guest.host.random_bytes(length)) if Grant.RANDOM in guest.policy.grants else bytes(length)


def _random_u64(guest: Any) -> int:
    return int.from_bytes(_random_bytes(guest, 8), "big")


WASI: Final[dict[str, dict[str, HostFunction]]] = {
    "clocks/wall-clock": {"now": _wall_clock, "resolution": _wall_resolution},
    "clocks/monotonic-clock": {
        "now": _monotonic,
        "resolution": lambda guest: 1000,
        "subscribe-instant": _no_waiting,
        "subscribe-duration": _no_waiting,
    },
    "random/random": {"get-random-bytes": _random_bytes, "get-random-u64": _random_u64},
    "random/insecure": {
        "get-insecure-random-bytes": _random_bytes,
        "get-insecure-random-u64": _random_u64,
    },
    "random/insecure-seed": {"insecure-seed": lambda guest: (_random_u64(guest), _random_u64(guest))},
}
"""What replaces WASI's own: all of it that is not the same for everybody."""


def link_world(engine: wasmtime.Engine, current: Current, kept: list[Any]) -> component.Linker:
    """A linker with the world and an empty WASI, for every component of an engine.

    Args:
        engine: The engine.
        current: Whose code runs.
        kept: Takes what must be kept alive as long as the linker.
    """
    linker = component.Linker(engine)
    linker.add_wasip2()
    linker.allow_shadowing = True
    with linker.root() as root:
        for name, functions in WASI.items():
            with root.add_instance(f"wasi:{name}@{WASI_VERSION}") as instance:
                types = IMPORT_TYPES[f"wasi:{name}"]
                for function, host in functions.items():
                    _define(instance, function, types[function], _guarded(host, current, None), current, kept)
        for name, (grant, functions) in INTERFACES.items():
            with root.add_instance(f"caxton:agent/{name}@{VERSION}") as instance:
                types = IMPORT_TYPES[f"caxton:agent/{name}"]
                for function, host in functions.items():
                    needs = Grant.MESSAGES if function in ("send", "request-capability") else grant
                    _define(
                        instance, function, types[function], _guarded(host, current, needs), current, kept
                    )
    return linker


def _define(  # noqa: PLR0917 - one call each for the two kinds of interfaces
    instance: component.LinkerInstance,
    name: str,
    kind: str,
    function: HostFunction,
    current: Current,
    kept: list[Any],
) -> None:
    result = kind.rpartition(" -> ")[2]
    if result in ("list<u8>", "option<list<u8>>"):
        kept.append(define_bytes_function(instance, name, function, optional=result.startswith("option")))
    elif result == "own":
        instance.add_func(name, function)
    else:
        kept.append(define_function(instance, name, function, current))


def _check_grant(guest: Any, grant: Grant | None) -> None:
    if grant is not None and grant not in guest.policy.grants:
        raise GuestFailed(
            "grants", f"it asked for what its agent file does not grant (wasm.grants: [{grant}])"
        )


def _guarded(function: HostFunction, current: Current, grant: Grant | None) -> HostFunction:
    """Count the call, hold it against the grants, and keep what it raises with its guest.

    Only a ``WasmtimeError`` goes the way through WebAssembly without standing in a variable of the process.
    """

    def called(_store: Any, *arguments: Any) -> Any:
        guest = current.guest
        try:
            guest.host.charge()
            _check_grant(guest, grant)
            return function(guest, *arguments)
        except Exception as error:  # raised by the call when it has ended
            guest.failed = error
            raise wasmtime.WasmtimeError("stopped by the host") from None

    return called
