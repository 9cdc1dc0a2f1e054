"""What an operator does about messages, with the command line, on real nodes."""

import json
import subprocess

from tests.acceptance.agents import ECHO
from tests.acceptance.processes import CAXTON, caxton, clean_environment, eventually


def verb(node, *arguments, check=True):
    token = node.cluster.directory / "admin.token"
    return caxton(
        *arguments, "--api", node.url, "--token-file", token, home=node.cluster.directory, check=check
    )


def test_a_message_is_followed_explained_and_sent_again_on_real_nodes(cluster):
    a, b = cluster.start("a", "b")
    lost = a.send("echo", {"x": 1})["message_id"]
    eventually(lambda: a.get("/status")["messaging"]["dead_letters"]["count"] == 1)
    assert lost in verb(a, "dead-letters", "list").stdout
    assert "nobody offers it" in verb(a, "explain", lost).stdout
    b.deploy(ECHO)
    cluster.wait_for_providers([a, b], echo=["b"])

    watched = [*CAXTON, "tail", "--agent", "echo-agent", "--json", "--count", "2", "--api", b.url]
    watched += ["--token-file", str(cluster.directory / "admin.token")]
    with subprocess.Popen(
        watched, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=clean_environment(cluster.directory),
    ) as tail:  # fmt: skip
        try:
            assert "Listening" in tail.stderr.readline()
            retried = json.loads(verb(a, "dead-letters", "retry", "--all", "--json").stdout)
            [sent] = retried["messages"]
            lines, _ = tail.communicate(timeout=30)
        finally:
            tail.kill()
    assert [json.loads(line)["event"] for line in lines.splitlines()] == ["received", "handled"]
    assert sent["retry_of"] == lost

    eventually(lambda: a.message(sent["message_id"])["outcome"] == "settled")
    tree = verb(a, "trace", lost).stdout
    assert sent["message_id"] in tree
    steps = json.loads(verb(a, "trace", sent["message_id"], "--json").stdout)["trace"]["steps"]
    assert {step["node"] for step in steps} == {"a", "b"}
    assert "chosen" in verb(a, "explain", sent["message_id"]).stdout
    [decided] = json.loads(verb(a, "explain", sent["message_id"], "--json").stdout)["decisions"]
    assert decided["targets"] == ["echo-agent@b"]
    assert (decided["view"]["up"], decided["view"]["remembered"], decided["view"]["side"]) == (
        2,
        2,
        "majority",
    )
    assert 0 <= decided["view"]["registry_age_s"] < 60
    again = verb(a, "dead-letters", "retry", lost, check=False)
    assert (again.returncode, "sent again before" in again.stderr) == (1, True)

    b.kill()
    away = json.loads(verb(a, "trace", sent["message_id"], "--json").stdout)
    assert (away["complete"], away["away"]) == (False, ["b"])
    assert json.loads(verb(a, "dead-letters", "drop", "--all", "--yes", "--json").stdout) == {"dropped": 1}


def test_a_retry_that_was_acknowledged_survives_kill_9(cluster):
    [a] = cluster.start("a")
    lost = a.send("nobody-has-it", {"x": 1})["message_id"]
    eventually(lambda: a.get("/status")["messaging"]["dead_letters"]["count"] == 1)
    sent = json.loads(verb(a, "dead-letters", "retry", lost, "--json").stdout)["messages"][0]["message_id"]
    a.kill()
    a.start()
    assert a.get(f"/dead-letters/{lost}")["retried_as"] == sent
    assert a.message(sent)["retry_of"] == lost
