"""What a node had told before it came back with an older file, and what it says under the same numbers."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.memory.model import EntityDraft, ObservationDraft, Realm, Scope
from node.memory.scopes import OPERATOR
from tests.node.memory.replication.peers import Peer, Peers, held_texts, unproven

GLOBAL = Realm(Scope.GLOBAL)
LONG = "x" * 40_000
"""What makes four texts more than a page."""


@pytest.fixture
def peers(tmp_path: Path) -> Iterator[Peers]:
    with Peers(tmp_path, "n1", "n2", "n3") as made:
        yield made


async def say(peer: Peer, texts: list[str], *, singly: bool) -> None:
    """Say something about tea, each text in a signed stretch of its own or all in as few as there can be."""
    for some in [[text] for text in texts] if singly else [texts]:
        await peer.store.remember(
            OPERATOR, GLOBAL, [EntityDraft("tea", "drink", tuple(map(ObservationDraft, some)))]
        )
        await peer.shared.heads()


def copy(peer: Peer) -> Path:
    """Copy a node's file while it is down."""
    peer.storage.close()
    backup = Path(shutil.copy(peer.path, peer.path.with_suffix(".backup")))
    peer.open()
    return backup


def restore(peer: Peer, backup: Path) -> None:
    """Let a node come back with an older file."""
    peer.storage.close()
    for file in peer.path.parent.glob(f"{peer.path.name}*"):
        file.unlink()
    shutil.copy(backup, peer.path)
    peer.open()


def texts(word: str, count: int, tail: str = "") -> list[str]:
    return [f"{word} {number:03}{tail}" for number in range(count)]


async def agree(peers: Peers) -> None:
    """Let everybody take everything, as repairs do where digests differ."""
    await peers.converge()
    for peer in peers.peers.values():
        for other in peers.peers.values():
            if other is not peer:
                await peer.repair(other)
    await peers.converge()


async def everybody_holds(peers: Peers, *said: list[str]) -> None:
    """Everybody holds all of it, knows it to be the same, and can prove it to others."""
    wanted = sorted(text for some in said for text in some)
    for peer in peers.peers.values():
        assert await held_texts(peer) == wanted, peer.name
        assert await unproven(peer) == [], peer.name
    assert len({await peer.digest() for peer in peers.peers.values()}) == 1
    heads = [[head for head in await peer.shared.heads() if head.seen] for peer in peers.peers.values()]
    assert heads == heads[:1] * len(heads)


@pytest.mark.parametrize("anew_singly", [False, True])
@pytest.mark.parametrize("lost_singly", [False, True])
@pytest.mark.parametrize("count", [1, 6, 12, 70, 130])
async def test_what_it_had_told_and_what_it_says_anew_is_everywhere(peers, count, lost_singly, anew_singly):
    old = peers["n1"]
    await say(old, ["first"], singly=True)
    backup = copy(old)
    lost, anew = texts("lost", count), texts("anew", count)
    await say(old, lost, singly=lost_singly)
    await peers["n2"].pull(old)
    restore(old, backup)
    await say(old, anew, singly=anew_singly)  # before anybody was heard
    await old.repair(peers["n2"])
    await peers["n2"].repair(old)
    await agree(peers)
    await everybody_holds(peers, ["first"], lost, anew)


@pytest.mark.parametrize("singly", [False, True])
async def test_stretches_that_are_larger_than_a_page_and_end_at_one_number_are_all_told(peers, singly):
    """A page that ended between two of them would hide the second from a newcomer for ever."""
    old = peers["n1"]
    await say(old, ["first"], singly=True)
    backup = copy(old)
    lost, anew = texts("lost", 3, LONG), texts("anew", 3, LONG)
    await say(old, lost, singly=singly)
    await peers["n2"].pull(old)
    restore(old, backup)
    await say(old, anew, singly=not singly)
    await peers["n2"].repair(old)
    await peers["n3"].pull(peers["n2"])
    assert await held_texts(peers["n3"]) == sorted(["first", *lost, *anew])


async def test_a_newcomer_gets_stretches_whole_that_begin_before_what_it_has_seen(peers):
    old = peers["n1"]
    await say(old, ["first"], singly=True)
    backup = copy(old)
    lost, anew = texts("lost", 70), texts("anew", 70)
    await say(old, lost, singly=True)  # more than a page
    await peers["n2"].pull(old)
    restore(old, backup)
    await say(old, anew, singly=False)
    await peers["n2"].repair(old)
    await peers["n3"].pull(peers["n2"])
    assert await held_texts(peers["n3"]) == sorted(["first", *lost, *anew])


@pytest.mark.parametrize("count", [6, 70])
@pytest.mark.parametrize("singly", [False, True])
async def test_a_node_that_comes_back_with_the_same_file_again_and_again_loses_nothing(peers, count, singly):
    old = peers["n1"]
    await say(old, ["first"], singly=True)
    backup = copy(old)
    lives = [texts(f"life {life}", count) for life in range(4)]
    for life, said in enumerate(lives):
        await say(old, said, singly=singly is bool(life % 2))
        await peers["n2"].repair(old)
        if said is not lives[-1]:
            restore(old, backup)
    await agree(peers)
    await everybody_holds(peers, ["first"], *lives)


@pytest.mark.parametrize("is_heard_first", [False, True])
async def test_it_may_hear_the_others_before_or_after_it_says_something_anew(peers, is_heard_first):
    old = peers["n1"]
    await say(old, ["first"], singly=True)
    backup = copy(old)
    lost, anew, later = texts("lost", 12), texts("anew", 12), texts("later", 3)
    await say(old, lost, singly=True)
    await peers["n2"].pull(old)
    restore(old, backup)
    if is_heard_first:
        await old.pull(peers["n2"])
    await say(old, anew, singly=False)
    await old.repair(peers["n2"])
    await say(old, later, singly=True)
    await agree(peers)
    await everybody_holds(peers, ["first"], lost, anew, later)


async def test_three_that_each_hold_another_part_come_to_hold_all_of_it(peers):
    old = peers["n1"]
    await say(old, ["first"], singly=True)
    backup = copy(old)
    parts = [texts(f"part {part}", 12) for part in range(3)]
    await say(old, parts[0], singly=True)
    await peers["n2"].pull(old)
    restore(old, backup)
    await say(old, parts[1], singly=False)
    await peers["n3"].pull(old)
    restore(old, backup)
    await say(old, parts[2][:5], singly=True)
    await say(old, parts[2][5:], singly=False)
    await peers["n3"].repair(peers["n2"])
    await agree(peers)
    await everybody_holds(peers, ["first"], *parts)


async def test_what_is_forgotten_and_tidied_of_it_takes_nothing_else_along(peers):
    old = peers["n1"]
    await say(old, ["first"], singly=True)
    backup = copy(old)
    lost, anew = texts("lost", 12), texts("anew", 12)
    await say(old, lost, singly=True)
    await peers["n2"].pull(old)
    restore(old, backup)
    await say(old, anew, singly=False)
    await agree(peers)
    found = (await peers["n3"].store.get(OPERATOR, "tea")).observations
    gone = [each for each in found if each.text[-1] in "02468"]
    for each in gone:
        await peers["n3"].store.forget_observation(OPERATOR, each.id)
    for _ in range(2):
        await agree(peers)
        for peer in peers.peers.values():
            await peer.shared.tidy()
    fresh = peers.add("n4")
    await fresh.pull(peers["n2"])
    await everybody_holds(
        peers, [text for text in ["first", *lost, *anew] if text not in {each.text for each in gone}]
    )
