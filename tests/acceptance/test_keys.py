"""Operators change the gossip key of a running cluster."""

import json

from tests.acceptance.processes import caxton, eventually


def keys(node, *arguments, check=True):
    command = ("keys", *arguments, "--json", "--api", node.url, "--token", node.cluster.token)
    done = caxton(*command, home=node.home, check=check)
    return done.returncode, json.loads(done.stdout)


def test_a_key_is_changed_on_three_nodes_and_whoever_has_the_old_one_stays_outside(cluster):
    a, b, c = nodes = cluster.start("a", "b", "c")
    [late] = cluster.add("late")
    # A pair can be asked once it has agreed on its key, which is a matter of the first probes.
    eventually(lambda: keys(a, "list", check=False)[1].get("ok"), within=30)
    status, before = keys(a, "list")
    assert status == 0
    [old] = [key["key_id"] for key in before["keys"]]

    installed = keys(a, "install")[1]
    new = installed["key_id"]
    assert {member["name"]: member["key_ids"] for member in installed["members"]} == {
        node.name: [old, new] for node in nodes
    }
    assert keys(b, "use", new)[1]["ok"]
    status, refused = keys(b, "remove", new, check=False)
    assert (status, refused["code"]) == (1, "KEY_CHANGE_REFUSED")
    status, unknown = keys(b, "use", "00000000", check=False)
    assert (status, unknown["code"]) == (1, "GOSSIP_KEY_NOT_FOUND")
    removed = keys(c, "remove", old)[1]
    assert removed["keys"] == [{"key_id": new, "held_by": 3, "encrypts_for": 3}]

    files = [node.bundle / "gossip.key" for node in nodes]
    eventually(lambda: len({file.read_text() for file in files}) == 1)
    secret = files[0].read_text().strip()
    assert all(file.stat().st_mode & 0o777 == 0o600 for file in files)
    assert all(secret not in node.log_text() for node in nodes)
    b.stop()
    b.start(a)
    cluster.wait_for_each_other(*nodes)

    late.start(a, wait=True)

    def unheard():
        counts = a.get("/cluster/statistics")["swim"]
        return counts.get("dropped_unknown_key", 0) + counts.get("dropped_stream_unknown_key", 0)

    eventually(unheard)
    assert late.alive() == ["late"]
    assert all(node.alive() == ["a", "b", "c"] for node in nodes)
