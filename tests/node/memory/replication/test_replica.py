"""What is believed of what a peer tells, and what a crash, an old file or a long absence leave."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import apsw
import msgspec
import pytest

from node.errors import MemoryLimitExceeded
from node.memory.model import EntityDraft, ObservationDraft, Period, Realm, RelationDraft, Scope, Timing
from node.memory.records import Limits, MemorySettings
from node.memory.replication import operations as said
from node.memory.replication import oplog
from node.memory.replication.oplog import OperationLogs
from node.memory.replication.replica import AWAY_S, PageRefused, Stalled, statement
from node.memory.replication.wire import (
    BodyInvalid,
    Heading,
    Page,
    Request,
    Stretch,
    decode_page,
    decode_request,
    encode,
)
from node.memory.scopes import OPERATOR, for_agent
from node.transport.frames import MAX_PAGE_BYTES
from swim.hlc import MAX_SKEW_S, stamp_at
from tests.node.memory.replication.peers import NOW_S, Peer, Peers
from tests.node.memory.stand_in import WordEmbedder

GLOBAL = Realm(Scope.GLOBAL)
TEA = said.Named(2, "", "tea", "drink")


@pytest.fixture
def peers(tmp_path):
    with Peers(tmp_path, "n1", "n2", "n3") as made:
        yield made


async def say(peer: Peer, entity: str, *texts: str, realm: Realm = GLOBAL) -> list[str]:
    drafts = tuple(ObservationDraft(text) for text in texts)
    [stored] = await peer.store.remember(OPERATOR, realm, [EntityDraft(entity, "drink", drafts)])
    return list(stored.observation_ids)


async def texts(peer: Peer, entity: str = "tea") -> list[str]:
    return sorted(each.text for each in (await peer.store.get(OPERATOR, entity)).observations)


def observation(stamp: int = stamp_at(NOW_S), **changes: Any) -> said.SayObservation:
    made = said.SayObservation(stamp, bytes(16), TEA, "is green", 1.0, NOW_S, None, None, None, said.Told())
    return msgspec.structs.replace(made, **changes)


def told(liar: Peer, *operations: said.Operation | bytes, name: str | None = None, **changes: Any) -> Page:
    """A page with a stretch that ``liar`` signs as well as it can."""
    bodies = [each if isinstance(each, bytes) else said.encode(each) for each in operations]
    hashes = b"".join(said.body_hash(body) for body in bodies)
    node, log, first = name or liar.name, b"log-of-n", changes.pop("first", 1)
    signed_ms = changes.pop("signed_ms", int(NOW_S * 1000))
    identity = liar.credentials.identity
    signature = identity.sign(statement(node, log, first, signed_ms, hashes))
    numbered = tuple((first + place, body) for place, body in enumerate(bodies))
    stretch = Stretch(node, log, first, signed_ms, identity.credential, signature, hashes, numbered)
    stretch = msgspec.structs.replace(stretch, **changes)
    return Page((Heading(node, log, stretch.last, bytes(16)),), (stretch,))


# ---- what is told and taken ---------------------------------------------------------------------------


async def test_what_a_dead_node_said_is_heard_from_another(peers):
    await say(peers["n1"], "tea", "is green")
    await peers["n2"].pull(peers["n1"])
    peers["n1"].storage.close()
    await peers["n3"].pull(peers["n2"])
    assert await texts(peers["n3"]) == ["is green"]
    [only] = (await peers["n3"].store.get(OPERATOR, "tea")).observations
    assert only.source.node == "n1"


async def test_nothing_of_an_agents_own_is_told(peers):
    ada = for_agent("ada", ["lab"])
    for realm in (Realm(Scope.AGENT, "ada"), Realm(Scope.WORKSPACE, "lab")):
        await peers["n1"].store.remember(ada, realm, [EntityDraft("tea", "drink", (ObservationDraft("x"),))])
    page = await peers["n2"].page_from(peers["n1"])
    told_ = [said.decode(body, "n1")[0] for stretch in page.stretches for _, body in stretch.operations]
    assert {each.entity.realm for each in told_} == {Realm(Scope.WORKSPACE, "lab")}


async def test_vectors_travel_and_a_node_of_another_space_finds_by_words(peers):
    other = peers.add("n4", embedder=WordEmbedder("other", 128))
    await say(peers["n1"], "tea", "is green")
    await peers["n2"].pull(peers["n1"])
    await other.pull(peers["n1"])
    assert (await peers["n2"].store.get(OPERATOR, "tea")).observations[0].embedded
    assert not (await other.store.get(OPERATOR, "tea")).observations[0].embedded
    assert await other.digest() == await peers["n1"].digest()


async def test_vectors_are_indexed_once_they_have_come_whatever_became_of_them_meanwhile(peers):
    ids = await say(peers["n1"], "tea", *(f"fact {number}" for number in range(6)))
    here = peers["n2"]
    await here.pull(peers["n1"])
    await here.store.forget_observation(OPERATOR, ids[0])
    await here.store.supersede(OPERATOR, ids[1], ObservationDraft("is another"))

    async def indexed() -> dict[int, int]:
        return dict(
            await here.storage.read(lambda c: c.execute("SELECT key, realm FROM vectors_1").fetchall())
        )

    assert len(await indexed()) == 1  # what was said here
    assert not await here.shared.index_vectors()
    assert sorted(await indexed()) == await here.storage.read(
        lambda c: [key for (key,) in c.execute("SELECT key FROM observations ORDER BY key")]
    )
    assert [realm < 0 for realm in (await indexed()).values()].count(True) == 1
    await here.store.forget_observation(OPERATOR, ids[2])
    await here.store.supersede(OPERATOR, ids[3], ObservationDraft("is a third"))
    assert len(await indexed()) == 6
    await here.store.forget(OPERATOR, "tea")
    assert await indexed() == {}


async def test_a_forgotten_text_is_nowhere_and_not_in_the_logs(peers):
    [first, _] = await say(peers["n1"], "tea", "is bitter", "is green")
    await peers.converge()
    await peers["n2"].store.forget_observation(OPERATOR, first)
    await peers.converge()
    for peer in peers.peers.values():
        assert await texts(peer) == ["is green"]
        held = await peer.storage.read(lambda c: c.execute("SELECT body FROM operations").fetchall())
        assert not any(b"is bitter" in body for (body,) in held)


async def test_a_correction_at_the_same_time_does_not_bring_back_what_was_forgotten(peers):
    [first] = await say(peers["n1"], "tea", "is bitter")
    await peers.converge()
    peers["n2"].clock.wall_s += 1
    await peers["n1"].store.forget_observation(OPERATOR, first)
    await peers["n2"].store.supersede(OPERATOR, first, ObservationDraft("is sweet"))
    await peers.converge()
    for peer in peers.peers.values():
        found = await peer.store.get(OPERATOR, "tea", period=Period(Timing.ALL))
        assert [each.text for each in found.observations] == ["is sweet"]


async def test_what_is_added_after_an_entity_was_forgotten_is_there(peers):
    await say(peers["n1"], "tea", "is bitter")
    await peers.converge()
    await peers["n1"].store.forget(OPERATOR, "tea")
    peers["n2"].clock.wall_s += 1
    await say(peers["n2"], "tea", "is sweet")
    await peers.converge()
    assert [await texts(peer) for peer in peers.peers.values()] == [["is sweet"]] * 3
    assert len({await peer.digest() for peer in peers.peers.values()}) == 1


async def test_relations_told_otherwise_at_once_both_hold_until_the_next_telling(peers):
    for entity in ("tea", "pot"):
        await say(peers["n1"], entity)
    await peers.converge()
    for name, strength in (("n1", 0.2), ("n2", 0.8)):
        await peers[name].store.relate(OPERATOR, GLOBAL, [RelationDraft("tea", "pot", "in", strength)])
    await peers.converge()
    held = (await peers["n3"].store.get(OPERATOR, "tea")).relations
    assert [each.strength for each in held] == [0.8, 0.2]
    await peers["n3"].store.relate(OPERATOR, GLOBAL, [RelationDraft("tea", "pot", "in", 0.5)])
    await peers.converge()
    for peer in peers.peers.values():
        peer.clock.wall_s += 1
        assert [each.strength for each in (await peer.store.get(OPERATOR, "tea")).relations] == [0.5]


# ---- peers that lie -----------------------------------------------------------------------------------


async def test_a_member_cannot_say_anything_in_anothers_name(peers):
    with pytest.raises(PageRefused, match="not signed"):
        await peers["n1"].shared.take(told(peers["n2"], observation(), name="n3"))


async def test_a_member_cannot_change_what_another_said(peers):
    await say(peers["n1"], "tea", "is green")
    page = await peers["n3"].page_from(peers["n1"])
    [stretch] = page.stretches
    [first, (seq, body)] = stretch.operations
    changed = msgspec.structs.replace(stretch, operations=(first, (seq, body.replace(b"green", b"black"))))
    with pytest.raises(PageRefused, match="altered"):
        await peers["n3"].shared.take(msgspec.structs.replace(page, stretches=(changed,)))
    moved = msgspec.structs.replace(stretch, first=stretch.first + 1)
    with pytest.raises(PageRefused, match="not signed"):
        await peers["n3"].shared.take(msgspec.structs.replace(page, stretches=(moved,)))
    outside = msgspec.structs.replace(stretch, operations=((stretch.last + 1, body),))
    with pytest.raises(PageRefused, match="altered"):
        await peers["n3"].shared.take(msgspec.structs.replace(page, stretches=(outside,)))
    assert await peers["n3"].shared.heads() == []


async def test_a_member_cannot_take_the_id_of_what_another_said(peers):
    [theirs] = await say(peers["n1"], "tea", "is green")
    await peers["n2"].pull(peers["n1"])
    [held] = await peers["n2"].storage.read(
        lambda c: c.execute("SELECT body FROM operations WHERE kind = 2").fetchall()
    )
    copied = said.decode(held[0], "n1")[0]
    copied = msgspec.structs.replace(copied, text="is poison", stamp=copied.stamp + 5)
    await peers["n2"].shared.take(told(peers["n3"], copied))
    assert await texts(peers["n2"]) == ["is green", "is poison"]
    by_id = {each.id: each for each in (await peers["n2"].store.get(OPERATOR, "tea")).observations}
    assert by_id[theirs].text == "is green"
    assert [each.source.node for each in by_id.values() if each.text == "is poison"] == ["n3"]


async def test_who_is_not_of_the_cluster_is_not_believed(peers, tmp_path):
    with Peers(tmp_path / "elsewhere", "n9", seed=2) as strangers:
        page = told(strangers["n9"], observation())
    with pytest.raises(PageRefused, match="not signed"):
        await peers["n1"].shared.take(page)


@pytest.mark.parametrize(
    "bad",
    [
        b"\xc1",
        observation(confidence=float("nan")),
        observation(confidence=float("inf")),
        observation(created_s=float("nan")),
        observation(metadata='{"a": NaN}'),
        observation(metadata='{"a":1} '),
        observation(entity=said.Named(2, "", " tea", "drink")),
        observation(entity=said.Named(2, "owner", "tea", "drink")),
        observation(entity=said.Named(1, "", "tea", "drink")),
        observation(text=" "),
        observation(text="a\0b"),
        said.EndObservation(stamp_at(NOW_S), bytes(16), stamp_at(NOW_S), bytes(16), NOW_S, bytes(16)),
        msgspec.msgpack.encode([2, 1, bytes(16), [0, "ada", "tea", "drink"], "x", 1.0, 0.0]),
        msgspec.msgpack.encode([99, 1, bytes(16)]),
    ],
)
async def test_what_may_not_be_stored_is_counted_and_left_out_and_the_rest_is_taken(peers, bad):
    page = told(peers["n3"], bad, observation(nonce=bytes([7]) * 16, text="is fine"))
    taken = await peers["n1"].shared.take(page)
    assert (taken.refused, taken.kept) == (1, 1)
    assert await texts(peers["n1"]) == ["is fine"]
    assert (await peers["n2"].page_from(peers["n1"], have=())).stretches
    assert (await peers["n1"].shared.take(page)).kept == 0


async def test_a_page_is_taken_with_a_rest_before_each_stretch_and_operation(peers):
    alpha, beta = peers["n1"], peers["n2"]
    await say(alpha, "tea", "is green", "is grown in uji", "is steeped")
    made = []

    def rests() -> Callable[[], None]:
        made.append(0)

        def rest() -> None:
            made[-1] += 1

        return rest

    beta.replica._rests = rests
    taken = await beta.shared.take(await beta.page_from(alpha))
    assert taken.kept == 4
    assert made == [5]


@pytest.mark.parametrize("size", [0, 1, 383, 385, 4096])
async def test_a_vector_of_another_length_than_its_model_has_is_left_out(peers, size):
    digest = WordEmbedder().model.digest
    page = told(peers["n3"], observation(space=digest, vector=bytes(size)))
    taken = await peers["n1"].shared.take(page)
    assert (taken.kept, taken.vectors_refused) == (1, 1)
    [only] = (await peers["n1"].store.get(OPERATOR, "tea")).observations
    assert not only.embedded


async def test_an_operation_from_the_future_waits_and_poisons_no_clock(peers):
    stamp = stamp_at(NOW_S + MAX_SKEW_S + 1)
    page = told(peers["n3"], observation(stamp))
    with pytest.raises(Stalled, match="clock") as refusal:
        await peers["n1"].shared.take(page)
    assert refusal.value.log == ("n3", b"log-of-n")
    await say(peers["n1"], "pot", "is round")
    [body] = await peers["n1"].storage.read(
        lambda c: c.execute("SELECT body FROM operations WHERE kind = 2").fetchone()
    )
    assert said.decode(body, "n1")[0].stamp < stamp_at(NOW_S + 1)
    peers["n1"].clock.wall_s += 2
    assert (await peers["n1"].shared.take(page)).kept == 1


async def test_what_was_signed_in_the_future_waits_too(peers):
    page = told(peers["n3"], observation(), signed_ms=int((NOW_S + MAX_SKEW_S + 1) * 1000))
    with pytest.raises(Stalled, match="clock"):
        await peers["n1"].shared.take(page)


async def test_a_page_that_comes_again_changes_nothing(peers):
    page = told(peers["n3"], observation(), observation(nonce=bytes([1]) * 16, text="is hot"))
    await peers["n1"].shared.take(page)
    before, heads = await peers["n1"].digest(), await peers["n1"].shared.heads()
    again = await peers["n1"].shared.take(page)
    assert (again.kept, await peers["n1"].digest(), list(again.heads)) == (0, before, heads)


async def test_a_node_that_says_two_things_under_one_number_is_the_same_everywhere(peers):
    one, other = (told(peers["n3"], observation(text=text)) for text in ("is green", "is black"))
    for name, pages in (("n1", (one, other)), ("n2", (other, one))):
        for page in pages:
            await peers[name].shared.take(page)
    assert await peers["n1"].digest() == await peers["n2"].digest()
    assert await peers["n1"].shared.heads() == await peers["n2"].shared.heads()
    assert len(await texts(peers["n1"])) == 1


async def test_of_two_things_under_one_id_in_one_stretch_the_later_holds(peers):
    page = told(peers["n3"], observation(), observation(stamp_at(NOW_S) + 1, text="is black"))
    await peers["n1"].shared.take(page)
    assert await texts(peers["n1"]) == ["is black"]


async def test_an_end_before_what_holds_instead_in_one_stretch_names_its_successor(peers):
    stamp, nonces = stamp_at(NOW_S), (bytes([1]) * 16, bytes([2]) * 16)
    old, new = (said.element_id("n3", nonce) for nonce in nonces)
    page = told(
        peers["n3"],
        observation(stamp, nonce=nonces[0]),
        said.EndObservation(stamp + 2, old, stamp, TEA.id, NOW_S, new),
        observation(stamp + 1, nonce=nonces[1], text="is black"),
    )
    await peers["n1"].shared.take(page)
    everything = Period(Timing.ALL)
    known = (await peers["n1"].store.get(OPERATOR, "tea", period=everything)).observations
    by_text = {each.text: each for each in known}
    assert by_text["is green"].superseded_by == by_text["is black"].id


async def test_a_log_for_which_there_is_no_room_waits_and_others_go_on(peers):
    full = peers.add("n4", settings=MemorySettings(Limits(entities=1)))
    await say(peers["n1"], "tea", "is green")
    await full.pull(peers["n1"])
    await say(peers["n2"], "pot", "is round")
    before = await full.digest()
    with pytest.raises(Stalled, match="room"):
        await full.pull(peers["n2"])
    assert (await full.digest(), len(await full.shared.heads())) == (before, 1)
    await say(peers["n1"], "tea", "is hot")
    await full.pull(peers["n1"])
    assert await texts(full) == ["is green", "is hot"]


async def test_a_node_cannot_fill_the_memory_of_others_beyond_its_share(peers, monkeypatch):
    monkeypatch.setattr(oplog, "NODE_OPERATIONS_LIMIT", 3)
    many = [observation(nonce=bytes([n]) * 16, text=f"fact {n}") for n in range(4)]
    with pytest.raises(Stalled, match="room"):
        await peers["n1"].shared.take(told(peers["n3"], *many))
    monkeypatch.setattr(oplog, "NODE_LOGS_LIMIT", 0)
    with pytest.raises(Stalled, match="room"):
        await peers["n1"].shared.take(told(peers["n3"], observation()))
    with pytest.raises(MemoryLimitExceeded):
        await say(peers["n1"], "tea", "is green")


@pytest.mark.parametrize("body", [b"", b"\x90", b"\xc1", b"\x92\x90\x90" * 5, bytes(1000)])
def test_what_is_no_page_is_refused(body):
    with pytest.raises(BodyInvalid):
        decode_page(body)
    with pytest.raises(BodyInvalid):
        decode_request(body)


async def test_pages_and_requests_come_back_as_they_were_sent(peers):
    await say(peers["n1"], "tea", "is green")
    page = await peers["n2"].page_from(peers["n1"])
    assert decode_page(encode(page)) == page
    request = Request((), wait=True)
    assert decode_request(encode(request)) == request


# ---- crashes, old files, long absences ---------------------------------------------------------------


async def test_a_page_is_taken_whole_or_not_at_all(peers, monkeypatch):
    await say(peers["n1"], "tea", "is green", "is hot")
    page = await peers["n2"].page_from(peers["n1"])
    flush = OperationLogs.flush

    def dies(self: OperationLogs) -> bool:
        flush(self)
        raise apsw.FullError("the disk is full")

    monkeypatch.setattr(OperationLogs, "flush", dies)
    with pytest.raises(Exception, match="could not be used"):
        await peers["n2"].shared.take(page)
    monkeypatch.undo()
    assert await peers["n2"].shared.heads() == []
    await peers["n2"].pull(peers["n1"])
    assert await peers["n2"].digest() == await peers["n1"].digest()


async def test_what_was_acknowledged_before_a_crash_is_told_after_it(peers):
    await say(peers["n1"], "tea", "is green")
    peers["n1"].storage.abandon()
    peers["n1"].open()
    await say(peers["n1"], "tea", "is hot")
    await peers["n2"].pull(peers["n1"])
    assert await texts(peers["n2"]) == ["is green", "is hot"]
    assert len(await peers["n2"].shared.heads()) == 1


async def test_what_a_process_was_forgetting_when_it_died_is_forgotten_after_its_start(peers, monkeypatch):
    peer = peers["n1"]
    await say(peer, "tea", *(f"fact {number}" for number in range(20)))
    await say(peer, "pot", "is round")
    await peers["n2"].pull(peer)
    change, steps = peer.store._change, 0

    async def dies(viewer: Any, stamp: Any, job: Any, **how: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps > 1:
            raise KeyboardInterrupt
        return await change(viewer, stamp, lambda writer: writer.forget_some(_of(writer, "tea"), 10), **how)

    monkeypatch.setattr(peer.store, "_change", dies)
    with pytest.raises(KeyboardInterrupt):
        await peer.store.forget(OPERATOR, "tea")
    peer.storage.abandon()
    peer.open()
    assert len(await texts(peer)) == 10
    await peer.shared.finish_forgetting()
    assert [entity.name for entity in await peer.store.entities(OPERATOR)] == ["pot"]
    await peers["n2"].pull(peer)
    assert await peers["n2"].digest() == await peer.digest()


def _of(writer: Any, name: str) -> list[int]:
    return [row[0] for row in writer.scoped.rows("SELECT key FROM {entities} WHERE name = ?", (name,))]


async def test_a_node_that_comes_back_with_an_older_file_loses_nothing_and_hides_nothing(peers, tmp_path):
    old = peers["n1"]
    await say(old, "tea", "is green")
    await old.shared.heads()
    old.storage.close()
    shutil.copy(old.path, tmp_path / "backup")
    old.open()
    await say(old, "tea", "is hot")
    await peers["n2"].pull(old)
    old.storage.close()
    for file in tmp_path.glob("n1.db*"):
        file.unlink()
    shutil.copy(tmp_path / "backup", old.path)
    old.open()
    await say(old, "tea", "is sweet")  # under a number that was used before
    [ours], [theirs] = await old.shared.heads(), await peers["n2"].shared.heads()
    assert (ours.seen, ours.digest == theirs.digest) == (theirs.seen, False)  # which begins a repair
    await old.repair(peers["n2"])
    await peers["n2"].repair(old)
    await say(old, "tea", "is warm")
    await peers.converge()
    for peer in peers.peers.values():
        assert await texts(peer) == ["is green", "is hot", "is sweet", "is warm"]
    assert len({await peer.digest() for peer in peers.peers.values()}) == 1
    assert [head.seen for head in await peers["n3"].shared.heads() if head.log != ours.log] == [1]


async def test_who_was_away_for_long_takes_the_memory_anew_and_keeps_its_own_word(peers):
    away, home = peers["n1"], peers["n2"]
    [bitter] = await say(away, "tea", "is bitter")
    await home.pull(away)
    await say(home, "pot", "is round")
    await away.pull(home)
    await away.shared.in_step(force=True)
    await say(away, "cup", "is small")
    assert not await away.shared.was_away()
    await home.store.forget_observation(OPERATOR, bitter)
    await home.store.forget(OPERATOR, "pot")
    for peer in (away, home):
        peer.clock.wall_s += AWAY_S + 2 * 86_400
    await home.shared.tidy()
    assert (await home.shared.statistics())["forgotten"] == 0
    assert await away.shared.was_away()
    page = await away.page_from(home)
    await away.shared.start_again(page.heads)
    held = [head._replace(seen=0) for head in await away.shared.heads()]
    await away.shared.take(await away.page_from(home, have=held))
    await home.pull(away)
    for peer in (away, home):
        known = {entity.name: entity async for entity in _entities(peer)}
        assert set(known) == {"tea", "cup"}
        assert await texts(peer) == []
    assert await away.digest() == await home.digest()


async def _entities(peer: Peer) -> Any:
    for entity in await peer.store.entities(OPERATOR):
        yield entity


async def test_forgettings_are_bounded_in_number_and_stretches_of_nothing_leave(peers, monkeypatch):
    monkeypatch.setattr(oplog, "FORGOTTEN_LIMIT", 2)
    peer = peers["n1"]
    for number in range(5):
        [id_] = await say(peer, "tea", f"fact {number}")
        await peer.shared.heads()
        await peer.store.forget_observation(OPERATOR, id_)
        await peer.shared.heads()
    await peer.shared.tidy()
    assert (await peer.shared.statistics())["forgotten"] == 2
    [(proofs,)] = await peer.storage.read(lambda c: c.execute("SELECT count(*) FROM proofs").fetchall())
    assert proofs == 3  # the one with the entity, and those of the forgettings that are kept
    await peers["n2"].pull(peer)
    assert await peers["n2"].shared.heads() == await peer.shared.heads()


async def test_what_a_liar_has_signed_is_passed_on_in_pages_that_a_link_carries_or_not_at_all(peers):
    """A page that no link carries would end the link of two honest nodes, again and again."""
    liar, relay = peers["n3"], peers["n2"]
    small = told(liar, observation(text="x" * 60_000), observation(nonce=bytes([1]) * 16, text="y" * 60_000))
    large = [observation(nonce=bytes([n]) * 16, text="z" * (MAX_PAGE_BYTES // 2 - 60_000)) for n in (2, 3)]
    [first], [second] = small.stretches, told(liar, *large, first=3).stretches
    taken = 0
    for stretch in (first, second):
        body = encode(Page(small.heads, (stretch,)))
        assert len(body) <= MAX_PAGE_BYTES
        try:
            taken += (await relay.shared.take(decode_page(body))).kept
        except BodyInvalid:
            continue
    assert len(encode(await peers["n1"].page_from(relay))) <= MAX_PAGE_BYTES
    assert taken == 2  # what is honest was taken
