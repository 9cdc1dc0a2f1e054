"""A guest that breaks a limit gets a FAILURE, and the agent goes on with a fresh instance."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TypeVar, TypeVarTuple, Unpack

import pytest

from node.agents.journal import Journal
from node.agents.wasm import Grant, WasmAgent, WasmPolicy, WasmRuntime
from node.environment import Environment, ThreadWorkers
from node.errors import InvalidWasm
from node.message import Attachment
from node.telemetry.tracing import Tracing
from node.vocabulary import Performative
from tests.node.agents.inline import inline_environment
from tests.node.agents.rooms import delivery

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
GRANTS = frozenset((Grant.CLOCK, Grant.RANDOM))
FUEL = WasmPolicy(GRANTS, fuel=2_000_000)


def module(body: str = "(i32.const 0)", more: str = "", pages: int = 1, init: str = "(i32.const 0)") -> bytes:
    return f"""(module
      (import "caxton" "send_message" (func $send (param i32 i32) (result i32)))
      (import "caxton" "current_timestamp" (func $now (result i64)))
      (import "caxton" "random_u32" (func $random (result i32)))
      (memory (export "memory") {pages})
      (global $count (mut i32) (i32.const 0))
      (data (i32.const 0) "{SENT.replace('"', chr(92) + '"')}")
      {more}
      (func (export "caxton_alloc") (param i32) (result i32) (i32.const 4096))
      (func (export "agent_init") (result i32) {init})
      (func (export "handle_message") (param $at i32) (param $length i32) (result i32)
        {body.replace("DIGIT", DIGIT)}))""".encode()


SENT = '{"performative":"inform","content":7}'
ANSWER = f"(call $send (i32.const 0) (i32.const {len(SENT)}))"
DIGIT = f"(i32.const {SENT.index('7')})"
"""Where the answer's content stands in memory."""


async def load(source: bytes, policy: WasmPolicy = FUEL, environment: Environment | None = None) -> WasmAgent:
    environment = environment or inline_environment()
    runtime = WasmRuntime(environment, "node-1", Tracing.off())
    return await runtime.load(source, agent="guest", journal=Journal(environment.clock, 100), policy=policy)


async def ask(agent: WasmAgent, content: object = None, *files: Attachment) -> tuple[Performative, object]:
    [draft] = await agent.handle(delivery(content, *files))
    return draft.performative, draft.content


async def test_a_guest_answers() -> None:
    assert await ask(await load(module(ANSWER))) == (Performative.INFORM, 7)


BAD = {
    "fuel": "(loop $l (br $l))",
    "host_calls": "(loop $l (drop (call $random)) (br $l))",
    "pointer": "(drop (call $send (i32.const -8) (i32.const 16)))",
    "output_size": "(drop (call $send (i32.const 0) (i32.const -1)))",
    "messages": f"(loop $l (drop {ANSWER}) (br $l))",
    "trap": "(loop $l (br_if $l (i32.ne (memory.grow (i32.const 1)) (i32.const -1)))) (unreachable)",
    "memory": "(drop (i32.load (i32.const 100000000)))",
    "stack": "(call $deep)",
}


@pytest.mark.parametrize("limit", sorted(BAD))
async def test_each_broken_limit_is_a_failure_and_the_agent_stays_up(limit: str) -> None:
    # A message shorter than 600 bytes breaks the limit; a longer one is answered, by a fresh instance.
    body = f"(if (i32.lt_u (local.get $length) (i32.const 600)) (then {BAD[limit]})) {ANSWER}"
    agent = await load(module(body, "(func $deep (call $deep) (call $deep))"))
    for _ in range(2):
        performative, content = await ask(agent)
        assert performative is Performative.FAILURE
        assert isinstance(content, dict)
        assert (content["code"], content["details"]["limit"]) == ("RUNTIME_ERROR", limit)
        assert await ask(agent, "x" * 600) == (Performative.INFORM, 7)


async def test_memory_stays_under_its_limit() -> None:
    body = (
        """(loop $l (br_if $l (i32.ne (memory.grow (i32.const 1)) (i32.const -1))))
      (if (i32.gt_u (memory.size) (i32.const 800)) (then (unreachable)))"""
        + ANSWER
    )
    assert await ask(await load(module(body))) == (Performative.INFORM, 7)
    with pytest.raises(InvalidWasm, match="does not start"):
        await load(module(pages=900))


async def test_a_guest_that_is_slow_without_burning_fuel_ends_at_the_wall_clock() -> None:
    # memory.fill of many megabytes costs little fuel: only the clock can end it. It runs on a real thread.
    environment = inline_environment()
    threaded = Environment(environment.clock, environment.randomness, environment.network, ThreadWorkers())
    body = "(loop $l (memory.fill (i32.const 0) (i32.const 1) (i32.const 40000000)) (br $l)) (i32.const 0)"
    settings = WasmPolicy(GRANTS, fuel=2**62, timeout_s=0.05)
    performative, content = await ask(await load(module(body, pages=620), settings, threaded))
    assert performative is Performative.FAILURE
    assert isinstance(content, dict)
    assert content["details"]["limit"] == "wall_clock"


async def test_state_is_kept_between_messages_and_lost_with_a_failed_instance() -> None:
    body = (
        """(global.set $count (i32.add (global.get $count) (i32.const 1)))
      (i32.store8 DIGIT (i32.add (global.get $count) (i32.const 48)))
      (if (i32.eq (global.get $count) (i32.const 3)) (then (unreachable)))"""
        + ANSWER
    )
    agent = await load(module(body))
    seen = [(await ask(agent))[1] for _ in range(4)]
    assert [s if isinstance(s, int) else "failed" for s in seen] == [1, 2, "failed", 1]


async def test_the_same_message_is_answered_in_the_same_way(autojump_clock: object) -> None:
    body = (
        """(i32.store8 DIGIT (i32.add (i32.const 48)
      (i32.rem_u (i32.xor (call $random) (i32.wrap_i64 (call $now))) (i32.const 10))))"""
        + ANSWER
    )
    first, second = await load(module(body)), await load(module(body))
    assert [await ask(first) for _ in range(8)] == [await ask(second) for _ in range(8)]


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        ('{"performative":"shout"}', "performatives are"),
        ("nonsense", "not JSON"),
        ("[1]", "no object"),
        ('{"performative":"inform","content":NaN}', "not JSON"),
        ('{"performative":"inform","sender":"boss"}', "'sender'"),
        ('{"performative":"inform","content":' + "[" * 90 + "]" * 90 + "}", "nested deeper"),
        ('{"performative":"inform","receiver":3}', "are texts"),
    ],
)
async def test_what_a_guest_sends_is_checked(sent: str, why: str) -> None:
    text = sent.replace('"', '\\"')
    source = module(
        f"(call $send (i32.const 2000) (i32.const {len(sent)}))", f'(data (i32.const 2000) "{text}")'
    )
    performative, content = await ask(await load(source))
    assert performative is Performative.FAILURE
    assert why in json.dumps(content)


async def test_silence_is_a_failure_only_where_an_answer_is_expected() -> None:
    agent = await load(module())
    assert (await ask(agent))[0] is Performative.FAILURE
    assert list(await agent.handle(delivery("x", performative=Performative.INFORM))) == []
    [draft] = await agent.handle(delivery("x", performative=Performative.CFP))
    assert draft.performative is Performative.FAILURE
    assert list(await agent.handle(delivery("x", performative=Performative.AGREE))) == []


@pytest.mark.parametrize(("sent", "read"), [("refuse", "refuse"), ("Query-If", "query"), ("AGREE", "agree")])
async def test_a_guest_sends_any_performative_in_any_spelling(sent: str, read: str) -> None:
    text = f'{{"performative":"{sent}"}}'
    source = module(
        f"(call $send (i32.const 2000) (i32.const {len(text)}))",
        '(data (i32.const 2000) "{}")'.format(text.replace('"', '\\"')),
    )
    assert await ask(await load(source)) == (Performative(read), None)


@pytest.mark.parametrize(
    ("source", "why"),
    [
        (b"(module)", "handle_message(i32, i32) -> (i32)"),
        (b"(module", "expected"),
        (b"\0asm\x01\0\0\0garbage", ""),
        (b"\xff\xfe", "neither"),
        (module(init="(i32.const 3)"), "agent_init returned 3"),
        (module(init="(unreachable)"), "unreachable"),
        (module().replace(b"caxton_alloc", b"other_alloc_"), "caxton_alloc(i32) -> (i32)"),
        (
            module().replace(b'"random_u32" (func $random (result i32))', b'"set_timer" (func)'),
            "set_timer with another signature",
        ),
        (module().replace(b'"caxton" "random_u32"', b'"wasi" "random_get"'), "wasi.random_get (unknown)"),
        (module().replace(b"(result i64)", b"(result i32)"), "another signature"),
        (b"\0asm" + bytes(4 * 1024 * 1024), "at most"),
    ],
)
async def test_a_module_that_breaks_the_interface_is_refused_with_what_is_missing(
    source: bytes, why: str
) -> None:
    with pytest.raises(InvalidWasm) as caught:
        await load(source)
    assert why in caught.value.why


async def test_a_guest_gets_the_attached_files() -> None:
    # The guest answers with its message's length: the text of the file makes it longer.
    body = (
        """(i32.store8 DIGIT
      (i32.add (i32.const 48) (i32.gt_u (local.get $length) (i32.const 2000))))"""
        + ANSWER
    )
    agent = await load(module(body))
    assert await ask(agent) == (Performative.INFORM, 0)
    assert await ask(agent, None, Attachment("a.txt", "text/plain", b"x" * 2000)) == (Performative.INFORM, 1)


async def test_waiting_for_a_worker_takes_nothing_from_the_time_and_does_not_end_the_watch() -> None:
    # Far more time passes before there is a worker than the guest has: it is watched all the same.
    class Late(ThreadWorkers):
        async def run(self, lane: str, job: Callable[[Unpack[Ts]], T], *args: *Ts) -> T:
            await environment.clock.sleep(0.2)
            return await super().run(lane, job, *args)

    environment = inline_environment()
    threaded = Environment(environment.clock, environment.randomness, environment.network, Late())
    settings = WasmPolicy(GRANTS, fuel=2**62, timeout_s=0.05)
    assert await ask(await load(module(ANSWER), settings, threaded)) == (Performative.INFORM, 7)
    performative, content = await ask(
        await load(module("(loop $l (br $l)) (i32.const 0)"), settings, threaded)
    )
    assert performative is Performative.FAILURE
    assert isinstance(content, dict)
    assert content["details"]["limit"] == "wall_clock"


async def test_the_last_words_of_a_guest_that_traps_are_in_the_log() -> None:
    environment = inline_environment()
    journal = Journal(environment.clock, 100)
    source = module("(call $log (i32.const 0) (i32.const 10)) (unreachable)").replace(
        b"(memory ", b'(import "caxton" "console_error" (func $log (param i32 i32))) (memory ', 1
    )
    runtime = WasmRuntime(environment, "node-1", Tracing.off())
    agent = await runtime.load(source, agent="guest", journal=journal, policy=FUEL)
    assert (await ask(agent))[0] is Performative.FAILURE
    first, second = journal.records(tail=10, since_s=None, level="error")
    assert first.text == SENT[:10]
    assert "unreachable" in second.text


async def test_what_would_be_sent_outside_a_message_is_refused() -> None:
    with pytest.raises(InvalidWasm, match="only for handle_message"):
        await load(module(init=ANSWER))


async def test_a_second_heap_beside_the_bounded_memory_is_refused() -> None:
    with pytest.raises(InvalidWasm, match="gc"):
        await load(module(more="(type $array (array (mut i64)))"))
