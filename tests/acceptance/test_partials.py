"""Real nodes and a model that speaks slowly: its words are seen on another node before the reply is there."""

import json
import subprocess

import pytest

from node.client import Client
from tests.acceptance.agents import scripted
from tests.acceptance.processes import CAXTON, clean_environment

AGENT = """\
---
name: Teller
version: 1.0.0
capabilities: [stories]
tools: []
llm: {provider: scripted}
messaging: {response_format: natural}
system_prompt: Tell stories.
---
"""
WORDS = ["Once ", "upon ", "a ", "time ", "there ", "was."]
PAUSE_S = 0.3
SCRIPT = f"""\
rules:
  - {{match: {{content: broken}}, deltas: ["Half ", "a "], delta_s: {PAUSE_S}, error: cut}}
  - {{times: 0, deltas: {json.dumps(WORDS)}, delta_s: {PAUSE_S}}}
"""


@pytest.fixture(scope="module")
def cluster(shared_cluster):
    """One cluster for all of them."""
    return shared_cluster


@pytest.fixture(scope="module")
def nodes(cluster, tmp_path_factory):
    files = tmp_path_factory.mktemp("agents")
    a, b = cluster.start("a", "b", settings=scripted(files, SCRIPT))
    agent = files / "teller.md"
    agent.write_text(AGENT)
    b.deploy(agent)
    cluster.wait_for_providers([a], stories=["b"])
    return a, b


def test_words_are_seen_on_another_node_before_the_reply(cluster, nodes):
    with Client(nodes[0].url, token=cluster.token) as client:
        with client.stream("tell me", capability="stories") as answer:
            pieces = iter(answer)
            seen = [next(pieces)]
            assert client.message(answer.receipt.message_id)["outcome"] is None
            seen += pieces
            whole = answer.reply()
        assert whole["content"] == "".join(WORDS)
        assert whole["content"].startswith("".join(piece.text for piece in seen))
        assert [piece.sequence for piece in seen] == list(range(len(seen)))
        assert len(seen) >= 2
        shown = client.message(answer.receipt.message_id)
        assert (shown["status"], shown["routed_to"]) == ("settled", ["teller@b"])


def test_an_answer_that_breaks_off_is_a_failure_in_the_end(cluster, nodes):
    with (
        Client(nodes[0].url, token=cluster.token) as client,
        client.stream("broken", capability="stories") as answer,
    ):
        assert next(iter(answer)).text == "Half "
        assert answer.reply()["performative"] == "failure"


def test_the_command_line_shows_the_words_as_they_come(cluster, nodes, tmp_path):
    words = ["send", "--capability", "stories", "tell me", "--stream", "--api", nodes[0].url, "--json"]
    process = subprocess.Popen(
        [*CAXTON, *words],
        env=clean_environment(tmp_path, CAXTON_TOKEN=cluster.token),
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        told = [json.loads(line) for line in process.stdout]
    assert process.returncode == 0
    kinds = [event["event"] for event in told]
    assert kinds[:3] == ["accepted", "partial", "partial"]
    assert kinds[-1] == "reply"
    assert told[-1]["reply"]["content"].startswith("".join(event["text"] for event in told[1:-1]))
