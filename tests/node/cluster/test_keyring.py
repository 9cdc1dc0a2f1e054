"""The gossip key of a simulated cluster is changed while it runs, and what was changed outlives a restart."""

# ruff: noqa: TID251 (the scenario runs in the simulator's virtual time)

import logging
import os

import pytest
import trio

from node.cluster import keyring
from node.cluster.keyring import (
    GossipKeyNotFound,
    GossipNotEncrypted,
    KeyChangeRefused,
    KeyOperationRunning,
)
from node.errors import SecurityMaterialInvalid
from node.security import authority
from swim.keyring import MAX_KEYS
from swim.keyring_messages import Verb, key_id
from tests.node.cluster.test_membership import simulate, until

WAIT = {"timeout_s": 5.0}


def key_file(cluster, name):
    return cluster._directory / "cluster" / "nodes" / name / "gossip.key"


def on_disk(cluster, name):
    return [key_id(key) for key in authority.read_gossip_keys(key_file(cluster, name))]


async def three(cluster, **settings):
    nodes = [await cluster.start("alpha", settings=settings)]
    nodes += [await cluster.start(name, "alpha", settings=settings) for name in ("beta", "gamma")]
    await until(lambda: all(len(node.membership.alive_nodes()) == 3 for node in nodes))
    # A pair whose key is not agreed on yet could not be asked.
    await trio.sleep(5)
    return nodes


def test_a_key_is_installed_used_and_the_old_one_removed_and_a_restart_keeps_that(tmp_path):
    async def scenario(cluster):
        alpha, beta, gamma = await three(cluster)
        names = ["alpha", "beta", "gamma"]
        [old] = on_disk(cluster, "alpha")
        installed = await alpha.membership.keys.install(**WAIT)
        new = installed.result.key_id
        assert installed.ok
        assert on_disk(cluster, "alpha") == [old, new]
        await until(lambda: all(on_disk(cluster, name) == [old, new] for name in names))
        used = await beta.membership.keys.change(Verb.USE, new, **WAIT)
        assert used.ok
        await until(lambda: all(on_disk(cluster, name) == [new, old] for name in names))
        removed = await gamma.membership.keys.change(Verb.REMOVE, old, **WAIT)
        assert removed.ok
        shown = removed.as_json()
        assert [(m["name"], m["key_ids"]) for m in shown["members"]] == [(name, [new]) for name in names]
        assert shown["keys"] == [{"key_id": new, "held_by": 3, "encrypts_for": 3}]
        await until(lambda: all(on_disk(cluster, name) == [new] for name in names))
        assert key_file(cluster, "beta").stat().st_mode & 0o777 == 0o600
        await cluster.crash("beta")
        beta = await cluster.start("beta", "alpha")
        await until(lambda: all(n.membership.alive_nodes() == names for n in (alpha, beta, gamma)))
        assert alpha.membership.statistics()["keys"] == {
            "stored": 3, "failures": 0, "orders_obeyed": 2, "keys": 1, "waited": 0,
        }  # fmt: skip

    simulate(scenario, tmp_path)


def test_a_node_with_only_the_removed_key_is_not_heard_and_both_sides_say_so(tmp_path, caplog):
    async def scenario(cluster):
        alpha, beta, _ = await three(cluster)
        kept = key_file(cluster, "gamma").read_bytes()
        old = on_disk(cluster, "alpha")[0]
        await trio.sleep(12)
        await cluster.crash("gamma")
        await until(lambda: not beta.membership.is_alive("gamma") and not alpha.membership.is_alive("gamma"))
        new = (await alpha.membership.keys.install(**WAIT)).result.key_id
        for verb, wanted in ((Verb.USE, new), (Verb.REMOVE, old)):
            with pytest.raises(KeyChangeRefused, match="gamma") as refused:
                await alpha.membership.keys.change(verb, wanted, **WAIT)
            assert refused.value.details == {"absent": ["gamma"]}
            report = await alpha.membership.keys.change(verb, wanted, force=True, **WAIT)
            assert (report.ok, report.absent) == (True, ("gamma",))
        assert key_file(cluster, "gamma").read_bytes() == kept
        gamma = await cluster.start("gamma", "alpha")
        await trio.sleep(60)
        assert "gamma" not in alpha.membership.alive_nodes() + beta.membership.alive_nodes()
        counts = alpha.membership.swim.statistics()
        assert counts.get("dropped_unknown_key", 0) + counts.get("dropped_stream_unknown_key", 0) > 0
        told = [r for r in caplog.records if "under a gossip key that this node does not hold" in r.message]
        assert told
        # What the documents say to do: the key file of a member that was not away, and a restart.
        await cluster.crash("gamma")
        key_file(cluster, "gamma").write_bytes(key_file(cluster, "alpha").read_bytes())
        gamma = await cluster.start("gamma", "alpha")
        await until(lambda: len(gamma.membership.alive_nodes()) == len(alpha.membership.alive_nodes()) == 3)

    with caplog.at_level(logging.WARNING, logger=keyring.__name__):
        simulate(scenario, tmp_path)


def test_who_is_away_for_so_long_that_nobody_shows_it_is_not_left_behind_unasked(tmp_path):
    async def scenario(cluster):
        alpha, beta, _ = await three(cluster, **{"cluster.swim": {"reap_after_s": "15s"}})
        new = (await alpha.membership.keys.install(**WAIT)).result.key_id
        await cluster.crash("gamma")
        await until(lambda: all(node.membership.swim.member("gamma") is None for node in (alpha, beta)))
        for node in (alpha, beta):
            with pytest.raises(KeyChangeRefused, match="gamma"):
                await node.membership.keys.change(Verb.USE, new, **WAIT)
        assert (await alpha.membership.keys.list(**WAIT)).absent == ("gamma",)
        gamma = await cluster.start("gamma", "alpha")
        await until(lambda: len(gamma.membership.alive_nodes()) == len(alpha.membership.alive_nodes()) == 3)
        await trio.sleep(5)
        assert (await alpha.membership.keys.change(Verb.USE, new, **WAIT)).absent == ()
        await gamma.membership.leave()
        await until(lambda: not alpha.membership.is_alive("gamma"))
        assert (await alpha.membership.keys.list(**WAIT)).absent == ()  # it said that it does not come back

    simulate(scenario, tmp_path)


def test_what_cannot_be_done_is_refused_and_changes_nothing(tmp_path):
    async def scenario(cluster):
        alpha, beta, _ = await three(cluster)
        keys = alpha.membership.keys
        before = on_disk(cluster, "alpha")
        with pytest.raises(GossipKeyNotFound, match="deadbeef"):
            await keys.change(Verb.USE, "deadbeef", **WAIT)
        with pytest.raises(KeyChangeRefused, match="encrypts"):
            await keys.change(Verb.REMOVE, before[0], **WAIT)
        # Only alpha holds the second key: the others were not asked.
        lonely = bytes(range(32))
        alpha.membership.swim.keyring.add(lonely)
        with pytest.raises(KeyChangeRefused, match=f"use {key_id(lonely)}") as refused:
            await keys.change(Verb.USE, key_id(lonely), **WAIT)
        assert "beta, gamma" in refused.value.why
        assert on_disk(cluster, "beta") == before
        assert beta.membership.swim.keyring.key_ids() == before
        for number in range(MAX_KEYS - 2):
            alpha.membership.swim.keyring.add(bytes([number]) * 32)
        with pytest.raises(KeyChangeRefused, match="does not allow"):
            await keys.install(**WAIT)

    simulate(scenario, tmp_path)


def test_one_operation_ends_before_the_next_begins(tmp_path):
    async def scenario(cluster):
        alpha, _, _ = await three(cluster)
        outcomes = []

        async def attempt():
            try:
                outcomes.append((await alpha.membership.keys.list(**WAIT)).ok)
            except KeyOperationRunning as error:
                outcomes.append(error.code)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(attempt)
            nursery.start_soon(attempt)
        assert outcomes == ["KEY_OPERATION_RUNNING", True]
        assert (await alpha.membership.keys.install(**WAIT)).ok

    simulate(scenario, tmp_path)


def test_a_node_that_obeys_nobody_keeps_its_keys_and_is_named_for_it(tmp_path):
    async def scenario(cluster):
        alpha = await cluster.start("alpha")
        stubborn = await cluster.start("beta", "alpha", settings={"security.key_rotation": "none"})
        await until(
            lambda: len(alpha.membership.alive_nodes()) == len(stubborn.membership.alive_nodes()) == 2
        )
        await trio.sleep(5)
        before = on_disk(cluster, "beta")
        report = (await alpha.membership.keys.install(**WAIT)).as_json()
        assert (report["ok"], on_disk(cluster, "beta")) == (False, before)
        [member] = [member for member in report["members"] if not member["ok"]]
        assert (member["name"], member["error"]) == ("beta", "alpha may not change this member's keys")

    simulate(scenario, tmp_path)


def test_a_ring_that_cannot_be_written_is_reported_and_written_later(tmp_path, caplog, monkeypatch):
    async def scenario(cluster):
        alpha, _, _ = await three(cluster)
        before = on_disk(cluster, "alpha")
        real = os.fsync

        def full(_descriptor):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        report = await alpha.membership.keys.install(**WAIT)
        monkeypatch.setattr(os, "fsync", real)
        [own] = [m for m in report.as_json()["members"] if m["name"] == "alpha"]
        assert not report.ok
        assert (own["ok"], "No space left" in own["error"]) == (False, True)
        assert on_disk(cluster, "alpha") == before
        await trio.sleep(2 * keyring.STORE_RETRY_S)
        assert on_disk(cluster, "alpha") == [*before, report.result.key_id]
        assert alpha.membership.statistics()["keys"]["failures"] >= 1

    with caplog.at_level(logging.ERROR, logger=keyring.__name__):
        simulate(scenario, tmp_path)
    assert any("a restart would lose them" in record.message for record in caplog.records)


def test_no_key_is_in_a_report_or_in_the_log(tmp_path, caplog):
    async def scenario(cluster):
        alpha, _, _ = await three(cluster)
        report = await alpha.membership.keys.install(**WAIT)
        await alpha.membership.keys.change(Verb.USE, report.result.key_id, **WAIT)
        return alpha.membership.swim.keyring.keys(), f"{report!r} {report.as_json()}"

    with caplog.at_level(logging.DEBUG):
        keys, shown = simulate(scenario, tmp_path)
    assert "gossip key" in caplog.text
    for key in keys:
        for text in (caplog.text, shown):
            assert key.hex() not in text
            assert repr(key) not in text


def test_without_encryption_there_is_nothing_to_change(tmp_path):
    async def scenario(cluster):
        alpha = await cluster.start("alpha")
        alpha.membership.swim.keyring = None
        for attempt in (alpha.membership.keys.list, alpha.membership.keys.install):
            with pytest.raises(GossipNotEncrypted):
                await attempt(**WAIT)
        with pytest.raises(GossipNotEncrypted):
            await alpha.membership.keys.change(Verb.USE, "00000000", **WAIT)

    simulate(scenario, tmp_path)


@pytest.mark.parametrize("text", ["", "zz", "00" * 31, "00" * 32 + "\n" + "11" * 33])
def test_a_key_file_that_is_none_is_refused(tmp_path, text):
    path = tmp_path / "gossip.key"
    path.write_text(text)
    with pytest.raises(SecurityMaterialInvalid, match="gossip key"):
        authority.read_gossip_keys(path)


def test_a_key_file_of_too_many_keys_is_refused_and_a_link_to_one_stays_a_link(tmp_path):
    real, link = tmp_path / "mounted.key", tmp_path / "gossip.key"
    real.touch()
    link.symlink_to(real)
    keys = [bytes([number]) * 32 for number in range(MAX_KEYS + 1)]
    authority.write_gossip_keys(link, keys[1:])
    assert link.is_symlink()
    assert authority.read_gossip_keys(link) == tuple(keys[1:])
    authority.write_gossip_keys(link, keys)
    with pytest.raises(SecurityMaterialInvalid, match=str(MAX_KEYS)):
        authority.read_gossip_keys(link)
