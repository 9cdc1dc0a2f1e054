"""A conversation is what its messages say; it ends by age, by silence, or because an operator says so."""

from __future__ import annotations

import pytest

from node.errors import ValidationFailed
from node.messaging import conversation_index
from node.messaging.conversation_index import ConversationClosed, Selection
from node.messaging.conversation_view import Limits
from node.messaging.delivery import Draft
from node.messaging.settings import Timing
from node.storage.conversations import Span
from node.vocabulary import Performative
from tests.node.messaging.rooms import cluster, echo, pause

DAY_S = 86_400.0
KEPT = {"conversation_ttl": 100.0, "conversation_lifetime": 250.0}
SOON = Timing(retention_every_s=1.0)


async def tell(node, conversation, **fields):
    """A message into a conversation that wants no answer."""
    message = node.message(
        **(
            {"conversation_id": conversation, "performative": Performative.INFORM, "receiver": "worker"}
            | fields
        )
    )
    await node.bus.accept(message)
    await pause(0.01)  # so that what comes later has a later time
    return message


async def ask(node, conversation, **fields):
    message = node.message(**({"conversation_id": conversation, "capability": "work"} | fields))
    await node.bus.request(message, timeout_s=10)
    return message


async def ids(node, *args, **options):
    """The ids on every page, and how many pages there were."""
    found, pages, before = [], 0, None
    while True:
        page = await node.bus.conversations.page(*args, before=before, **options)
        found += [each.conversation_id for each in page.conversations]
        pages, before = pages + 1, page.next
        if before is None:
            return found, pages


@pytest.mark.parametrize(
    ("span", "wall", "closure"),
    [
        (Span(0.0, 50.0, None), 149.9, None),
        (Span(0.0, 50.0, None), 150.0, "inactive"),
        (Span(0.0, 200.0, None), 249.9, None),
        (Span(0.0, 200.0, None), 250.0, "lifetime"),
        (Span(0.0, 0.0, None), 300.0, "lifetime"),
        (Span(0.0, 50.0, 60.0), 61.0, "archived"),
        (Span(50.0, 90.0, None), 10.0, None),  # the clock has gone back
    ],
)
def test_a_conversation_is_closed_by_its_age_its_silence_or_an_operator(span, wall, closure):
    limits = Limits(inactive_s=100.0, lifetime_s=250.0)
    assert limits.closure(span, wall) == closure
    if span.archived_s is None:
        until = limits.open_until(span)
        assert limits.closure(span, until) is not None
        assert limits.closure(span, until - 0.01) is None


async def test_a_conversation_shows_who_takes_part_since_when_and_what_answers_what(tmp_path, autojump_clock):
    async def both(delivery):
        return [Draft(Performative.INFORM, "one"), Draft(Performative.INFORM, "two")]

    async with cluster(tmp_path, "a", "b") as c:
        c["b"].attach("worker", both, "work")
        first = await ask(c["a"], "talk")
        await pause(5)
        second = await ask(c["a"], "talk", in_reply_to=None)
        await pause(1)
        shown = (await c["a"].bus.conversations.get("talk")).as_json()
        assert (shown["id"], shown["status"], shown["closed"]) == ("talk", "completed", None)
        assert shown["participants"] == ["client@a", "worker@b"]
        assert (shown["message_count"], shown["truncated"]) == (6, False)
        assert shown["created_at"] == first.as_json()["timestamp"]
        assert shown["created_at"] < shown["last_activity"]
        chain = [(each["answers"], each["depth"]) for each in shown["message_chain"]]
        assert chain == [(None, 0), (first.id, 1), (first.id, 1), (None, 0), (second.id, 1), (second.id, 1)]
        assert {each["message_id"] for each in shown["messages"]} == {
            each["message_id"] for each in shown["message_chain"]
        }


async def test_an_agent_reads_what_was_said_before_in_order_also_after_a_restart(tmp_path, autojump_clock):
    seen = []

    async def worker(delivery):
        said = await c["b"].bus.said("talk", 4)
        seen.append([message.content for message in said])
        return [Draft(Performative.INFORM, f"re {delivery.message.content}")]

    async with cluster(tmp_path, "a", "b") as c:
        c["b"].attach("worker", worker, "work")
        for content in ("one", "two"):
            await ask(c["a"], "talk", content=content)
        await ask(c["a"], "other", content="elsewhere")
        await c.crash("b")
        await c.start("b")
        c["b"].attach("worker", worker, "work")
        await ask(c["a"], "talk", content="three")
    talk = ["one", "re one", "two", "re two", "three"]
    assert seen == [talk[:1], talk[:3], talk[:4], talk[1:]]


async def test_a_chain_of_answers_that_quotes_itself_is_shown_all_the_same(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a") as c:
        c["a"].attach("worker", quiet, "work")
        sent = [
            await tell(c["a"], "talk", reply_with="x", in_reply_to="y"),
            await tell(c["a"], "talk", reply_with="y", in_reply_to="x"),
            await tell(c["a"], "talk", reply_with="z", in_reply_to="z"),
            await tell(c["a"], "talk"),
        ]
        shown = (await c["a"].bus.conversations.get("talk")).chain()
        assert [each["message_id"] for each in shown] == [sent[n].id for n in (3, 0, 1, 2)]
        assert [each["depth"] for each in shown] == [0, 0, 1, 0]


async def test_it_is_active_while_something_is_under_way_or_awaited(tmp_path, autojump_clock):
    async def status():
        return (await c["a"].bus.conversations.get("talk")).status

    async with cluster(tmp_path, "a") as c:
        c["a"].attach("worker", quiet, "work")
        await tell(c["a"], "talk", receiver="nobody@elsewhere")
        assert await status() == "active"
    async with cluster(tmp_path / "2", "a") as c:
        c["a"].attach("worker", quiet, "work")
        await tell(c["a"], "talk")
        await pause(1)
        assert await status() == "completed"
        by = c["a"].environment.clock.wall() + 20
        await tell(c["a"], "talk", performative=Performative.REQUEST, reply_by_s=by)
        await pause(1)
        assert await status() == "active"  # it was handled, but not answered
        await pause(30)
        assert await status() == "completed"  # nobody wants the answer any more


async def test_an_unknown_conversation_is_empty(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a") as c:
        shown = (await c["a"].bus.conversations.get("unknown")).as_json()
        assert (shown["message_count"], shown["created_at"], shown["status"]) == (0, None, "completed")


async def test_pages_show_every_conversation_once_the_latest_first(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b") as c:
        c["b"].attach("worker", echo("w"), "work")
        for number in range(7):
            await ask(c["a"], f"c{number}")
            await pause(1)
        await ask(c["a"], "c2")
        latest_first = ["c2", "c6", "c5", "c4", "c3", "c1", "c0"]
        for node in (c["a"], c["b"]):
            for limit in (1, 2, 3, 7, 50):
                found, pages = await ids(node, limit)
                assert found == latest_first, limit
                assert pages >= -(-7 // limit)


async def test_a_page_looks_at_a_bounded_number_of_messages(tmp_path, autojump_clock, monkeypatch):
    monkeypatch.setattr(conversation_index, "WALK_LIMIT", 3)
    async with cluster(tmp_path, "a") as c:
        c["a"].attach("worker", quiet, "work")
        await tell(c["a"], "rare", sender="rare@a")
        for number in range(9):
            await tell(c["a"], f"c{number}")
        await pause(1)
        first = await c["a"].bus.conversations.page(50, Selection(participant="rare"))
        assert (list(first.conversations), first.next is None) == ([], False)
        found, pages = await ids(c["a"], 50, Selection(participant="rare@a"))
        assert found == ["rare"]
        assert pages > 3


async def test_a_selection_leaves_others_out(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", settings=KEPT) as c:
        c["a"].attach("worker", quiet, "work")
        await tell(c["a"], "old")
        await pause(101)
        await tell(c["a"], "done", sender="me@a")
        await tell(c["a"], "open", receiver="nobody@elsewhere")
        await pause(1)
        wall = c["a"].environment.clock.wall()
        for selection, expected in (
            (Selection(), ["open", "done", "old"]),
            (Selection(status="active"), ["open"]),
            (Selection(status="completed"), ["done", "old"]),
            (Selection(closed=True), ["old"]),
            (Selection(closed=False), ["open", "done"]),
            (Selection(participant="me"), ["done"]),
            (Selection(participant="me@b"), []),
            (Selection(since_s=wall - 50), ["open", "done"]),
        ):
            assert (await ids(c["a"], 50, selection))[0] == expected, selection


@pytest.mark.parametrize("cursor", ["", "1", ".", "1.", "-1.2", "1.2.3", "a.b", "9" * 50 + ".1", "\u0661.1"])
async def test_a_place_that_is_none_is_refused(tmp_path, autojump_clock, cursor):
    async with cluster(tmp_path, "a") as c:
        with pytest.raises(ValidationFailed):
            await c["a"].bus.conversations.page(5, before=cursor)
        with pytest.raises(ValidationFailed):
            await c["a"].bus.conversations.archive(older_than_s=1, after=cursor)


async def test_a_silent_conversation_takes_no_messages_and_one_that_goes_on_does_until_it_is_too_old(
    tmp_path, autojump_clock
):
    async with cluster(tmp_path, "a", settings=KEPT) as c:
        c["a"].attach("worker", quiet, "work")
        await tell(c["a"], "silent")
        for _ in range(3):
            await tell(c["a"], "lively")
            await pause(80)
        with pytest.raises(ConversationClosed) as caught:
            await tell(c["a"], "silent")
        assert caught.value.details["closed"] == "inactive"
        await tell(c["a"], "lively")
        await pause(20)
        with pytest.raises(ConversationClosed) as caught:
            await tell(c["a"], "lively")
        assert caught.value.details["closed"] == "lifetime"
        assert c["a"].bus.statistics()["conversations"]["refused"] == 2


async def test_what_a_peer_says_keeps_a_conversation_open(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b", settings=KEPT) as c:
        c["a"].attach("worker", quiet, "work")
        await tell(c["a"], "talk")
        await pause(70)
        await tell(c["b"], "talk", receiver="worker@a")
        await pause(70)
        await tell(c["a"], "talk")


async def test_one_refused_message_of_a_batch_keeps_no_other_from_being_accepted(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", settings=KEPT) as c:
        c["a"].attach("worker", quiet, "work")
        await tell(c["a"], "old")
        await pause(150)
        several = [c["a"].message(conversation_id=to, receiver="worker") for to in ("old", "new", "old")]
        found = await c["a"].bus.accept_many(several)
        assert [isinstance(each, ConversationClosed) for each in found] == [True, False, True]


async def test_what_was_accepted_before_is_answered_in_a_closed_conversation(tmp_path, autojump_clock):
    async def slow(delivery):
        await pause(50)
        return [Draft(Performative.INFORM, "done")]

    async with cluster(tmp_path, "a", "b") as c:
        c["b"].attach("worker", slow, "work")
        message = c["a"].message(conversation_id="talk", capability="work")
        await c["a"].bus.accept(message)
        await pause(1)
        for node in c.nodes.values():
            assert (await node.bus.conversations.archive_these(["talk"])).conversations == ["talk"]
        await pause(60)
        shown = (await c["a"].bus.conversations.get("talk")).as_json()
        assert (shown["message_count"], shown["status"], shown["closed"]) == (2, "completed", "archived")


async def test_an_archived_conversation_stays_closed_across_a_restart(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a") as c:
        c["a"].attach("worker", quiet, "work")
        await tell(c["a"], "talk")
        await tell(c["a"], "talk")  # it is known to be open now
        found = await c["a"].bus.conversations.archive_these(["talk", "unknown", "talk"])
        assert found.conversations == ["talk"]
        with pytest.raises(ConversationClosed, match="archived"):
            await tell(c["a"], "talk")
        await c.crash("a")
        await c.start("a")
        with pytest.raises(ConversationClosed, match="archived"):
            await tell(c["a"], "talk")
        assert (await c["a"].bus.conversations.archive_these(["talk"])).conversations == []


async def test_silent_conversations_are_archived_in_bounded_steps(tmp_path, autojump_clock, monkeypatch):
    monkeypatch.setattr(conversation_index, "ARCHIVE_LIMIT", 2)
    monkeypatch.setattr(conversation_index, "WALK_LIMIT", 5)
    async with cluster(tmp_path, "a") as c:
        c["a"].attach("worker", quiet, "work")
        await tell(c["a"], "waits", receiver="nobody@elsewhere")
        for number in range(5):
            await tell(c["a"], f"c{number}")
        await pause(100)
        await tell(c["a"], "c1")
        done, after, calls = [], None, 0
        while True:
            found = await c["a"].bus.conversations.archive(older_than_s=50, status="completed", after=after)
            done += found.conversations
            assert len(found.conversations) <= 2
            after, calls = found.next, calls + 1
            if after is None:
                break
        assert done == ["c0", "c2", "c3", "c4"]
        assert calls > 2
        assert (await ids(c["a"], 50, Selection(closed=True)))[0] == ["c4", "c3", "c2", "c0"]


async def test_how_old_a_conversation_is_outlives_its_messages(tmp_path, autojump_clock):
    hour_s = 1_200.0  # short ones: a room looks around four times a second
    settings = {"conversation_ttl": 3 * hour_s, "conversation_lifetime": 7 * hour_s, "retention": hour_s}
    async with cluster(tmp_path, "a", settings=settings, timing=Timing(retention_every_s=50.0)) as c:
        c["a"].attach("worker", quiet, "work")
        await tell(c["a"], "silent")
        for hour in (0, 2, 4, 6):
            await tell(c["a"], "lively")
            if hour == 4:
                with pytest.raises(ConversationClosed, match="conversation_ttl"):
                    await tell(c["a"], "silent")
            await pause(2 * hour_s)
        assert (await c["a"].bus.conversations.get("lively")).said == []
        shown = (await c["a"].bus.conversations.get("lively")).as_json()
        assert (shown["closed"], shown["message_count"]) == ("lifetime", 0)
        with pytest.raises(ConversationClosed, match="conversation_lifetime"):
            await tell(c["a"], "lively")
        await pause(20 * hour_s)
        await tell(c["a"], "lively")  # nobody remembers it: it begins again


async def test_under_a_load_that_fills_the_history_no_conversation_is_noted(
    tmp_path, autojump_clock, monkeypatch
):
    monkeypatch.setattr("node.messaging.retention.KEEP_ROWS", 2)
    async with cluster(tmp_path, "a", timing=SOON) as c:
        c["a"].attach("worker", quiet, "work")
        for number in range(9):
            await tell(c["a"], f"c{number}")
        await pause(10)
        count = await c["a"].storage.read(
            lambda connection: connection.execute("SELECT count(*) FROM conversations").fetchall()
        )
        assert count == [(0,)]


@pytest.mark.parametrize("at", ["a", "b"])
async def test_branches_and_mergers_are_known_at_both_ends(tmp_path, autojump_clock, at):
    async with cluster(tmp_path, "a", "b") as c:
        c["b"].attach("worker", quiet, "work")
        await tell(c["a"], "main")
        await tell(c["a"], "side", parent_conversation="main")
        await tell(c["a"], "side", parent_conversation="main")  # said twice, known once
        await tell(c["a"], "end", merge_conversations=("main", "side"))
        await pause(1)
        shown = {
            name: (await c[at].bus.conversations.get(name)).as_json() for name in ("main", "side", "end")
        }
        assert (shown["main"]["branches"], shown["main"]["merged_into"]) == (["side"], ["end"])
        assert shown["main"]["parent_conversation"] is None
        assert (shown["side"]["parent_conversation"], shown["side"]["merged_into"]) == ("main", ["end"])
        assert shown["end"]["merge_conversations"] == ["main", "side"]
        assert shown["side"]["messages"][0]["parent_conversation"] == "main"


async def quiet(delivery):
    return []
