"""Every import of a guest does what its page says, within its bounds, where it is granted."""

from __future__ import annotations

import pytest
import trio

from node.agents.wasm import Grant
from node.agents.wasm.host import CONSOLE_LIMIT, TIMERS_LIMIT
from node.agents.wasm.interface import IMPORTS, NEEDS
from node.agents.wasm.state import KEYS_LIMIT, STATE_LIMIT_BYTES, VALUE_LIMIT_BYTES
from node.errors import InvalidWasm, StorageFailed
from node.vocabulary import Performative, RoutingStrategy
from tests.node.agents.rooms import MemoryStore, delivery
from tests.node.agents.wasm.guests import House, answers, ask, guest

STATE = ("store_data", "load_data", "delete_data")
KEY = {2000: "key", 2100: "value"}
PUT = "(call $store_data (i32.const 2000) (i32.const 3) (i32.const 2100) (i32.const 5))"
GET = "(call $load_data (i32.const 2000) (i32.const 3) (i32.const 3000) (i32.const 100))"
DROP = "(call $delete_data (i32.const 2000) (i32.const 3))"


def answer(value: str) -> str:
    return f"(call $answer {value})"


@pytest.mark.parametrize("name", sorted(NEEDS))
async def test_what_is_not_granted_is_not_linked_and_the_error_names_the_grant(name: str) -> None:
    others = frozenset(Grant) - {NEEDS[name]}
    with pytest.raises(InvalidWasm, match="not granted") as caught:
        await House().load(guest(imports=[name]), others)
    assert f"caxton.{name}" in caught.value.why
    assert NEEDS[name].value in caught.value.fix
    assert await ask(await House().load(guest(imports=[name]), [NEEDS[name]])) == 1


async def test_a_guest_without_grants_replies_and_logs() -> None:
    free = sorted(set(IMPORTS) - set(NEEDS))
    assert free == ["console_error", "console_log", "send_message", "subscribe_messages", "take_answer"]
    assert await answers(guest(imports=free), grants=()) == [1]


# State


async def test_values_outlive_the_instance_and_the_agent() -> None:
    house = House()
    source = guest(answer(GET) + f"(drop {PUT})", imports=STATE, data=KEY)
    agent = await house.load(source, fresh=True)
    assert [await ask(agent), await ask(agent)] == [-1, 5]
    await agent.aclose()
    assert await ask(await house.load(source)) == 5
    assert await ask(await house.load(source, agent="another")) == -1


async def test_a_value_is_handed_back_as_it_was_and_gone_when_it_is_deleted() -> None:
    shown = answer(GET) + "(call $console_log (i32.const 3000) (i32.const 5))"
    house = House()
    agent = await house.load(guest(f"(drop {PUT})" + shown, imports=(*STATE, "console_log"), data=KEY))
    assert await ask(agent) == 5
    assert "value" in house.lines()
    source = guest(f"(drop {PUT}) (drop {DROP})" + answer(f"(i32.add {DROP} {GET})"), imports=STATE, data=KEY)
    assert await answers(source) == [-2]


async def test_what_a_failed_message_stored_never_happened() -> None:
    body = f"""(if (i32.gt_u (local.get $length) (i32.const 1000)) (then (drop {PUT}) (unreachable)))
      {answer(GET)}"""
    source = guest(body, imports=STATE, data=KEY)
    failed, after = await answers(source, "x" * 1000, None)
    assert failed[0] == "trap"
    assert after == -1


async def test_no_answer_leaves_before_its_values_are_stored() -> None:
    store = MemoryStore()
    house = House(store=store)
    agent = await house.load(guest(answer(GET) + f"(drop {PUT})", imports=STATE, data=KEY))
    store.fails = True
    with pytest.raises(StorageFailed):
        await agent.handle(delivery(None))
    store.fails = False
    assert await ask(agent) == -1


async def test_a_room_that_is_too_small_is_told_the_length_and_left_alone() -> None:
    small = "(call $load_data (i32.const 2000) (i32.const 3) (i32.const 3000) (i32.const 4))"
    body = f"""(drop {PUT}) (i32.store8 (i32.const 3000) (i32.const 9))
      {answer(f"(i32.add (i32.mul {small} (i32.const 10)) (i32.load8_u (i32.const 3000)))")}"""
    assert await answers(guest(body, imports=STATE, data=KEY)) == [59]


async def test_state_is_bounded_in_keys_in_bytes_and_in_each_value() -> None:
    # as many keys as there may be take two messages, since one may make a thousand calls only
    body = """(local $n i32) (local $status i32)
      (local.set $n (i32.load (i32.const 2200)))
      (block $full (loop $next
        (i32.store (i32.const 2000) (local.get $n))
        (local.set $status (call $store_data (i32.const 2000) (i32.const 4) (i32.const 0) (i32.const 1)))
        (br_if $full (local.get $status))
        (local.set $n (i32.add (local.get $n) (i32.const 1)))
        (br_if $next (i32.rem_u (local.get $n) (i32.const 600)))))
      (i32.store (i32.const 2200) (local.get $n))
      (call $answer (select (local.get $status) (local.get $n) (local.get $status)))"""
    agent = await House().load(guest(body, imports=STATE))
    assert [await ask(agent), await ask(agent)] == [600, -2]
    assert agent.statistics()["state"]["keys"] == KEYS_LIMIT
    each = STATE_LIMIT_BYTES // VALUE_LIMIT_BYTES
    filling = f"""(local $n i32) (local $status i32)
      (block $full (loop $next
        (i32.store8 (i32.const 2000) (local.get $n))
        (local.set $status
          (call $store_data (i32.const 2000) (i32.const 1) (i32.const 0) (i32.const {VALUE_LIMIT_BYTES})))
        (br_if $full (local.get $status))
        (local.set $n (i32.add (local.get $n) (i32.const 1)))
        (br $next)))
      (call $answer (i32.add (i32.mul (local.get $n) (i32.const 10)) (local.get $status)))"""
    assert await answers(guest(filling, imports=STATE)) == [(each - 1) * 10 - 2]
    large = (
        f"(call $store_data (i32.const 2000) (i32.const 3) (i32.const 0) (i32.const {VALUE_LIMIT_BYTES + 1}))"
    )
    [(limit, _)] = await answers(guest(answer(large), imports=STATE))
    assert limit == "output_size"
    none = "(call $store_data (i32.const 2000) (i32.const 0) (i32.const 0) (i32.const 1))"
    assert await answers(guest(answer(none), imports=STATE)) == [-3]


# Clock and chance


async def test_a_sleep_moves_the_guests_clock_and_delays_its_answer(autojump_clock: object) -> None:
    body = """(local $before i64)
      (local.set $before (call $current_timestamp))
      (call $sleep_micros (i64.const 250000))
      (call $answer (i32.wrap_i64 (i64.sub (call $current_timestamp) (local.get $before))))"""
    house = House()
    agent = await house.load(guest(body, imports=("current_timestamp", "sleep_micros")))
    before = house.environment.clock.now()
    assert await ask(agent) == 250_000
    assert house.environment.clock.now() - before == pytest.approx(0.25)


@pytest.mark.parametrize(("micros", "limit"), [(1_000_001, "wall_clock"), (2**62, "wall_clock")])
async def test_a_guest_cannot_sleep_beyond_its_time(micros: int, limit: str) -> None:
    [(found, _)] = await answers(
        guest(f"(call $sleep_micros (i64.const {micros}))", imports=("sleep_micros",))
    )
    assert found == limit


async def test_a_sleep_of_less_than_nothing_is_none() -> None:
    body = "(call $sleep_micros (i64.const -5)) (call $answer (i32.const 3))"
    assert await answers(guest(body, imports=("sleep_micros",))) == [3]


# Messages

OTHERS = ("send_local_message", "broadcast_message")


def sending(way: str, text: str) -> bytes:
    return guest(
        f"(drop (call ${way} (i32.const 2000) (i32.const {len(text)})))", imports=OTHERS, data={2000: text}
    )


@pytest.mark.parametrize(
    ("way", "text", "address"),
    [
        ("send_message", '"receiver":"a@n2"', ("a@n2", None, None)),
        ("send_message", '"capability":"sums"', (None, "sums", None)),
        ("send_message", '"topic":"orders.eu"', (None, None, "orders.eu")),
        ("send_local_message", '"receiver":"a"', ("a@node-1", None, None)),
        ("broadcast_message", '"capability":"sums"', (None, "sums", None)),
    ],
)
async def test_messages_to_others_go_where_they_are_addressed(
    way: str, text: str, address: tuple[str | None, ...]
) -> None:
    agent = await House().load(sending(way, f'{{"performative":"inform",{text}}}'))
    [draft] = await agent.handle(delivery(None))
    assert draft.performative is Performative.INFORM
    assert (draft.receiver, draft.capability, draft.topic) == address
    assert (draft.routing_strategy is RoutingStrategy.BROADCAST) == (way == "broadcast_message")


@pytest.mark.parametrize(
    ("way", "text", "limit"),
    [
        ("send_local_message", '{"performative":"inform","receiver":"a@n2"}', "message"),
        ("send_local_message", '{"performative":"inform"}', "message"),
        ("broadcast_message", '{"performative":"inform","receiver":"a"}', "message"),
        ("broadcast_message", '{"performative":"inform"}', "message"),
        ("send_message", '{"performative":"inform","receiver":"a","capability":"b"}', "message"),
        ("send_message", '{"performative":"inform","conversation_id":"another"}', "message"),
        ("send_message", '{"performative":"inform","in_reply_to":"another"}', "message"),
    ],
)
async def test_a_message_that_goes_nowhere_or_elsewhere_is_refused(way: str, text: str, limit: str) -> None:
    [(found, _)] = await answers(sending(way, text))
    assert found == limit


async def test_messages_to_others_need_their_grant_and_replies_none() -> None:
    text = '{"performative":"inform","receiver":"a"}'
    source = guest(f"(drop (call $send_message (i32.const 2000) (i32.const {len(text)})))", data={2000: text})
    [(limit, reason)] = await answers(source, grants=())
    assert (limit, "messages" in reason) == ("grants", True)


async def test_messages_to_others_are_limited_in_rate_and_replies_are_not(autojump_clock: object) -> None:
    text = '{"performative":"inform","receiver":"a"}'
    house = House()
    agent = await house.load(sending("send_message", text), messages_per_s=2, quarantine_after=50)
    found = [(await agent.handle(delivery(None)))[0].performative for _ in range(3)]
    assert found == [Performative.INFORM, Performative.INFORM, Performative.FAILURE]
    await house.environment.clock.sleep(0.5)
    assert (await agent.handle(delivery(None)))[0].performative is Performative.INFORM
    replying = await house.load(guest(), messages_per_s=1)
    assert [await ask(replying) for _ in range(5)] == [1] * 5


async def test_a_subscription_is_what_the_agent_file_says() -> None:
    body = """(call $answer (i32.add
      (i32.mul (i32.const 10) (call $subscribe_messages (i32.const 2000) (i32.const 8)))
      (call $subscribe_messages (i32.const 2000) (i32.const 7))))"""
    source = guest(body, imports=("subscribe_messages",), data={2000: "orders.*"})
    assert await answers(source, topics=("orders.*",)) == [-3]


async def test_a_flood_of_log_lines_is_cut(autojump_clock: object) -> None:
    body = """(local $n i32)
      (loop $l (call $console_log (i32.const 2000) (i32.const 3))
        (local.set $n (i32.add (local.get $n) (i32.const 1)))
        (br_if $l (i32.lt_u (local.get $n) (i32.const 900))))
      (call $answer (i32.const 1))"""
    house = House()
    assert await ask(await house.load(guest(body, imports=("console_log",), data={2000: "abc"}))) == 1
    assert house.lines().count("abc") == CONSOLE_LIMIT


async def test_what_is_said_while_starting_is_in_the_log() -> None:
    house = House()
    source = guest(
        init="(call $console_log (i32.const 2000) (i32.const 3)) (i32.const 0)",
        imports=("console_log",),
        data={2000: "abc"},
    )
    await house.load(source)
    assert house.lines() == ["abc"]


# Timers

TIMER = "(call $set_timer (i32.const 7) (i64.const 2000000))"


def timed(on_timer: str, body: str = f"(call $answer {TIMER})", **more: str) -> bytes:
    return guest(
        body,
        imports=("set_timer", "cancel_timer", "console_log", "store_data"),
        data={
            2000: '{"performative":"inform","capability":"sums"}',
            2500: "tick",
            2600: '{"performative":"inform"}',
        },
        more=f"""(func (export "handle_timer") (param $timer i32) (result i32) {on_timer})""",
        **more,
    )


SEND = "(drop (call $send_message (i32.const 2000) (i32.const 45)))"


async def test_a_timer_is_called_once_when_it_is_due_and_may_send(
    autojump_clock: object, nursery: trio.Nursery
) -> None:
    house = House()
    agent = await house.load(timed(f"{SEND} (local.get $timer) (drop) (i32.const 0)"))
    nursery.start_soon(agent.run_timers)
    assert await ask(agent) == 0
    await house.environment.clock.sleep(1.9)
    assert house.bus.accepted == []
    await house.environment.clock.sleep(60)
    [message] = house.bus.accepted
    assert (message.sender, message.capability) == ("guest@node-1", "sums")
    await agent.aclose()


async def test_a_cancelled_timer_is_not_called_and_a_set_one_starts_anew(
    autojump_clock: object, nursery: trio.Nursery
) -> None:
    house = House()
    cancelling = f"""(call $answer (i32.add
      (i32.mul (i32.const 10) (call $cancel_timer (i32.const 8)))
      (i32.add {TIMER} (call $cancel_timer (i32.const 7)))))"""
    agent = await house.load(timed(f"{SEND} (i32.const 0)", cancelling))
    nursery.start_soon(agent.run_timers)
    assert await ask(agent) == -10
    await house.environment.clock.sleep(60)
    assert house.bus.accepted == []
    await agent.aclose()


async def test_a_timer_set_while_starting_is_called(autojump_clock: object, nursery: trio.Nursery) -> None:
    house = House()
    agent = await house.load(timed(f"{SEND} (i32.const 0)", init=TIMER))
    nursery.start_soon(agent.run_timers)
    await house.environment.clock.sleep(60)
    assert len(house.bus.accepted) == 1
    await agent.aclose()


async def test_a_timer_that_fails_or_replies_to_nobody_is_in_the_log(
    autojump_clock: object, nursery: trio.Nursery
) -> None:
    house = House()
    for broken in (
        "(unreachable)",
        "(drop (call $send_message (i32.const 2600) (i32.const 25))) (i32.const 0)",
    ):
        agent = await house.load(timed(broken))
        nursery.start_soon(agent.run_timers)
        await ask(agent)
        await house.environment.clock.sleep(5)
        await agent.aclose()
    first, second = house.lines("error")
    assert "timer 7: handle_timer: unreachable" in first
    assert "needs a receiver, a capability or a topic" in second
    assert house.bus.accepted == []


async def test_timers_are_bounded_in_number_and_delay() -> None:
    many = """(local $n i32) (local $status i32)
      (block $full (loop $next
        (local.set $status (call $set_timer (local.get $n) (i64.const 1000000)))
        (br_if $full (local.get $status))
        (local.set $n (i32.add (local.get $n) (i32.const 1)))
        (br $next)))
      (call $answer (i32.add (i32.mul (local.get $n) (i32.const 10)) (local.get $status)))"""
    agent = await House().load(timed("(i32.const 0)", many))
    assert [await ask(agent), await ask(agent)] == [TIMERS_LIMIT * 10 - 2] * 2
    for delay in (-1, 86_400_000_001):
        body = f"(call $answer (call $set_timer (i32.const 1) (i64.const {delay})))"
        assert await ask(await House().load(timed("(i32.const 0)", body))) == -3
