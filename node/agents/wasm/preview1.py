"""WASI preview 1 for core modules whose language brings it: there, and empty.

Go, and C or Rust with a WASI library, import it whether they need it or not. They get no arguments, no
environment, no files and no network. What is written to the standard streams goes to the agent's log. Clock
and chance are the host's own, so they follow the grants and the deterministic mode: not granted they stand
still, since language runtimes ask for them at their start. No thread waits for a clock: see
``Host.sleep``. Leaving the process ends the call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from node.agents.grants import Grant
from node.agents.wasm.failure import GuestFailed

if TYPE_CHECKING:
    from node.agents.wasm.instance import WasmInstance

RANDOM_LIMIT_BYTES: Final = 65_536
"""Most random bytes at once."""
VECTORS_LIMIT: Final = 64
"""Most pieces of one write, and clocks of one wait."""
WRITE_LIMIT_BYTES: Final = 65_536
"""Longest piece of one write."""

_SUCCESS, _BAD_FILE, _INVALID, _NOT_HERE = 0, 8, 28, 52  # errno of the specification
_STREAMS: Final = {1: "info", 2: "error"}
_REALTIME, _MONOTONIC = 0, 1
_CHARACTER_DEVICE: Final = 2
_RIGHT_TO_WRITE: Final = 64
_FDSTAT_BYTES: Final = 24
_SUBSCRIPTION_BYTES: Final = 48
_EVENT_BYTES: Final = 32
_CLOCK_EVENT: Final = 0
_WORD: Final = 0xFFFF_FFFF


def _nothing(guest: WasmInstance, count: int, size: int) -> int:
    """The sizes of an empty list."""
    guest.host.charge()
    guest.put(count, 4, bytes(4))
    guest.put(size, 4, bytes(4))
    return _SUCCESS


def _success(guest: WasmInstance, *_words: int) -> int:
    guest.host.charge()
    return _SUCCESS


def _bad_file(guest: WasmInstance, *_words: int) -> int:
    guest.host.charge()
    return _BAD_FILE


def _not_here(guest: WasmInstance, *_words: int) -> int:
    guest.host.charge()
    return _NOT_HERE


def _resolution(guest: WasmInstance, clock: int, at: int) -> int:
    guest.host.charge()
    if clock & _WORD not in (_REALTIME, _MONOTONIC):
        return _INVALID
    guest.put(at, 8, (1000).to_bytes(8, "little"))
    return _SUCCESS


def _time(guest: WasmInstance, clock: int, _precision: int, at: int) -> int:
    guest.host.charge()
    clock &= _WORD
    if clock not in (_REALTIME, _MONOTONIC):
        return _INVALID
    now_ns = guest.host.now_us() * 1000 if Grant.CLOCK in guest.policy.grants else 0
    if clock == _MONOTONIC:
        now_ns = max(1, now_ns)  # Go does not start on a clock at zero
    guest.put(at, 8, now_ns.to_bytes(8, "little"))
    return _SUCCESS


def _random(guest: WasmInstance, at: int, length: int) -> int:
    guest.host.charge()
    length &= _WORD
    if length > RANDOM_LIMIT_BYTES:
        raise GuestFailed("output_size", f"{length:,} random bytes at once; {RANDOM_LIMIT_BYTES:,} are given")
    granted = Grant.RANDOM in guest.policy.grants
    guest.put(at, length, guest.host.random_bytes(length) if granted else bytes(length))
    return _SUCCESS


def _write(guest: WasmInstance, file: int, vectors: int, count: int, written_at: int) -> int:
    guest.host.charge()
    level = _STREAMS.get(file & _WORD)
    if level is None:
        return _BAD_FILE
    count &= _WORD
    if count > VECTORS_LIMIT:
        return _INVALID
    table = guest.guest_bytes(vectors, 8 * count, 8 * VECTORS_LIMIT)
    written = 0
    for at in range(0, len(table), 8):
        pointer, length = (int.from_bytes(table[part : part + 4], "little") for part in (at, at + 4))
        guest.host.write(level, guest.guest_bytes(pointer, length, WRITE_LIMIT_BYTES))
        written += length
    guest.put(written_at, 4, written.to_bytes(4, "little"))
    return _SUCCESS


def _describe(guest: WasmInstance, file: int, at: int) -> int:
    """Of a standard stream: a device to which one writes."""
    guest.host.charge()
    if file & _WORD not in _STREAMS:
        return _BAD_FILE
    found = bytes([_CHARACTER_DEVICE]).ljust(8, b"\0") + _RIGHT_TO_WRITE.to_bytes(8, "little")
    guest.put(at, _FDSTAT_BYTES, found.ljust(_FDSTAT_BYTES, b"\0"))
    return _SUCCESS


def _poll(guest: WasmInstance, subscriptions: int, events: int, count: int, ready_at: int) -> int:
    """Wait for clocks: the shortest wait is slept, as by ``sleep_micros``, where the clock is granted."""
    guest.host.charge()
    count &= _WORD
    if not 0 < count <= VECTORS_LIMIT:
        return _INVALID
    asked = guest.guest_bytes(subscriptions, _SUBSCRIPTION_BYTES * count, _SUBSCRIPTION_BYTES * VECTORS_LIMIT)
    waits: list[tuple[int, bytes]] = []
    now_ns = guest.host.now_us() * 1000
    for at in range(0, len(asked), _SUBSCRIPTION_BYTES):
        if asked[at + 8] != _CLOCK_EVENT:
            return _NOT_HERE
        until_ns = int.from_bytes(asked[at + 24 : at + 32], "little")
        waits.append((until_ns - now_ns if asked[at + 40] & 1 else until_ns, asked[at : at + 8]))
    wait_ns, token = min(waits)
    if Grant.CLOCK in guest.policy.grants:
        guest.host.sleep(-(-wait_ns // 1000))
    guest.put(events, _EVENT_BYTES, token.ljust(_EVENT_BYTES, b"\0"))
    guest.put(ready_at, 4, (1).to_bytes(4, "little"))
    return _SUCCESS


def _exit(guest: WasmInstance, status: int) -> None:
    guest.host.charge()
    raise GuestFailed("exit", f"it left with the exit status {status & _WORD}")


PREVIEW1_FUNCTIONS: Final[dict[str, Callable[..., Any]]] = {
    "args_get": _success,
    "args_sizes_get": _nothing,
    "environ_get": _success,
    "environ_sizes_get": _nothing,
    "clock_res_get": _resolution,
    "clock_time_get": _time,
    "fd_close": _bad_file,
    "fd_fdstat_get": _describe,
    "fd_fdstat_set_flags": _bad_file,
    "fd_filestat_get": _bad_file,
    "fd_prestat_get": _bad_file,
    "fd_prestat_dir_name": _bad_file,
    "fd_read": _bad_file,
    "fd_seek": _bad_file,
    "fd_write": _write,
    "path_open": _not_here,
    "poll_oneoff": _poll,
    "proc_exit": _exit,
    "random_get": _random,
    "sched_yield": _success,
}
"""What answers each import of ``node.agents.wasm.interface.PREVIEW1_IMPORTS``."""
