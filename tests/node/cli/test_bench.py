"""bench, against a node that answers what it was told to, and the figures that it shows."""

from __future__ import annotations

import pytest

from node.cli import bench
from node.cli.bench import Measured
from tests.node.cli.conftest import FakeNode, Shell

REPLY = {"message_id": "m", "status": "answered", "reply": {"performative": "inform", "content": 1}}


def test_requests_are_counted_and_timed(node: FakeNode, shell: Shell) -> None:
    node.answers["POST", "/messages"] = 200, REPLY
    found = shell.json("bench", "--capability", "echo", "--seconds", "0.3", "--in-flight", "2", "--size", "5")
    assert found["sent"] == found["answered"] == len(node.requests) > 0
    assert found["refused"] == {}
    assert 0 < found["p50_ms"] <= found["p99_ms"] <= found["max_ms"]
    assert found["per_s"] == pytest.approx(found["answered"] / found["seconds"], rel=0.01)
    assert node.requests[0][2]["content"] == {"text": "xxxxx"}
    assert node.requests[0][2]["capability"] == "echo"


def test_a_rate_is_kept_by_all_clients_together(node: FakeNode, shell: Shell) -> None:
    node.answers["POST", "/messages"] = 200, REPLY
    found = shell.json("bench", "--to", "a", "--seconds", "0.5", "--in-flight", "3", "--rate", "20")
    assert found["sent"] == 10


def test_what_is_due_and_cannot_be_sent_is_told(node: FakeNode, shell: Shell) -> None:
    node.answers["POST", "/messages"] = 200, REPLY
    arguments = ("bench", "--to", "a", "--seconds", "0.2", "--in-flight", "1", "--rate", "100000")
    found = shell.json(*arguments)
    assert found["sent"] + found["missed"] == pytest.approx(20_000, abs=2)
    assert found["missed"] > 10_000
    assert shell(*arguments) == 1
    assert "due and not sent" in shell.out


def test_refusals_and_failures_are_shown_and_end_with_status_1(node: FakeNode, shell: Shell) -> None:
    node.answers["POST", "/messages"] = 404, {"error": {"code": "CAPABILITY_NOT_FOUND", "message": "no"}}
    assert shell("bench", "--capability", "echo", "--seconds", "0.2") == 1
    assert "refused: CAPABILITY_NOT_FOUND" in shell.out
    node.answers["POST", "/messages"] = 200, REPLY | {"reply": {"performative": "failure"}}
    found = shell.json("bench", "--capability", "echo", "--seconds", "0.2")
    assert (found["answered"], found["per_s"], found["p50_ms"]) == (0, 0.0, None)
    assert found["refused"]["failure"] == found["sent"]


def test_one_way_messages_go_a_hundred_at_a_time(node: FakeNode, shell: Shell) -> None:
    receipt = {"message_id": "m", "conversation_id": "m", "status": "routed"}
    refusal = {"message_id": "m", "error": {"code": "FORBIDDEN", "message": "no"}}
    node.answers["POST", "/messages/batch"] = 207, {"results": [receipt] * 99 + [refusal]}
    assert shell("bench", "--capability", "echo", "--seconds", "0.2", "--one-way", "--in-flight", "1") == 1
    assert "accepted" in shell.out
    assert "refused: FORBIDDEN" in shell.out
    assert len(node.requests[0][2]["messages"]) == 100
    assert node.requests[0][2]["messages"][0]["performative"] == "inform"


@pytest.mark.parametrize(
    "arguments", [(), ("--capability", "a", "--to", "b"), ("--capability", "a", "--one-way", "--rate", "1")]
)
def test_a_load_that_is_none_is_refused(shell: Shell, arguments: tuple[str, ...]) -> None:
    assert shell("bench", *arguments) == 2


def test_what_is_kept_of_a_long_run_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "SAMPLE_LIMIT", 100)
    measured = Measured()
    for number in range(10_000):
        measured.took(number / 1000)
    assert len(measured._times) <= 101
    assert measured.percentile_ms(0.5) == pytest.approx(5_000, rel=0.05)
    assert measured.percentile_ms(0.99) == pytest.approx(9_900, rel=0.05)
