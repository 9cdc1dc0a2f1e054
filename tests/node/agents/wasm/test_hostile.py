"""Guests that mean harm, all contained: the call ends, its sender is told, and the node goes on."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from node.agents.wasm.interface import FUNCTIONS_LIMIT, IMPORTS, MODULE_LIMIT_BYTES
from node.environment import Environment, ThreadWorkers, system_environment
from node.errors import InvalidWasm
from tests.node.agents.inline import inline_environment
from tests.node.agents.rooms import delivery
from tests.node.agents.wasm.guests import House, answers, ask, guest

OUTSIDE = [
    (-8, 16),  # begins inside, ends beyond four gigabytes
    (262_140, 8),  # crosses the end of the memory
    (262_145, 0),  # begins beyond it, and is empty
    (2**31, 2**31),
    (0, -1),
]
POINTED = sorted(name for name, (parameters, _) in IMPORTS.items() if parameters[:2] == ("i32", "i32"))


@pytest.mark.parametrize(
    ("name", "place"),
    [(n, p) for n in POINTED for p in OUTSIDE if not (n.startswith("console") and p == (0, -1))],  # cut
)
async def test_a_pointer_outside_the_memory_ends_the_call(name: str, place: tuple[int, int]) -> None:
    parameters, results = IMPORTS[name]
    values = (*place, 0, 1)[: len(parameters)]
    called = f"(call ${name} " + " ".join(f"(i32.const {value})" for value in values) + ")"
    [(limit, _)] = await answers(guest(f"(drop {called})" if results else called, imports=[name]))
    assert limit in ("pointer", "output_size")


@pytest.mark.parametrize("name", ["load_data", "store_data"])
async def test_a_second_pointer_outside_the_memory_ends_the_call(name: str) -> None:
    key = "(i32.const 2000) (i32.const 1)"
    put = f"(drop (call $store_data {key} (i32.const 0) (i32.const 1)))"
    body = f"{put} (drop (call ${name} {key} (i32.const 262140) (i32.const 8)))"
    [(limit, _)] = await answers(guest(body, imports=("store_data", "load_data")))
    assert limit == "pointer"


@pytest.mark.parametrize(("place", "expected"), [((262_140, 8), "pointer"), ((0, -1), "output_size")])
async def test_arguments_of_a_tool_outside_the_memory_end_the_call(
    place: tuple[int, int], expected: str
) -> None:
    given = " ".join(f"(i32.const {value})" for value in (2000, 1, *place))
    [(limit, _)] = await answers(guest(f"(drop (call $call_tool {given}))", imports=("call_tool",)))
    assert limit == expected


@pytest.mark.parametrize("place", ["(i32.const -1)", "(i32.const 262143)", "(i32.const 0)"])
async def test_an_allocator_that_points_outside_the_memory_ends_the_call(place: str) -> None:
    source = guest().replace(b"(i32.const 8192)", place.encode())
    [(limit, _)] = await answers(source)
    assert limit == "pointer"


@pytest.mark.parametrize(
    "text", ["ÿþ", '{"performative":"inform","content":NaN}', '{"performative":', "\x00"]
)
async def test_what_is_not_utf_8_or_not_json_is_no_message(text: str) -> None:
    raw = text.encode("latin-1")
    source = guest(
        f"(drop (call $send_message (i32.const 2000) (i32.const {len(raw)})))", data={2000: ""}
    ).replace(
        b'(i32.const 2000) ""', b'(i32.const 2000) "' + "".join(f"\\{b:02x}" for b in raw).encode() + b'"'
    )
    [(limit, reason)] = await answers(source)
    assert (limit, "not JSON" in reason) == ("message", True)


async def test_a_log_line_that_is_not_utf_8_is_shown_with_marks() -> None:
    source = guest(
        "(call $console_log (i32.const 2000) (i32.const 2)) (call $answer (i32.const 1))",
        imports=("console_log",),
        more='(data (i32.const 2000) "\\ff\\fe")',
    )
    house = House()
    assert await ask(await house.load(source)) == 1
    assert "\ufffd\ufffd" in house.lines()


async def test_an_endless_loop_ends_by_its_fuel_and_names_the_function() -> None:
    source = guest("(call $spin)", more="(func $spin (loop $l (br $l)))")
    [(limit, reason)] = await answers(source)
    assert limit == "fuel"
    assert "spin" in reason


async def test_an_endless_loop_in_the_start_function_ends_the_deployment() -> None:
    with pytest.raises(InvalidWasm, match="instructions"):
        await House().load(guest(more="(func $spin (loop $l (br $l))) (start $spin)"))


async def test_an_import_called_before_there_is_a_memory_ends_the_deployment() -> None:
    early = "(func $early (call $console_log (i32.const 0) (i32.const 1))) (start $early)"
    with pytest.raises(InvalidWasm, match="before the instance had started"):
        await House().load(guest(imports=("console_log",), more=early))


async def test_endless_recursion_ends_by_its_stack() -> None:
    [(limit, reason)] = await answers(guest("(call $deep)", more="(func $deep (call $deep) (call $deep))"))
    assert (limit, "deep" in reason) == ("stack", True)


async def test_a_claim_of_a_gigabyte_is_refused_at_deployment() -> None:
    with pytest.raises(InvalidWasm, match="does not start"):
        await House().load(guest(pages=16_384))
    grown = guest("(call $answer (memory.grow (i32.const 16384)))")
    assert await answers(grown) == [-1]


async def test_a_table_cannot_grow_beyond_its_limit() -> None:
    table = "(table $t 1 funcref)"
    body = "(call $answer (table.grow $t (ref.null func) (i32.const 100000)))"
    assert await answers(guest(body, more=table)) == [-1]


async def test_a_module_that_is_too_large_is_refused_before_it_is_read() -> None:
    with pytest.raises(InvalidWasm, match="at most"):
        await House().load(b"\0asm\x01\0\0\0" + bytes(100 * 1024 * 1024))
    with pytest.raises(InvalidWasm, match="at most"):
        await House().load(b"(module" + b" " * MODULE_LIMIT_BYTES + b")")


async def test_a_bomb_of_functions_is_refused_before_it_is_compiled() -> None:
    count = FUNCTIONS_LIMIT + 1
    number = bytes((count & 0x7F | 0x80, count >> 7 & 0x7F | 0x80, count >> 14))
    functions = number + bytes(count)
    code = number + b"\x02\x00\x0b" * count
    module = (
        b"\0asm\x01\0\0\0" + _section(1, b"\x01\x60\x00\x00") + _section(3, functions) + _section(10, code)
    )
    with pytest.raises(InvalidWasm, match=f"{count:,} functions"):
        await House().load(module)


@pytest.mark.parametrize("cut", [9, 40, 200, -1])
async def test_a_truncated_module_is_refused(cut: int) -> None:
    import wasmtime  # noqa: PLC0415 - as the runtime does

    binary = bytes(wasmtime.wat2wasm(guest().decode()))
    with pytest.raises(InvalidWasm):
        await House().load(binary[:cut])


@pytest.mark.parametrize("module", ["wasi_unstable", "wasi:filesystem/types@0.2.0", "env"])
async def test_anything_else_unknown_is_refused(module: str) -> None:
    foreign = f'(import "{module}" "path_open" (func (param i32) (result i32)))'.encode()
    source = guest().replace(b"(memory ", foreign + b" (memory ", 1)
    with pytest.raises(InvalidWasm, match="unknown") as caught:
        await House().load(source)
    assert module in caught.value.why


async def test_many_unknown_imports_do_not_make_an_endless_error() -> None:
    foreign = "".join(f'(import "env" "{"f" * 200}{n}" (func))' for n in range(500)).encode()
    with pytest.raises(InvalidWasm, match="480 more") as caught:
        await House().load(guest().replace(b"(memory ", foreign + b" (memory ", 1))
    assert len(caught.value.why) < 4000


async def test_an_agent_that_fails_too_often_is_quarantined(autojump_clock: object) -> None:
    house = House()
    body = """(if (i32.lt_u (local.get $length) (i32.const 1000)) (then (unreachable)))
      (call $answer (i32.const 1))"""
    agent = await house.load(guest(body), quarantine_after=3)
    for _ in range(2):
        assert (await ask(agent))[0] == "trap"
        assert await ask(agent, "x" * 1000) == 1  # a good answer between them does not help
    assert house.quarantined == []
    assert (await ask(agent))[0] == "trap"
    [reason] = house.quarantined
    assert "3 failures" in reason
    assert (await ask(agent, "x" * 1000))[0] == "quarantine"
    assert len(house.quarantined) == 1


async def test_failures_that_are_far_apart_do_not_quarantine(autojump_clock: object) -> None:
    house = House()
    agent = await house.load(guest("(unreachable)"), quarantine_after=2)
    for _ in range(4):
        assert (await ask(agent))[0] == "trap"
        await house.environment.clock.sleep(61)
    assert house.quarantined == []


async def test_a_guest_that_spins_takes_no_time_from_another_and_each_is_told_its_own_reason() -> None:
    # On real threads: wasmtime's own wrapper would mix up which guest a host function ended.
    inline = inline_environment()
    house = House(Environment(inline.clock, inline.randomness, inline.network, ThreadWorkers()))
    flooding = guest("(loop $l (drop (call $random_u32)) (br $l))", imports=("random_u32",))
    spinning = guest("(loop $l (br $l))")
    agents = [
        await house.load(source, agent=f"guest-{n}", quarantine_after=1000, fuel=300_000)
        for n, source in enumerate((flooding, spinning, flooding, spinning))
    ]
    found: list[set[str]] = [set() for _ in agents]

    async def hammer(index: int) -> None:
        for _ in range(25):
            found[index].add((await ask(agents[index]))[0])

    async with trio.open_nursery() as nursery:
        for index in range(len(agents)):
            nursery.start_soon(hammer, index)
    assert found == [{"host_calls"}, {"fuel"}, {"host_calls"}, {"fuel"}]


async def test_a_bug_of_the_host_is_not_blamed_on_the_guest(monkeypatch: pytest.MonkeyPatch) -> None:
    from node.agents.wasm.host import Host  # noqa: PLC0415 - patched here only

    def broken(self: object) -> int:
        raise ZeroDivisionError("a bug")

    agent = await House().load(
        guest("(drop (call $random_u32)) (call $answer (i32.const 1))", imports=("random_u32",))
    )
    monkeypatch.setattr(Host, "random_u32", broken)
    with pytest.raises(ZeroDivisionError):
        await ask(agent)


def _section(number: int, content: bytes) -> bytes:
    size, left = b"", len(content)
    while left >= 0x80:
        size, left = size + bytes((left & 0x7F | 0x80,)), left >> 7
    return bytes((number,)) + size + bytes((left,)) + content


NESTED = b"""(component
  (component $callee
    (core module $m (memory (export "memory") 1)
      (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 0))
      (func (export "f") (param i32 i32)))
    (core instance $i (instantiate $m))
    (alias core export $i "memory" (core memory $memory))
    (alias core export $i "realloc" (core func $realloc))
    (alias core export $i "f" (core func $f))
    (func (export "f") (param "s" string) (canon lift (core func $f) (memory $memory) (realloc $realloc))))
  (component $caller
    (import "f" (func $f (param "s" string)))
    (core module $m (memory (export "memory") 1))
    (core instance $i (instantiate $m))
    (alias core export $i "memory" (core memory $memory))
    (core func $g (canon lower (func $f) (memory $memory)))
    (core module $n (import "" "g" (func (param i32 i32))))
    (core instance (instantiate $n (with "" (instance (export "g" (func $g)))))))
  (instance $a (instantiate $callee))
  (alias export $a "f" (func $f))
  (instance (instantiate $caller (with "f" (func $f)))))"""
"""What carries a text from one memory to another: without a feature of the engine it aborts the process."""


async def test_a_component_of_components_is_compiled_and_refused() -> None:
    with pytest.raises(InvalidWasm, match="does not export start"):
        await House().load(NESTED)


async def test_a_core_module_has_one_memory() -> None:
    source = guest().replace(b'(memory (export "memory") 4)', b'(memory (export "memory") 4) (memory 1)')
    with pytest.raises(InvalidWasm, match="does not start"):
        await House().load(source)


async def test_the_functions_of_a_trap_are_in_the_log() -> None:
    house = House()
    source = guest("(call $outer)", more="(func $inner (unreachable)) (func $outer (call $inner))")
    await ask(await house.load(source))
    [record] = [
        r for r in house.journal.records(tail=9, since_s=None, level="error") if "backtrace" in r.fields
    ]
    assert record.fields["backtrace"][:2] == ["inner", "outer"]


async def test_a_message_that_takes_too_long_ends_alone_in_its_batch() -> None:
    spin = "(if (i32.gt_u (local.get $length) (i32.const 1000)) (then (loop $l (br $l))))"
    agent = await House(system_environment()).load(
        guest(f"{spin} (call $answer (i32.const 7))"), fuel=10**12, timeout_s=0.3
    )
    several = [delivery(content) for content in (None, "x" * 1000, None, None)]
    found: list[Any] = []
    while len(found) < len(several):  # what was stopped has used up the instructions of its batch
        found += await agent.handle_many(several[len(found) :])
    contents = [answer[0].content for answer in found]
    assert [contents[place] for place in (0, 2, 3)] == [7, 7, 7]
    assert contents[1]["details"]["limit"] == "wall_clock"
