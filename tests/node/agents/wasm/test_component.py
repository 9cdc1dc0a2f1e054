"""Components live under the grants and limits of core modules, and WASI gives them nothing of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.agents.wasm import world
from node.agents.wasm.interface import FUNCTIONS_LIMIT
from node.agents.wasm.signatures import EXPORT_TYPES, IMPORT_TYPES
from node.errors import InvalidWasm
from tests.node.agents.wasm.guests import House, ask, guest

REPLY = "(call $reply (i32.const 1024) (i32.const 6) (i32.const 1040) (i32.const 3) (i32.const 16))"
"""INFORM 123."""


def built(body: str = REPLY, *, start: str = "", more: str = "", pages: int = 2) -> bytes:
    """A component whose handle-message runs ``body``; $at and $length are its message."""
    return f"""(component
      (import "caxton:agent/types@1.0.0" (instance $types
        (type $v (variant (case "unavailable" string) (case "no-room") (case "invalid" string)))
        (export "failure" (type (eq $v)))))
      (alias export $types "failure" (type $failure))
      (import "caxton:agent/messages@1.0.0" (instance $messages
        (alias outer 1 $failure (type $f))
        (export "failure" (type $ff (eq $f)))
        (export "reply" (func (param "performative" string) (param "content" string)
          (result (result (error $ff)))))))
      (import "caxton:agent/clock@1.0.0" (instance $host-clock (export "now" (func (result u64)))))
      (import "caxton:agent/random@1.0.0" (instance $chance (export "draw" (func (result u32)))))
      (import "wasi:io/poll@0.2.0" (instance $poll (export "pollable" (type (sub resource)))))
      (alias export $poll "pollable" (type $pollable))
      (import "wasi:clocks/monotonic-clock@0.2.0" (instance $clock
        (alias outer 1 $pollable (type $p))
        (export "pollable" (type $pp (eq $p)))
        (export "now" (func (result u64)))
        (export "subscribe-duration" (func (param "when" u64) (result (own $pp))))))
      (import "wasi:random/random@0.2.0" (instance $random (export "get-random-u64" (func (result u64)))))
      (core module $libc
        (memory (export "memory") {pages})
        (global $next (mut i32) (i32.const 8192))
        (func (export "realloc") (param i32 i32 i32 i32) (result i32) (local $at i32)
          (local.set $at (global.get $next))
          (global.set $next (i32.add (i32.const 8192) (i32.rem_u
            (i32.sub (i32.and (i32.const -8)
              (i32.add (i32.add (global.get $next) (local.get 3)) (i32.const 7)))
              (i32.const 8192)) (i32.const 65536))))
          (local.get $at)))
      (core instance $libc (instantiate $libc))
      (alias core export $libc "memory" (core memory $memory))
      (alias core export $libc "realloc" (core func $realloc))
      (core func $reply (canon lower (func $messages "reply") (memory $memory) (realloc $realloc)))
      (core func $now (canon lower (func $clock "now")))
      (core func $wait (canon lower (func $clock "subscribe-duration")))
      (core func $wasi-random (canon lower (func $random "get-random-u64")))
      (core func $host-now (canon lower (func $host-clock "now")))
      (core func $draw (canon lower (func $chance "draw")))
      (core module $main
        (import "libc" "memory" (memory 1))
        (import "host" "reply" (func $reply (param i32 i32 i32 i32 i32)))
        (import "host" "now" (func $now (result i64)))
        (import "host" "wait" (func $wait (param i64) (result i32)))
        (import "host" "wasi-random" (func $wasi-random (result i64)))
        (import "host" "host-now" (func $host-now (result i64)))
        (import "host" "draw" (func $draw (result i32)))
        (data (i32.const 1024) "inform")
        (data (i32.const 1040) "123")
        {more}
        (func $say (param $yes i32)
          (i32.store8 (i32.const 1040) (i32.add (i32.const 49) (local.get $yes))) {REPLY})
        (func (export "start") (result i32) {start} (i32.const 1100))
        (func (export "handle-message") (param $at i32) (param $length i32) (result i32)
          {body} (i32.const 1100))
        (func (export "handle-timer") (param i32) (result i32) (i32.const 1100))
        (func (export "capabilities") (result i32) (i32.const 1100))
        (func (export "stop")))
      (core instance $main (instantiate $main
        (with "libc" (instance $libc))
        (with "host" (instance (export "reply" (func $reply)) (export "now" (func $now))
          (export "wait" (func $wait)) (export "wasi-random" (func $wasi-random))
          (export "host-now" (func $host-now)) (export "draw" (func $draw))))))
      (func (export "start") (result (result (error string)))
        (canon lift (core func $main "start") (memory $memory)))
      (func (export "handle-message") (param "message" string) (result (result (error string)))
        (canon lift (core func $main "handle-message") (memory $memory) (realloc $realloc)))
      (func (export "handle-timer") (param "timer" u32) (result (result (error string)))
        (canon lift (core func $main "handle-timer") (memory $memory)))
      (func (export "capabilities") (result (list string))
        (canon lift (core func $main "capabilities") (memory $memory)))
      (func (export "stop") (canon lift (core func $main "stop"))))""".encode()


async def answered(source: bytes, **more: object) -> object:
    return await ask(await House().load(source, **more))  # type: ignore[arg-type]


async def test_a_component_answers_many_messages() -> None:
    agent = await House().load(built(), grants=())
    assert [await ask(agent, "x" * 3000) for _ in range(50)] == [123] * 50
    await agent.aclose()


BAD = {
    "fuel": "(loop $l (br $l))",
    "stack": "(call $deep)",
    "host_calls": "(loop $l (drop (call $draw)) (br $l))",
    "messages": f"(loop $l {REPLY} (br $l))",
    "memory": "(drop (i32.load (i32.const 100000000)))",
    "trap": "(unreachable)",
    "message": "(i32.store8 (i32.const 1024) (i32.const 120))" + REPLY,
}


@pytest.mark.parametrize("limit", sorted(BAD))
async def test_each_broken_limit_is_a_failure_and_the_agent_stays_up(limit: str) -> None:
    body = f"(if (i32.lt_u (local.get $length) (i32.const 1000)) (then {BAD[limit]})) {REPLY}"
    agent = await House().load(built(body, more="(func $deep (call $deep) (call $deep))"))
    for _ in range(2):
        assert (await ask(agent))[0] == limit
        assert await ask(agent, "x" * 1000) == 123


async def test_memory_stays_under_its_limit() -> None:
    body = "(call $say (i32.eq (memory.grow (i32.const 900)) (i32.const -1)))"
    assert await answered(built(body)) == 223
    with pytest.raises(InvalidWasm, match="does not start"):
        await House().load(built(pages=900))


@pytest.mark.parametrize(("name", "result"), [("host-now", "i64"), ("draw", "i32")])
async def test_what_is_not_granted_ends_the_call(name: str, result: str) -> None:
    zero = f"({result}.const 0)"
    body = f"(call $say (i32.eqz ({result}.eq (call ${name}) {zero})))"
    found = await answered(built(body), grants=())
    assert isinstance(found, tuple)
    assert found[0] == "grants"
    assert await answered(built(body)) == 223


@pytest.mark.parametrize("name", ["now", "wasi-random"])
async def test_the_clock_and_chance_of_wasi_stand_still_without_a_grant(name: str) -> None:
    body = f"(call $say (i32.eqz (i64.eqz (call ${name}))))"
    assert await answered(built(body), grants=()) == 123
    assert await answered(built(body)) == 223


async def test_waiting_for_a_clock_of_wasi_ends_the_call() -> None:
    found = await answered(built("(drop (call $wait (i64.const 1000000000000)))"))
    assert isinstance(found, tuple)
    assert found[0] == "grants"


async def test_a_reply_that_is_not_json_is_told_to_the_guest() -> None:
    body = f"""(i32.store8 (i32.const 1040) (i32.const 120)) {REPLY}
      (if (i32.eqz (i32.load8_u (i32.const 16))) (then (unreachable)))
      (call $say (i32.load8_u (i32.const 20)))"""
    assert await answered(built(body)) == 323  # its failure is the third case, 'invalid'


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("caxton:agent/messages@1.0.0", "caxton:agent/messages@2.0.0", "caxton:agent/messages@2.0.0"),
        ("caxton:agent/clock@1.0.0", "caxton:agent/watch@1.0.0", "caxton:agent/watch@1.0.0"),
        ('(func (export "stop") (canon', '(func (export "halt") (canon', "does not export stop"),
        ("wasi:random/random@0.2.0", "wasi:random/randomness@0.2.0", "wasi:random/randomness"),
        ('"get-random-u64" (func (result u64))', '"get-random-u64" (func (result s64))', "get-random-u64"),
    ],
)
async def test_a_component_for_another_world_is_refused(old: str, new: str, why: str) -> None:
    source = built().decode()
    assert old in source
    with pytest.raises(InvalidWasm) as caught:
        await House().load(source.replace(old, new).encode())
    assert why in caught.value.why


async def test_a_component_for_another_world_is_not_kept(tmp_path: Path) -> None:
    source = (
        built()
        .decode()
        .replace('"get-random-u64" (func (result u64))', '"get-random-u64" (func (result s64))')
    )
    house = House(cache=tmp_path)
    for _ in range(2):  # what is kept is not compared again
        with pytest.raises(InvalidWasm):
            await house.load(source.encode())
    assert house.runtime.statistics()["compiled"]["bytes"] == 0


async def test_an_export_of_another_type_is_refused() -> None:
    source = (
        built()
        .decode()
        .replace(
            '(func (export "handle-timer") (param "timer" u32) (result (result (error string)))',
            '(func (export "handle-message2") (param "timer" u32) (result (result (error string)))',
        )
    )
    with pytest.raises(InvalidWasm, match="does not export handle-timer"):
        await House().load(source.encode())


async def test_a_start_that_is_refused_says_why() -> None:
    refusing = "(i32.store8 (i32.const 1100) (i32.const 1)) (i32.store (i32.const 1104) (i32.const 1024))"
    refusing += "(i32.store (i32.const 1108) (i32.const 6))"
    with pytest.raises(InvalidWasm, match="start: inform"):
        await House().load(built(start=refusing))


async def test_a_bomb_of_functions_inside_a_component_is_refused() -> None:
    import wasmtime  # noqa: PLC0415 - as the runtime does

    bomb = "(core module " + "(func) " * (FUNCTIONS_LIMIT + 1) + ")"
    binary = bytes(wasmtime.wat2wasm(built().decode()[:-1] + bomb + ")"))
    with pytest.raises(InvalidWasm, match="functions; at most"):
        await House().load(binary)


async def test_the_same_inputs_give_the_same_outputs(autojump_clock: object) -> None:
    body = """(call $say (i32.and (i32.const 7) (i32.xor (call $draw)
      (i32.wrap_i64 (i64.xor (call $now) (call $wasi-random))))))"""
    house = House()
    found = []
    for _ in range(2):
        agent = await house.load(built(body), deterministic=True, fresh=True)
        found.append([await ask(agent, n % 5) for n in range(10)])
        await house.environment.clock.sleep(100)
    assert found[0] == found[1]
    assert found[0][:5] == found[0][5:]
    assert len(set(found[0])) > 1


async def test_a_restart_compiles_no_component(tmp_path: Path) -> None:
    store = House().store
    for hits in (0, 1):
        house = House(store=store, cache=tmp_path)
        assert await ask(await house.load(built())) == 123
        assert house.runtime.statistics()["compiled"]["hits"] == hits


async def test_a_component_and_a_core_module_that_fail_together_are_told_their_own_reasons() -> None:
    house = House()
    component, module = await house.load(built("(unreachable)")), await house.load(guest("(loop $l (br $l))"))
    for _ in range(3):
        assert ((await ask(component))[0], (await ask(module))[0]) == ("trap", "fuel")


def test_the_world_file_names_what_is_linked() -> None:
    text = (Path(world.__file__).parent / "wit" / "agent.wit").read_text(encoding="utf-8")
    assert f"package caxton:agent@{world.VERSION};" in text
    implemented = {f"caxton:agent/{name}": functions for name, (_, functions) in world.INTERFACES.items()}
    implemented |= {f"wasi:{name}": functions for name, functions in world.WASI.items()}
    assert {name: set(found) for name, found in implemented.items()} == {
        name: set(found) for name, found in IMPORT_TYPES.items()
    }
    for name, (grant, functions) in world.INTERFACES.items():
        body = text.split(f"interface {name} {{")[1].split("\n}")[0]
        assert {line.split(":")[0].strip() for line in body.splitlines() if ": func(" in line} == set(
            functions
        )
        assert grant is None or f"Grant: {grant}." in text
    exported = [line.split()[1].rstrip(":") for line in text.splitlines() if line.startswith("    export ")]
    assert exported == list(EXPORT_TYPES)
