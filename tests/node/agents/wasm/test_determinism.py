"""In deterministic mode the same input gives the same output, whatever happened before, wherever it runs."""

from __future__ import annotations

from node.agents.wasm import WasmAgent
from tests.node.agents.wasm.guests import House, ask, guest

WORLD = ("random_u32", "current_timestamp")
MIXED = """(global.set $seen (i32.add (global.get $seen) (i32.const 1)))
  (call $answer (i32.and (i32.const 0xFFFFF) (i32.add (global.get $seen)
    (i32.xor (call $random_u32) (i32.wrap_i64 (call $current_timestamp))))))"""
SOURCE = guest(MIXED, imports=WORLD, more="(global $seen (mut i32) (i32.const 0))")
NAN = """(call $answer (i32.shr_u (i32.reinterpret_f32
  (f32.div (f32.reinterpret_i32 (i32.const 0xFFC12345)) (f32.const 0))) (i32.const 8)))"""


async def several(agent: WasmAgent) -> list[object]:
    return [await ask(agent, content) for content in ("a", "b", "a", "c")]


async def test_the_same_inputs_give_the_same_outputs(autojump_clock: object) -> None:
    house = House()
    first = await several(await house.load(SOURCE, deterministic=True, fresh=True))
    await house.environment.clock.sleep(1000)
    second = await several(await house.load(SOURCE, deterministic=True, fresh=True))
    assert first == second
    assert first[0] == first[2]
    assert len(set(first)) == 3


async def test_without_it_they_do_not(autojump_clock: object) -> None:
    house = House()
    first = await several(await house.load(SOURCE))
    assert first != await several(await house.load(SOURCE))
    assert first[0] != first[2]


async def test_a_nan_has_one_pattern() -> None:
    assert await ask(await House().load(guest(NAN))) == 0x7FC00000 >> 8


async def test_only_instructions_count(autojump_clock: object) -> None:
    agent = await House().load(guest("(loop $l (br $l))"), deterministic=True, fresh=True, timeout_s=0.001)
    assert (await ask(agent))[0] == "fuel"
