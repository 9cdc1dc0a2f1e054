"""A canary over wasmtime's ctypes layer: what ``node.agents.wasm.native`` relies on is as it was."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import pytest
import wasmtime
from wasmtime import _bindings, _ffi

from node.agents.wasm import WasmPolicy, native
from node.agents.wasm.engine import CoreModule, WasmEngine, binary_of
from node.agents.wasm.failure import GuestFailed
from node.agents.wasm.host import Moment
from node.agents.wasm.native import Current, NativeStore, deadline_callback, define_host_function
from tests.node.agents.wasm.guests import guest

PAGE: Final = 65_536
USED: Final = {
    "wasmtime_func_call_unchecked": native._call,
    "wasmtime_memory_data": native._memory_data,
    "wasmtime_memory_data_size": native._memory_size,
    "wasmtime_context_set_fuel": native._set_fuel,
    "wasmtime_context_get_fuel": native._get_fuel,
    "wasmtime_context_set_epoch_deadline": native._set_deadline,
    "wasmtime_trap_new": native._new_trap,
    "wasmtime_error_new": native._new_error,
    "wasmtime_linker_define_func_unchecked": native._define,
    "wasmtime_store_epoch_deadline_callback": native._on_deadline,
}


KEEPS_THE_INTERPRETER: Final = 0x4  # FUNCFLAG_PYTHONAPI of ctypes


def test_only_what_runs_guest_code_lets_go_of_the_interpreter() -> None:
    lets_go = {name for name, found in USED.items() if not found._flags_ & KEEPS_THE_INTERPRETER}
    assert lets_go == {"wasmtime_func_call_unchecked"}


class Failed(Exception):
    """What a host function of a test raises."""


class Case:
    """A guest of its own engine or of a shared one, entered as an instance enters it."""

    failed: Exception | None = None

    def __init__(
        self,
        functions: dict[str, Callable[..., int | None]],
        body: str,
        *,
        world: tuple[wasmtime.Engine, Current] | None = None,
        is_stopped: Callable[[], bool] = lambda: False,
        results: str = "(result i32)",
    ) -> None:
        self.engine, self.current = world or (new_engine(), Current())
        self.is_stopped = is_stopped
        i32 = wasmtime.ValType.i32
        kind = wasmtime.FuncType([i32(), i32()], [i32()])
        linker = wasmtime.Linker(self.engine)
        self.kept: list[Any] = [
            define_host_function(linker, ("caxton", name), kind, self.current, function)
            for name, function in functions.items()
        ]
        imports = "".join(
            f'(import "caxton" "{name}" (func ${name} (param i32 i32) (result i32)))' for name in functions
        )
        text = f'(module {imports} (memory (export "memory") 1 4) (func (export "run") {results} {body}))'
        self.kept.append(deadline_callback(self.current))
        store = wasmtime.Store(self.engine)
        self.native = NativeStore(store, self.kept[-1])
        self.native.refuel(1_000_000)
        exports: Any = linker.instantiate(store, wasmtime.Module(self.engine, text)).exports(store)
        self.native.use_memory(exports["memory"])
        self.function = exports["run"]
        self.kept.append(store)

    def run(self, fuel: int = 1_000_000) -> int:
        self.current.guest = self
        self.native.refuel(fuel)
        try:
            return self.native.call(self.native.function(self.function))
        finally:
            self.current.guest = None


def new_engine() -> wasmtime.Engine:
    config = wasmtime.Config()
    config.consume_fuel = True
    config.epoch_interruption = True
    return wasmtime.Engine(config)


@pytest.mark.parametrize("name", USED)
def test_a_prototype_is_that_of_the_installed_wasmtime(name: str) -> None:
    theirs, ours = getattr(_bindings, f"_{name}"), USED[name]
    assert [size(kind) for kind in ours.argtypes] == [size(kind) for kind in theirs.argtypes]
    assert size(ours.restype) == size(theirs.restype)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (native.HostCallback, _bindings.wasmtime_func_unchecked_callback_t),
        (native.DeadlineCallback, _bindings._wasmtime_store_epoch_deadline_callback.argtypes[1]),
    ],
)
def test_a_callback_is_that_of_the_installed_wasmtime(ours: Any, theirs: Any) -> None:
    assert [size(kind) for kind in ours._argtypes_] == [size(kind) for kind in theirs._argtypes_]
    assert size(ours._restype_) == size(theirs._restype_)


def test_a_value_is_two_words_with_its_number_in_the_first() -> None:
    assert ctypes.sizeof(_bindings.wasmtime_val_raw) == 16
    assert _bindings.wasmtime_val_raw.i32.offset == _bindings.wasmtime_val_raw.i64.offset == 0
    assert _ffi.wasmtime_func_t is _bindings.wasmtime_func


def test_words_go_in_and_out_with_their_sign() -> None:
    seen: list[tuple[int, int]] = []

    def told(_guest: object, first: int, second: int) -> int:
        seen.append((first & 0xFFFF_FFFF, second & 0xFFFF_FFFF))
        return -3

    case = Case({"tell": told}, "(i32.mul (i32.const 2) (call $tell (i32.const -1) (i32.const 7)))")
    assert case.run() == 2**32 - 6
    assert seen == [(2**32 - 1, 7)]


def test_a_host_function_that_fails_ends_the_call_and_notes_why() -> None:
    reason = Failed("mine")

    def fail(_guest: object, _first: int, _second: int) -> int:
        raise reason

    case = Case({"fail": fail}, "(call $fail (i32.const 0) (i32.const 0))")
    with pytest.raises(wasmtime.WasmtimeError, match="stopped by the host"):
        case.run()
    assert case.failed is reason


def test_of_guests_that_fail_at_once_on_many_threads_each_has_its_own_reason() -> None:
    threads, rounds = 8, 20
    world = new_engine(), Current()
    together = threading.Barrier(threads, timeout=60)

    def fail(guest: Case, first: int, _second: int) -> int:
        together.wait()  # all are inside their host function before one of them fails
        raise Failed(first & 0xFFFF_FFFF)  # what is above the 32 bits of a word is not set

    cases = [
        Case({"fail": fail}, f"(call $fail (i32.const {number}) (i32.const 0))", world=world)
        for number in range(threads)
    ]

    def repeat(case: Case) -> list[object]:
        found: list[object] = []
        for _ in range(rounds):
            with pytest.raises(wasmtime.WasmtimeError):
                case.run()
            assert case.failed is not None
            found += case.failed.args
        return found

    with ThreadPoolExecutor(threads) as pool:
        assert list(pool.map(repeat, cases)) == [[number] * rounds for number in range(threads)]


def test_memory_is_read_and_written_to_its_last_byte_and_its_size_follows_its_growth() -> None:
    case = Case({}, "(memory.grow (i32.const 2))")
    assert case.native.memory_size() == PAGE
    case.native.write(PAGE - 3, b"end")
    assert (case.native.read(PAGE - 3, 3), case.native.read(PAGE, 0)) == (b"end", b"")
    assert case.run() == 1
    assert case.native.memory_size() == 3 * PAGE
    case.native.write(3 * PAGE - 1, b"!")  # the memory may have moved
    assert (case.native.read(PAGE - 3, 3), case.native.read(3 * PAGE - 1, 1)) == (b"end", b"!")


@pytest.mark.parametrize(
    ("pointer", "length"),
    [(4 * PAGE, 1), (4 * PAGE - 1, 2), (-1, 1), (-1, 0xFFFF), (0x7FFF_FFFF, 1), (2**32, 1)],
)
def test_a_pointer_out_of_range_is_refused_before_memory_is_touched(
    pointer: int, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = WasmEngine()
    module = CoreModule(engine, wasmtime.Module(engine.engine, binary_of(guest())), ())
    instance = module.instance(WasmPolicy(), Moment(0, b"seed"), lambda: False)
    touched: list[int] = []
    monkeypatch.setattr(NativeStore, "read", lambda _self, at, _length: touched.append(at) or b"")
    monkeypatch.setattr(NativeStore, "write", lambda _self, at, _data: touched.append(at))
    if pointer == 2**32:  # a word has 32 bits: what is above them is none of the guest's
        assert instance.guest_bytes(pointer, length, PAGE) == b""
        assert touched == [0]
        return
    with pytest.raises(GuestFailed, match="outside"):
        instance.guest_bytes(pointer, length, PAGE)
    with pytest.raises(GuestFailed, match="outside"):
        instance.put(pointer, length, b"x")
    assert touched == []


def test_fuel_is_given_counted_and_used_up() -> None:
    case = Case({}, "(local $n i32) (local.set $n (i32.const 100)) " + COUNT_DOWN)
    assert case.run(fuel=10_000) == 0
    left = case.native.fuel()
    assert 100 < 10_000 - left < 5_000
    assert case.run(fuel=10_000) == 0
    assert case.native.fuel() == left  # the same instructions, counted alike, from a new start
    with pytest.raises(wasmtime.Trap) as caught:
        case.run(fuel=50)
    assert caught.value.trap_code is wasmtime.TrapCode.OUT_OF_FUEL
    assert case.native.fuel() == 0


def test_a_tick_is_a_question_and_the_guest_goes_on_when_it_is_not_stopped() -> None:
    asked: list[bool] = []

    def is_stopped() -> bool:
        asked.append(False)
        return False

    case = Case(
        {"tick": tick}, "(local $n i32) (local.set $n (i32.const 3)) " + TICKING, is_stopped=is_stopped
    )
    assert case.run() == 0
    assert len(asked) == 2  # once between each two rounds: a tick is noticed where a loop begins


def test_a_stopped_guest_ends_at_the_next_tick() -> None:
    ticks: list[bool] = []

    def is_stopped() -> bool:
        ticks.append(True)
        return len(ticks) == 2

    case = Case({"tick": tick}, f"(local $n i32) {TICKING}", is_stopped=is_stopped)  # 2**32 rounds
    with pytest.raises(wasmtime.WasmtimeError, match="stopped by the host"):
        case.run()
    assert len(ticks) == 2
    assert case.native.fuel() > 0


def tick(guest: Case, _first: int, _second: int) -> int:
    guest.engine.increment_epoch()
    return 0


def size(kind: Any) -> int:
    """Bytes of an argument or result; 0 for none."""
    return 0 if kind is None else ctypes.sizeof(kind)


COUNT_DOWN: Final = """(loop $again
  (local.set $n (i32.sub (local.get $n) (i32.const 1)))
  (br_if $again (local.get $n))) (local.get $n)"""
TICKING: Final = COUNT_DOWN.replace(
    "(loop $again", "(loop $again (drop (call $tick (i32.const 0) (i32.const 0)))"
)
