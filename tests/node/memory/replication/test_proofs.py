"""Which signed stretches are kept, whatever a member signs: no more than operations hold, and logs are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import apsw
import msgspec
import pytest

from node.memory.model import EntityDraft, Realm, Scope
from node.memory.records import Limits
from node.memory.replication import operations as said
from node.memory.replication import oplog
from node.memory.replication.replica import Stalled, statement
from node.memory.replication.wire import (
    EVERYTHING,
    PAGE_BYTES,
    BodyInvalid,
    Page,
    Stretch,
    decode_page,
    encode,
)
from node.memory.scopes import OPERATOR
from node.transport.frames import MAX_PAGE_BYTES
from swim.hlc import stamp_at
from tests.node.memory.replication.peers import NOW_S, Peer, Peers, held_texts, unproven

LIAR = "n3"
SIZE = oplog.STRETCH_OPERATIONS
TEA = said.Named(2, "", "tea", "drink")


@pytest.fixture
def peers(tmp_path: Path) -> Iterator[Peers]:
    with Peers(tmp_path, "n1", "n2", LIAR) as made:
        yield made


def observation(number: int, *, text: str = "", later: int = 0, nonce: int | None = None) -> bytes:
    nonce_ = (number if nonce is None else nonce).to_bytes(16)
    return said.encode(
        said.SayObservation(
            stamp_at(NOW_S) + later, nonce_, TEA, text or f"fact {number:04}", 1.0, NOW_S, None, None, None,
            said.Told(),
        )
    )  # fmt: skip


def forgetting(number: int, *, later: int) -> bytes:
    id_ = said.element_id(LIAR, number.to_bytes(16))
    return said.encode(said.ForgetObservation(stamp_at(NOW_S) + later, id_))


def signed(
    peers: Peers, first: int, *bodies: bytes, size: int = SIZE, earlier_ms: int = 0, log: bytes = b"log-of-n"
) -> Page:
    """A page with a stretch that the liar has signed: some operations, and then nothing."""
    identity, signed_ms = peers[LIAR].credentials.identity, int(NOW_S * 1000) - earlier_ms
    hashes = b"".join(map(said.body_hash, bodies)).ljust(size * said.HASH_BYTES, b"\0")
    signature = identity.sign(statement(LIAR, log, first, signed_ms, hashes))
    numbered = tuple((first + place, body) for place, body in enumerate(bodies))
    stretch = Stretch(LIAR, log, first, signed_ms, identity.credential, signature, hashes, numbered)
    return Page((), (stretch,))


async def kept(peer: Peer) -> int:
    return await peer.storage.read(lambda c: c.execute("SELECT count(*) FROM proofs").fetchone()[0])


async def is_followed(peers: Peers, relay: Peer, texts: Sequence[str]) -> None:
    """A newcomer gets from a peer all that it holds, and knows it to be the same."""
    assert await unproven(relay) == []
    newcomer = peers.add("n9")
    await newcomer.pull(relay)
    assert await held_texts(newcomer) == await held_texts(relay) == sorted(texts)
    assert await newcomer.shared.heads() == await relay.shared.heads()
    await newcomer.repair(relay)
    assert await newcomer.shared.heads() == await relay.shared.heads()
    assert await kept(newcomer) == await kept(relay)


async def test_of_stretches_in_which_nothing_is_said_the_last_is_kept(peers):
    victim = peers["n1"]
    await victim.shared.take(signed(peers, 1, observation(0)))
    for place in range(1, 9):
        await victim.shared.take(signed(peers, 1 + place * SIZE))
        assert await kept(victim) == 2
    for place in range(1, 8):  # again, behind the last
        await victim.shared.take(signed(peers, 1 + place * SIZE, earlier_ms=1))
    assert await kept(victim) == 2
    [head] = await victim.shared.heads()
    assert head.seen == 9 * SIZE
    await is_followed(peers, victim, ["fact 0000"])


async def test_of_many_in_one_page_the_last_is_kept_too(peers):
    victim = peers["n1"]
    pages = [signed(peers, 1, observation(0)), *(signed(peers, 1 + place * SIZE) for place in range(1, 9))]
    await victim.shared.take(Page((), tuple(page.stretches[0] for page in pages)))
    assert await kept(victim) == 2
    await is_followed(peers, victim, ["fact 0000"])


async def test_what_was_signed_again_and_again_is_kept_once(peers):
    victim = peers["n1"]
    for again in range(9):
        page = signed(peers, 1, observation(0), observation(1), earlier_ms=again)
        await victim.shared.take(page)
    assert await kept(victim) == 1
    await victim.shared.take(signed(peers, 2, observation(1), size=1))  # in another one
    assert await kept(victim) == 1
    await is_followed(peers, victim, ["fact 0000", "fact 0001"])


async def test_a_stretch_goes_with_the_last_operation_that_it_has_brought(peers):
    """Whatever else is in it: of what it repeats another stretch is kept."""
    victim = peers["n1"]
    await victim.shared.take(signed(peers, 1, observation(0)))
    for again in range(1, 9):  # under one id, so that each makes the one before void
        page = signed(peers, 1, observation(0), observation(again, later=again, nonce=1), earlier_ms=again)
        await victim.shared.take(page)
        assert await kept(victim) == 2
    await is_followed(peers, victim, ["fact 0000", "fact 0008"])


async def test_a_stretch_of_which_all_is_forgotten_goes_at_once(peers):
    victim = peers["n1"]
    for number in range(8):
        await victim.shared.take(signed(peers, 1 + 2 * number, observation(number), size=1))
    await victim.shared.take(signed(peers, 17, *(forgetting(number, later=9) for number in range(7))))
    assert await kept(victim) == 2
    await is_followed(peers, victim, ["fact 0007"])


@pytest.mark.parametrize(("forgotten", "stretches"), [(0, 2), (1, 3)])
async def test_what_others_forget_lets_go_of_it_too_but_not_of_the_last(peers, forgotten, stretches):
    victim, other = peers["n1"], peers["n2"]
    await victim.shared.take(signed(peers, 1, observation(0)))
    await victim.shared.take(signed(peers, 1 + SIZE, observation(1)))
    await other.pull(victim)
    found = (await other.store.get(OPERATOR, "tea")).observations
    [gone] = [each for each in found if each.text == f"fact {forgotten:04}"]
    await other.store.forget_observation(OPERATOR, gone.id)
    await victim.pull(other)
    assert await kept(victim) == stretches  # with that of the forgetting
    await is_followed(peers, victim, [f"fact {1 - forgotten:04}"])


async def test_numbers_that_are_used_again_and_again_cost_no_more_each_time(peers):
    """No stretch more than operations, and nothing is looked for among all that lie beside it."""
    victim, steps = peers["n1"], []
    tea = said.SayEntity(stamp_at(NOW_S), TEA, 1.0, 1.0, None, None, None, said.Told())
    await victim.shared.take(signed(peers, 1, said.encode(tea), size=1))
    for number in range(400):
        page = signed(peers, 1, observation(number), observation(number + 1000), size=2)
        steps.append(await victim.storage.write(partial(_steps_of, victim, page)))
        steps[-1] += await victim.storage.write(partial(_steps_of, victim, page))  # as in a repair
    assert await kept(victim) == 401
    assert max(steps[300:]) < 1.5 * max(steps[10:40])
    assert await unproven(victim) == []


def _steps_of(victim: Peer, page: Page, connection: apsw.Connection) -> int:
    """What SQLite does for a page, in its own small steps."""
    steps = 0

    def count() -> bool:
        nonlocal steps
        steps += 1
        return False

    connection.set_progress_handler(count, 1)
    try:
        victim.replica.take(connection, page, Limits(), None, NOW_S)
    finally:
        connection.set_progress_handler(None)
    return steps


async def test_a_stretch_of_which_a_relay_kept_the_operations_back_is_known_when_it_comes_with_them(peers):
    victim, page = peers["n1"], signed(peers, 1, observation(0), observation(1))
    bare = msgspec.structs.replace(page.stretches[0], operations=())
    await victim.shared.take(Page((), (bare,)))
    await victim.shared.take(page)
    assert await kept(victim) == 1
    await is_followed(peers, victim, ["fact 0000", "fact 0001"])
    forgotten = signed(peers, 3, forgetting(0, later=9), forgetting(1, later=9))
    await victim.shared.take(forgotten)
    assert await kept(victim) == 1


@pytest.mark.parametrize("limit", ["NODE_OPERATIONS_LIMIT", "NODE_BYTES_LIMIT"])
async def test_all_logs_of_a_node_have_room_for_as_much_as_one(peers, monkeypatch, limit):
    victim, logs = peers["n1"], [b"log-of-n", b"another!", b"a-third!", b"a-fourth"]
    pages = [signed(peers, 1, observation(number), size=1, log=log) for number, log in enumerate(logs)]
    size = pages[0].stretches[0].size_bytes
    monkeypatch.setattr(oplog, limit, 3 * size + 2 if limit == "NODE_BYTES_LIMIT" else 3)
    with pytest.raises(Stalled, match="room"):
        await victim.shared.take(Page((), tuple(page.stretches[0] for page in pages)))
    for page in pages[:3]:
        await victim.shared.take(page)
    with pytest.raises(Stalled, match="room"):
        await victim.shared.take(pages[3])
    assert len(await held_texts(victim)) == 3


async def test_stretches_that_are_kept_count_among_the_bytes_of_their_node(peers, monkeypatch):
    monkeypatch.setattr(oplog, "NODE_BYTES_LIMIT", 30_000)
    victim = peers["n1"]
    for number in range(3):
        await victim.shared.take(signed(peers, 1 + number * SIZE, observation(number)))
    with pytest.raises(Stalled, match="room"):
        await victim.shared.take(signed(peers, 1 + 3 * SIZE, observation(3)))
    [log] = (await victim.shared.statistics())["origins"]
    assert log["bytes"] == await victim.storage.read(_bytes_kept)
    await victim.shared.take(signed(peers, 1 + 3 * SIZE, forgetting(0, later=9), size=1))
    [log] = (await victim.shared.statistics())["origins"]
    assert log["bytes"] == await victim.storage.read(_bytes_kept) < 30_000


def _bytes_kept(connection: apsw.Connection) -> int:
    [[operations]] = connection.execute("SELECT sum(length(body)) FROM operations")
    [[proofs]] = connection.execute(
        "SELECT sum(length(credential) + length(signature) + length(hashes)) FROM proofs"
    )
    return operations + proofs


async def test_a_stretch_beyond_the_last_number_that_can_be_told_is_refused(peers):
    """Who took it could tell nobody any more how much of that log it holds."""
    page = signed(peers, EVERYTHING - 1, observation(0), size=2)
    assert decode_page(encode(page)) == page
    with pytest.raises(BodyInvalid):
        decode_page(encode(signed(peers, EVERYTHING - 1, observation(0), size=3)))


async def test_stretches_with_little_in_them_fill_no_page_beyond_what_it_may_have(peers):
    relay = peers["n2"]
    for number in range(40):
        await relay.shared.take(signed(peers, 1 + number * SIZE, observation(number)))
    page = await peers["n1"].page_from(relay)
    assert len(encode(page)) <= PAGE_BYTES + 64 * 1024
    await is_followed(peers, relay, [f"fact {number:04}" for number in range(40)])


async def test_what_ends_at_one_number_fills_no_page_beyond_what_a_link_carries(peers):
    relay = peers["n2"]
    for number in range(30):
        await relay.shared.take(signed(peers, 1, observation(number, text="x" * 100_000), size=1))
    page = await peers["n1"].page_from(relay)
    assert len(encode(page)) <= MAX_PAGE_BYTES
    assert len(page.stretches) > 2


async def test_tidying_lets_nothing_go_that_is_needed_and_keeps_the_last(peers):
    victim = peers["n1"]
    await victim.shared.take(signed(peers, 1, observation(0)))
    await victim.shared.take(signed(peers, 1 + SIZE, observation(1)))
    await victim.shared.take(signed(peers, 1 + 2 * SIZE))
    await victim.shared.tidy()
    assert await kept(victim) == 3
    await is_followed(peers, victim, ["fact 0000", "fact 0001"])


_AS_BEFORE = """
DROP INDEX operations_proof;
ALTER TABLE operations DROP COLUMN proof;
UPDATE logs SET bytes = (SELECT coalesce(sum(length(body)), 0) FROM operations WHERE log = logs.key);
ALTER TABLE proofs RENAME TO proofs_after;
CREATE TABLE proofs (
    log INTEGER NOT NULL REFERENCES logs (key), first INTEGER NOT NULL, last INTEGER NOT NULL,
    signed_ms INTEGER NOT NULL, credential BLOB NOT NULL, signature BLOB NOT NULL, hashes BLOB NOT NULL,
    UNIQUE (log, first, signature)
);
INSERT INTO proofs SELECT log, first, last, signed_ms, credential, signature, hashes FROM proofs_after;
DROP TABLE proofs_after;
CREATE INDEX proofs_place ON proofs (log, last);
PRAGMA user_version = 4;
"""


async def test_what_is_in_a_file_from_before_there_were_names_is_told_as_it_was(peers):
    victim = peers["n1"]
    for number in range(3):
        await victim.shared.take(signed(peers, 1 + number * SIZE, observation(number)))
    await victim.store.remember(OPERATOR, Realm(Scope.GLOBAL), [EntityDraft("pot", "thing")])
    heads = await victim.shared.heads()
    victim.storage.close()
    before = apsw.Connection(str(victim.path))
    before.execute(_AS_BEFORE)
    before.close()
    victim.open()
    assert await victim.shared.heads() == heads
    sizes = [log["bytes"] for log in (await victim.shared.statistics())["origins"]]
    assert sum(sizes) == await victim.storage.read(_bytes_kept)
    await victim.shared.take(signed(peers, 1, observation(3), observation(4), earlier_ms=1))
    await victim.shared.take(signed(peers, 1, observation(0), earlier_ms=2))
    await victim.shared.take(signed(peers, 1 + 3 * SIZE))
    await victim.shared.tidy()
    assert await kept(victim) == 6
    await is_followed(peers, victim, [f"fact {number:04}" for number in range(5)])
