"""Bytes go to a component as they are, without a conversion of each, and nothing of them is left behind."""

from __future__ import annotations

import resource
from typing import Any, Final

import pytest
import wasmtime
from wasmtime import component

from node.agents.wasm.byte_lists import define_bytes_function

WORLD: Final = """(component
  (import "host" (instance $host
    (export "get" (func (param "name" string) (param "length" u64) (result {type})))))
  (core module $memory (memory (export "memory") 4) (global $free (mut i32) (i32.const 0))
    (func (export "realloc") (param i32 i32 i32 i32) (result i32)
      (global.set $free (i32.add (global.get $free) (i32.const 8)))
      (i32.add (i32.const 1024) (global.get $free))))
  (core instance $m (instantiate $memory))
  (alias core export $m "memory" (core memory $mem))
  (alias core export $m "realloc" (core func $realloc))
  (core func $get (canon lower (func $host "get") (memory $mem) (realloc $realloc)))
  (core module $code (import "host" "get" (func $get (param i32 i32 i64 i32)))
    (import "m" "memory" (memory 1))
    (data (i32.const 64) "s\\c3\\a4")
    (func (export "run") (param $length i64) (result i32)
      (call $get (i32.const 64) (i32.const 3) (local.get $length) (i32.const 16)) (i32.const 16)))
  (core instance $c (instantiate $code (with "host" (instance (export "get" (func $get))))
    (with "m" (instance $m))))
  (func (export "run") (param "length" u64) (result {type})
    (canon lift (core func $c "run") (memory $mem))))"""


class Case:
    """A component that hands on what ``get`` of its host returns."""

    def __init__(self, function: Any, *, optional: bool = False) -> None:
        self.engine = wasmtime.Engine()
        linker = component.Linker(self.engine)
        with linker.root() as root, root.add_instance("host") as instance:
            self.kept = define_bytes_function(instance, "get", function, optional=optional)
        kind = "(option (list u8))" if optional else "(list u8)"
        module = component.Component(self.engine, WORLD.format(type=kind))
        self.store = wasmtime.Store(self.engine)
        self.function: Any = linker.instantiate(self.store, module).get_func(self.store, "run")

    def run(self, length: int) -> Any:
        return self.function(self.store, length)


@pytest.mark.parametrize("length", [0, 1, 256, 5_000])
def test_bytes_arrive_as_they_are(length: int) -> None:
    asked: list[tuple[str, int]] = []

    def get(_store: Any, name: str, wanted: int) -> bytes:
        asked.append((name, wanted))
        return bytes(at % 256 for at in range(wanted))

    assert Case(get).run(length) == bytes(at % 256 for at in range(length))
    assert asked == [("sä", length)]


@pytest.mark.parametrize("answer", [None, b"", b"value\xff"])
def test_nothing_is_told_from_no_bytes(answer: bytes | None) -> None:
    assert Case(lambda _store, _name, _length: answer, optional=True).run(2**63) == answer


def test_what_is_raised_ends_the_call_and_only_that() -> None:
    def get(_store: Any, _name: str, length: int) -> bytes:
        if length == 1:
            raise wasmtime.WasmtimeError("no")
        return b"x"

    case = Case(get)
    with pytest.raises(wasmtime.WasmtimeError, match="stopped by the host"):
        case.run(1)
    assert Case(get).run(2) == b"x"


def test_nothing_is_left_behind() -> None:
    case = Case(lambda _store, _name, length: bytes(length))
    for _ in range(5):
        case.run(5_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(60):  # 9.6 MB, if wasmtime's copies stayed
        case.run(5_000)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 5_000
