"""Values go to and from a component as with wasmtime's own wrapper, and what fails ends one call."""

from __future__ import annotations

import resource
from typing import Any, Final

import pytest
import wasmtime
from wasmtime import component

from node.agents.wasm import shapes
from node.agents.wasm.native import Current
from node.errors import InvariantViolation

KINDS: Final[dict[str, tuple[str, list[Any]]]] = {
    "string": ("i32 i32", ["", "tea", "t\u00e4\U0001f375" * 50]),
    "u32": ("i32", [0, 2**32 - 1]),
    "u64": ("i64", [0, 2**64 - 1]),
    "bool": ("i32", [True, False]),
    "f64": ("f64", [0.5, -1e300]),
    "(option string)": ("i32 i32 i32", [None, "", "x" * 1000]),
    "(list string)": ("i32 i32", [[], ["a", "", "b" * 300]]),
    "(result string (error string))": (
        "i32 i32 i32",
        [component.Variant("ok", "fine"), component.Variant("err", "why")],
    ),
    "(result (error string))": ("i32 i32 i32", [None, "why"]),
    "(tuple u64 u64)": ("i64 i64", [(1, 2**63)]),
}
"""By its text: what a type is flattened to, and values of it."""
WORLD: Final = """(component
  (import "host" (instance $host (export "swap" (func (param "value" {kind}) (result {kind})))))
  (core module $memory (memory (export "memory") 64) (global $free (mut i32) (i32.const 1024))
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (local $at i32)
      (if (i32.gt_u (global.get $free) (i32.const 2000000)) (then (global.set $free (i32.const 1024))))
      (local.set $at (global.get $free))
      (global.set $free (i32.and (i32.add (i32.add (local.get $at) (local.get 3)) (i32.const 15))
        (i32.const -8)))
      (local.get $at)))
  (core instance $m (instantiate $memory))
  (alias core export $m "memory" (core memory $mem))
  (alias core export $m "realloc" (core func $realloc))
  (core func $swap (canon lower (func $host "swap") (memory $mem) (realloc $realloc)))
  (core module $code (import "host" "swap" (func $swap (param {flat} {place}) {result}))
    (func (export "run") (param {flat}) (result {direct}) (call $swap {given})))
  (core instance $c (instantiate $code (with "host" (instance (export "swap" (func $swap))))))
  (func (export "run") (param "value" {kind}) (result {kind})
    (canon lift (core func $c "run") (memory $mem) (realloc $realloc))))"""


def world(kind: str) -> str:
    """A component that hands its argument to a function of the host, and back what that returns."""
    flat = KINDS[kind][0]
    given = "".join(f"(local.get {place})" for place in range(len(flat.split())))
    if " " in flat:  # what does not fit into one value is returned by its place
        more = {
            "place": "i32",
            "result": "",
            "direct": "i32",
            "given": f"{given} (i32.const 16)) (i32.const 16",
        }
    else:
        more = {"place": "", "result": f"(result {flat})", "direct": flat, "given": given}
    return WORLD.format(kind=kind, flat=flat, **more)


class Guest:
    failed: Exception | None = None


class Case:
    """A component and its host."""

    def __init__(self, kind: str, function: Any, *, plain: bool = False) -> None:
        self.engine, self.current = wasmtime.Engine(), Current()
        self.current.guest = self.guest = Guest()
        linker = component.Linker(self.engine)
        with linker.root() as root, root.add_instance("host") as instance:
            if plain:
                instance.add_func("swap", function)
            else:
                self.kept = shapes.define_function(instance, "swap", function, self.current)
        module = component.Component(self.engine, world(kind))
        self.store = wasmtime.Store(self.engine)
        self.function: Any = linker.instantiate(self.store, module).get_func(self.store, "run")
        self.shape = shapes.Shape.of(self.function.type(self.store))

    def run(self, value: Any) -> Any:
        return shapes.call(self.function, self.store, self.shape, value)


@pytest.mark.parametrize("kind", KINDS)
def test_values_arrive_as_wasmtimes_own_wrapper_has_them(kind: str) -> None:
    seen: list[Any] = []

    def swap(_store: Any, value: Any) -> Any:
        seen.append(value)
        return value

    values = KINDS[kind][1]
    for value in values:
        ours, theirs = Case(kind, swap), Case(kind, swap, plain=True)
        found = [ours.run(value), ours.run(value), theirs.function(theirs.store, value)]
        assert found == [value] * 3
    assert seen == [value for value in values for _ in range(3)]


@pytest.mark.parametrize("error", [KeyError("a bug"), wasmtime.WasmtimeError("no")])
def test_what_the_host_raises_is_noted_and_ends_the_call(error: Exception) -> None:
    def swap(_store: Any, value: str) -> str:
        raise error

    case = Case("string", swap)
    with pytest.raises(wasmtime.WasmtimeError, match="stopped by the host"):
        case.run("x")
    assert case.guest.failed is error


def test_a_reason_that_was_noted_before_stays() -> None:
    case: Case

    def swap(_store: Any, value: str) -> str:
        case.guest.failed = KeyError("the reason")
        raise wasmtime.WasmtimeError("stopped by the host")

    case = Case("string", swap)
    with pytest.raises(wasmtime.WasmtimeError):
        case.run("x")
    assert isinstance(case.guest.failed, KeyError)


def test_an_answer_of_another_type_ends_the_call_and_is_noted() -> None:
    case = Case("string", lambda _store, value: 7)
    with pytest.raises(wasmtime.WasmtimeError):
        case.run("x")
    assert isinstance(case.guest.failed, TypeError)


def test_the_wrong_number_of_arguments_is_refused() -> None:
    case = Case("string", lambda _store, value: value)
    with pytest.raises(ValueError, match="argument"):
        shapes.call(case.function, case.store, case.shape)


def test_a_function_is_defined_once() -> None:
    linker = component.Linker(wasmtime.Engine())
    with linker.root() as root, root.add_instance("host") as instance:
        kept = [shapes.define_function(instance, "swap", print, Current())]
        with pytest.raises(InvariantViolation):
            kept.append(shapes.define_function(instance, "swap", print, Current()))


def test_nothing_is_left_behind() -> None:
    case = Case("(result string (error string))", lambda _store, value: value)
    value = component.Variant("err", "x" * 100_000)
    for _ in range(10):
        case.run(value)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(200):  # 60 MB, if copies stayed
        case.run(value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 10_000
