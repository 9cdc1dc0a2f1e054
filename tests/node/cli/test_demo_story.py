"""The demo tells what the nodes say, and admits what it did not see."""

import base64

import pytest

from node.cli import demo_failover, demo_story
from node.cli.demo_answer import sheets
from node.cli.demo_csv import CsvFile
from node.cli.demo_failover import BATCHES, tell_failover
from node.cli.demo_story import DemoFailed, Stage, placements, tell_beginning
from node.cli.demo_view import NodeRow, Scene, SilentScreen
from tests.node.cli.demo_cast import ANALYSIS, FakeCast

CSV = CsvFile("data.csv", b"product,revenue\nTent,20.5\nMap,9.5\n", 2)


@pytest.fixture(autouse=True)
def impatience(monkeypatch):
    for name in ("QUIET_S", "DETECTION_S"):
        monkeypatch.setattr(demo_failover, name, 0.2)
    for module in (demo_story, demo_failover):
        monkeypatch.setattr(module, "POLL_S", 0.001)
    monkeypatch.setattr(demo_story, "JOIN_S", 0.2)


def stage_of(cast):
    return Stage(cast, CSV, Scene({node.name: NodeRow(node.name) for node in cast.nodes}), SilentScreen())


def told(cast):
    stage = stage_of(cast)
    return tell_failover(stage, tell_beginning(stage))


@pytest.mark.parametrize("count", [3, 4, 5, 12])
def test_agents_are_spread_and_the_sender_offers_no_analysis(count):
    names = [f"n{number}" for number in range(count)]
    places = placements(names)
    analysts = [node for node, file in places if file == "data_analyzer.md"]
    assert analysts == ["n1", "n2"]
    [echo] = [node for node, file in places if file == "echo.md"]
    assert echo not in analysts
    assert len({file for _, file in places}) == 5
    assert len({node for node, _ in places}) >= min(count, 5) - (count > 3)


def test_the_answer_is_what_came_back(tmp_path):
    cast = FakeCast(tmp_path)
    stage = stage_of(cast)
    answer = tell_beginning(stage)
    assert answer.analysis == ANALYSIS
    assert (answer.routed_to, answer.node) == ("data-analyzer@node-2", "node-2")
    assert answer.route["path"] == ["client@node-1", "data-analyzer@node-2"]
    assert [step.took_s is not None for step in stage.scene.steps] == [True] * 5
    [body] = cast.bodies
    assert base64.b64decode(body["attachments"][0]["base64"]) == CSV.data
    assert [path.parent.parent.name for path in tmp_path.rglob("data.csv")] == ["node-1"]


def test_every_request_of_the_victim_is_answered_by_the_other(tmp_path):
    found = told(FakeCast(tmp_path))
    assert found.missing() == []
    assert found.victim == "node-2"
    assert found.burst == BATCHES[0]
    assert found.unsettled_at_kill == found.rerouted == BATCHES[0] // 2
    assert (found.lost, found.answered) == (0, found.burst)
    assert found.answered_by == {"data-analyzer@node-3": found.burst}
    assert 0 < found.suspected_s < found.detection_s


def test_a_request_that_nobody_answers_is_lost(tmp_path):
    found = told(FakeCast(tmp_path, loses=2))
    assert found.lost == 2
    assert [entry["outcome"] for entry in found.unanswered] == [None, None]
    assert f"2 of {BATCHES[0]} requests" in found.missing()[0]


def test_two_replies_to_one_request_are_one_too_many(tmp_path):
    cast = FakeCast(tmp_path)
    stage = stage_of(cast)
    answer = tell_beginning(stage)
    cast.doubles = True
    found = tell_failover(stage, answer)
    assert found.lost == 1
    assert [entry["replies"] for entry in found.unanswered] == [2]


def test_a_late_reply_does_not_count(tmp_path):
    cast = FakeCast(tmp_path)
    stage = stage_of(cast)
    answer = tell_beginning(stage)
    cast.doubles = True
    original = cast.send

    def send(body):
        request = original(body)
        if len(request.replies) == 2:
            request.replies = [request.replies[0], request.replies[1] | {"status": "late"}]
        return request

    cast.send = send
    assert tell_failover(stage, answer).lost == 0


def test_another_analysis_than_the_first_is_no_answer(tmp_path):
    found = told(FakeCast(tmp_path, corrupts=True))
    assert found.lost == found.rerouted > 0


def test_a_death_that_nobody_notices_fails(tmp_path):
    with pytest.raises(DemoFailed, match="has not noticed that node-2 is dead") as caught:
        told(FakeCast(tmp_path, notices=False))
    assert "suspect" in caught.value.why


def test_providers_that_are_too_quick_are_sent_a_bounded_burst_and_nobody_is_killed(tmp_path):
    cast = FakeCast(tmp_path, settles=True)
    with pytest.raises(DemoFailed, match="settles requests faster"):
        told(cast)
    assert len(cast.requests) == 1 + sum(BATCHES)
    assert cast.killed is None


def test_providers_too_quick_for_a_shared_batch_get_the_next_one_in_one_conversation(tmp_path):
    cast = FakeCast(tmp_path, quick=True)
    found = told(cast)
    assert found.missing() == []
    assert found.burst == BATCHES[0] + BATCHES[1]
    assert found.rerouted == BATCHES[1]
    assert [body.get("conversation_id") for body in cast.bodies[1:]] == (
        [None] * BATCHES[0] + ["c1"] * BATCHES[1]
    )


def test_a_large_file_is_sent_less_often(tmp_path, monkeypatch):
    monkeypatch.setattr(demo_failover, "MAX_BURST_BYTES", 40 * len(CSV.data))
    cast = FakeCast(tmp_path, settles=True)
    with pytest.raises(DemoFailed):
        told(cast)
    assert len(cast.requests) == 1 + 40


@pytest.mark.parametrize(
    "reply", [{"performative": "failure"}, {"content": None}, {"content": {"results": [1, {"result": {}}]}}]
)
def test_a_reply_without_an_analysis_fails(tmp_path, reply):
    with pytest.raises(DemoFailed, match="did not answer with an analysis"):
        told(FakeCast(tmp_path, first_reply=reply))


def test_a_cluster_that_does_not_form_fails_and_the_step_is_marked(tmp_path):
    cast = FakeCast(tmp_path, killed="node-3", notices=False)
    stage = stage_of(cast)
    with pytest.raises(DemoFailed, match="node-1 sees 3 members alive"):
        tell_beginning(stage)
    assert stage.scene.steps[-1].failed


def test_the_answer_as_tables(tmp_path):
    totals, top = sheets(tell_beginning(stage_of(FakeCast(tmp_path))))
    assert list(totals.rows) == [("revenue", "30", "15")]
    assert list(top.rows) == [("Tent", "20.50", "1")]
    assert "data-analyzer@node-2" in "\n".join(top.notes)
