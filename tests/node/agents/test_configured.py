"""A configured agent's loop: prompt, tools, answer, and every way it is made to end."""

from __future__ import annotations

import random
from typing import Any

import pytest
import trio
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from node.agents.definition import parse_definition
from node.agents.prompt import first_messages, reply_content
from node.agents.settings import AgentSettings
from node.errors import ProviderFailed
from node.llm.provider import Completion, CompletionRequest, Usage
from node.llm.registry import ProviderRegistry
from node.llm.scripted import ScriptedProvider
from node.message import Attachment, Message
from node.messaging.settings import HOP_LIMIT
from node.telemetry.tracing import Tracing
from node.tools.host import ToolSettings
from node.vocabulary import Performative
from tests.node.agents.inline import TestClock
from tests.node.agents.rooms import delivery, rooms
from tests.node.agents.test_definition import PUBLISHED, agent

CSV = Attachment("s.csv", "text/csv", b"product,revenue\na,1\nb,2.5\n")
ANALYZE = "tool_calls: [{name: csv_analyze, arguments: {file: s.csv}}]"
NOTHING = "tags: []"
CSV_AGENT = agent("tools: [csv_parser]")


class Recorder:
    """A provider that answers once and keeps what it was asked."""

    name = "recorder"

    def __init__(self, text: str = "done") -> None:
        self.requests: list[CompletionRequest] = []
        self.text = text

    async def complete(self, request: CompletionRequest, **_: object) -> Completion:
        self.requests.append(request)
        return Completion(text=self.text, provider=self.name)


def scripted(*rules: str) -> ProviderRegistry:
    script = "rules:\n" + "\n".join(f"  - {{{rule}}}" for rule in rules)
    return ProviderRegistry(default="scripted", providers={"scripted": ScriptedProvider(script, TestClock())})


def recorded(provider: Any) -> ProviderRegistry:
    return ProviderRegistry(default="recorder", providers={"recorder": provider})


def failure(draft: Any) -> tuple[str, str]:
    assert draft.performative is Performative.FAILURE
    assert draft.content["reason"]
    return draft.content["code"], draft.content["details"].get("limit", "")


def test_the_prompt_has_the_published_form() -> None:
    definition = parse_definition(PUBLISHED)
    message = delivery("Please analyze the sales data").message
    system, user = first_messages(definition, message, ["http_client", "csv_parser"])
    assert system.text.startswith("You are a data analysis expert")
    assert user.text == (
        'You received a REQUEST for data-analysis capability:\n"Please analyze the sales data"\n\n'
        "Using your available tools (http_client, csv_parser),\n"
        "process this request and provide your analysis."
    )


async def test_a_template_of_the_performative_is_used() -> None:
    provider = Recorder()
    async with rooms(providers=recorded(provider)) as here:
        await here.supervisor.deploy(
            agent(
                "parameters: {tone: dry}",
                'user_prompt_template: "R {{request}}"',
                'prompt_templates: {query_handler: "Q {{tone}} {{message_content}} {{sender_agent}}"}',
            )
        )
        [draft] = await here.send("tester", {"a": 1}, performative=Performative.QUERY)
        assert draft.performative is Performative.INFORM
        assert draft.content == {"provider": "recorder", "answer": "done"}
        await here.send("tester", "{{tone}}")
    prompts = [request.messages[1].text for request in provider.requests]
    assert prompts == ['Q dry {"a": 1} client@node-2', "R {{tone}}"]


@pytest.mark.parametrize(
    ("form", "text", "content"),
    [
        ("natural", '{"a": 1}', '{"a": 1}'),
        ("structured", '```json\n{"a": 1}\n```', {"provider": "p", "a": 1}),
        ("structured", '{"a": NaN}', {"provider": "p", "answer": '{"a": NaN}'}),
        ("structured", "[" * 100_000, {"provider": "p", "answer": "[" * 100_000}),
        ("hybrid", "words", {"provider": "p", "text": "words", "data": None}),
    ],
)
def test_an_answer_takes_the_form_the_agent_asks_for(form: str, text: str, content: object) -> None:
    definition = parse_definition(agent(f"messaging: {{response_format: {form}}}"))
    assert reply_content(definition, Completion(text=text, provider="p")) == content


async def test_a_model_calls_a_tool_and_answers_from_its_result() -> None:
    providers = scripted(ANALYZE, 'match: {tool_result: "3.5"}, text: "It is 3.5."')
    async with rooms(providers=providers) as here:
        await here.supervisor.deploy(CSV_AGENT)
        [draft] = await here.send("tester", "total?", CSV)
        assert draft.content == {"provider": "scripted", "answer": "It is 3.5."}


async def test_a_tool_error_goes_back_to_the_model() -> None:
    providers = scripted(
        "tool_calls: [{name: csv_analyze, arguments: {file: other.csv}}]",
        'match: {tool_result: "no file"}, text: sorry',
    )
    async with rooms(providers=providers) as here:
        await here.supervisor.deploy(CSV_AGENT)
        [draft] = await here.send("tester", "x", CSV)
        assert draft.content["answer"] == "sorry"


async def test_a_model_cannot_call_a_tool_it_was_not_granted() -> None:
    providers = scripted(ANALYZE, 'match: {tool_result: "may not use"}, text: refused')
    async with rooms(providers=providers, tool_settings=ToolSettings(allowed_tools=())) as here:
        info = await here.supervisor.deploy(CSV_AGENT)
        assert info.tools == ()
        [draft] = await here.send("tester", "x", CSV)
        assert draft.content["answer"] == "refused"


async def test_the_same_call_a_third_time_ends_the_loop() -> None:
    async with rooms(providers=scripted(f"times: 0, {ANALYZE}")) as here:
        await here.supervisor.deploy(CSV_AGENT)
        [draft] = await here.send("tester", "x", CSV)
        assert failure(draft) == ("RESOURCE_LIMIT_EXCEEDED", "duplicate_calls")
        [draft] = await here.send("tester", "x", CSV)
        assert failure(draft) == ("RESOURCE_LIMIT_EXCEEDED", "duplicate_calls")


def calls(*names: str) -> str:
    return f"tool_calls: [{', '.join(f'{{name: {name}}}' for name in names)}]"


@pytest.mark.parametrize(
    ("rules", "settings", "front", "limit"),
    [
        (
            [calls("a"), calls("b"), calls("c"), "text: x"],
            AgentSettings(max_turns=3),
            "tags: []",
            "max_turns",
        ),
        ([calls("a"), "text: x"], AgentSettings(), "conversation: {max_turns: 1}", "max_turns"),
        ([calls("a", "b", "c"), "text: x"], AgentSettings(max_tool_calls=2), NOTHING, "max_tool_calls"),
        (
            [calls("a") + ", input_tokens: 99", "text: x"],
            AgentSettings(max_tokens=50),
            "tags: []",
            "max_tokens",
        ),
        (["latency_s: 31, text: x"], AgentSettings(), NOTHING, "wall_clock"),
        (["latency_s: 3, text: x"], AgentSettings(), "performance: {max_execution_time: 2s}", "wall_clock"),
        (["latency_s: 3, text: x"], AgentSettings(), "conversation: {timeout: 2s}", "wall_clock"),
    ],
)
async def test_every_bound_ends_the_loop(
    autojump_clock: trio.testing.MockClock,
    rules: list[str],
    settings: AgentSettings,
    front: str,
    limit: str,
) -> None:
    async with rooms(providers=scripted(*rules), settings=settings) as here:
        await here.supervisor.deploy(agent(front))
        [draft] = await here.send("tester", "x")
        assert failure(draft) == ("RESOURCE_LIMIT_EXCEEDED", limit)
        assert here.supervisor.get("tester").execution_stats["failed_requests"] == 1


async def test_an_agent_gets_all_the_turns_its_file_names() -> None:
    turns = [calls(f"step_{number}") for number in range(20)]
    async with rooms(providers=scripted(*turns, "text: done")) as here:
        await here.supervisor.deploy(agent("conversation: {max_turns: 21}"))
        [draft] = await here.send("tester", "x")
        assert draft.content["answer"] == "done"


async def test_an_answer_that_comes_too_late_for_its_sender_is_a_failure(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rooms(providers=scripted("latency_s: 3, text: x")) as here:
        await here.supervisor.deploy(agent())
        [draft] = await here.send("tester", "x", deadline=TestClock().now() + 1.0)
        assert failure(draft)[1] == "wall_clock"


async def test_the_work_of_an_agent_is_one_branch_of_its_senders_trace() -> None:
    exporter = InMemorySpanExporter()
    tracing = Tracing.create(
        node="node-1", enabled=True, clock=TestClock(), id_source=random.Random(1), exporter=exporter
    )
    async with rooms(tracing=tracing) as here:
        await here.supervisor.deploy(CSV_AGENT)
        await here.send("tester", "analyze", CSV)
        assert exporter.get_finished_spans() == ()  # no parent, no trace
        parent = f"00-{'a' * 32}-{'b' * 16}-01"
        await here.send("tester", "analyze", CSV, traceparent=parent)
    spans = exporter.get_finished_spans()
    names = {span.context.span_id: span.name for span in spans}
    tree = {(span.name, names.get(span.parent.span_id, "sender")) for span in spans if span.parent}
    assert tree == {
        ("agent.handle", "sender"),
        ("llm.complete", "agent.handle"),
        ("tools/call csv_analyze", "agent.handle"),
    }
    assert {span.context.trace_id for span in spans} == {int("a" * 32, 16)}


@pytest.mark.parametrize("error", ["rate_limited", "timeout", "malformed"])
async def test_a_failing_provider_is_a_failure_with_its_reason(error: str) -> None:
    async with rooms(providers=scripted(f"error: {error}")) as here:
        await here.supervisor.deploy(agent())
        [draft] = await here.send("tester", "x")
        assert draft.content["code"] == ProviderFailed.code
        assert draft.content["details"]["kind"] == error
        assert [r.level for r in here.supervisor.logs("tester", level="error")] == ["error"]


async def test_a_bug_in_a_provider_is_a_failure_and_the_agent_stays_up() -> None:
    class Broken(Recorder):
        async def complete(self, request: CompletionRequest, **_: object) -> Completion:
            if len(self.requests) == 0:
                self.requests.append(request)
                raise ZeroDivisionError
            return Completion(text="fine", provider=self.name, usage=Usage(1, 1))

    async with rooms(providers=recorded(Broken())) as here:
        await here.supervisor.deploy(agent())
        [draft] = await here.send("tester", "x")
        assert draft.content["code"] == "INTERNAL_ERROR"
        [draft] = await here.send("tester", "x")
        assert draft.content["answer"] == "fine"


@pytest.mark.parametrize(
    ("content", "performative"),
    [
        ({"action": "Meet", "at": 3}, Performative.ACCEPT_PROPOSAL),
        ("meet", Performative.ACCEPT_PROPOSAL),
        ({"proposal": "sell"}, Performative.REJECT_PROPOSAL),
        ({"action": "dance"}, Performative.NOT_UNDERSTOOD),
        ([1], Performative.NOT_UNDERSTOOD),
        (None, Performative.NOT_UNDERSTOOD),
    ],
)
async def test_a_proposal_is_decided_by_rule(content: object, performative: Performative) -> None:
    async with rooms() as here:
        await here.supervisor.deploy(agent("proposals: {accept: [meet], reject: [sell]}"))
        [draft] = await here.send("tester", content, performative=Performative.PROPOSE)
        assert draft.performative is performative


@pytest.mark.parametrize(
    ("asked", "answered"),
    [
        (Performative.SUBSCRIBE, Performative.REFUSE),
        (Performative.CANCEL, Performative.NOT_UNDERSTOOD),
    ],
)
async def test_what_outlives_a_message_is_declined_without_the_model(
    asked: Performative, answered: Performative
) -> None:
    recorder = Recorder()
    async with rooms(providers=recorded(recorder)) as here:
        await here.supervisor.deploy(agent())
        [draft] = await here.send("tester", "x", performative=asked)
        assert draft.performative is answered
        assert "configured agents" in draft.content["reason"]
        assert recorder.requests == []


BIDS = "bids: {cost: 10, load_cost: 20, max_load: 0.8, valid: 30s}"


@pytest.mark.parametrize(
    ("rules", "load", "performative", "content"),
    [
        (BIDS, 0.5, Performative.PROPOSE, {"load": 0.5, "cost": 20.0}),
        (BIDS, 0.8, Performative.PROPOSE, {"load": 0.8, "cost": 26.0}),
        (BIDS, 0.9, Performative.REFUSE, None),
        ("bids: {max_load: 1}", 0.25, Performative.PROPOSE, {"load": 0.25}),
        (NOTHING, 0.0, Performative.REFUSE, None),
    ],
)
async def test_a_bid_is_made_by_rule_and_without_the_model(
    rules: str, load: float, performative: Performative, content: object
) -> None:
    recorder = Recorder()
    async with rooms(providers=recorded(recorder)) as here:
        here.bus.busy = load
        await here.supervisor.deploy(agent(rules))
        [draft] = await here.send("tester", "task", performative=Performative.CFP)
        assert draft.performative is performative
        if content is not None:
            assert draft.content == content
            assert draft.reply_by_s is not None
        assert recorder.requests == []


async def test_an_agent_whose_bid_is_accepted_does_what_it_has_bid_for() -> None:
    recorder = Recorder()
    async with rooms(providers=recorded(recorder)) as here:
        await here.supervisor.deploy(agent(BIDS))
        here.bus.called = delivery("the task", CSV, performative=Performative.CFP).message
        [draft] = await here.send("tester", "something else", performative=Performative.ACCEPT_PROPOSAL)
        assert draft.performative is Performative.INFORM
        said = str(recorder.requests[0])
        assert "the task" in said
        assert "s.csv" in said
        assert "something else" not in said


async def test_a_task_that_is_forgotten_is_taken_from_the_acceptance_or_has_failed() -> None:
    recorder = Recorder()
    async with rooms(providers=recorded(recorder)) as here:
        await here.supervisor.deploy(agent(BIDS))
        [draft] = await here.send("tester", "said again", performative=Performative.ACCEPT_PROPOSAL)
        assert (draft.performative, len(recorder.requests)) == (Performative.INFORM, 1)
        [draft] = await here.send("tester", None, performative=Performative.ACCEPT_PROPOSAL)
        assert failure(draft)[0] == "MESSAGE_NOT_FOUND"
        assert len(recorder.requests) == 1


async def test_a_model_that_refuses_an_accepted_task_has_failed() -> None:
    async with rooms(providers=scripted('text: "not my task", outcome: refused')) as here:
        await here.supervisor.deploy(agent(BIDS))
        [draft] = await here.send("tester", "x", performative=Performative.ACCEPT_PROPOSAL)
        assert draft.performative is Performative.FAILURE


async def test_an_acceptance_without_rules_for_bids_is_noted() -> None:
    async with rooms(providers=recorded(Recorder())) as here:
        await here.supervisor.deploy(agent())
        assert await here.send("tester", "x", performative=Performative.ACCEPT_PROPOSAL) == []


async def test_a_model_that_refuses_is_answered_for_with_refuse() -> None:
    async with rooms(providers=scripted('text: "not my task", outcome: refused')) as here:
        await here.supervisor.deploy(agent())
        [draft] = await here.send("tester", "x")
        assert draft.performative is Performative.REFUSE


async def test_an_inform_is_noted_and_answered_only_on_request() -> None:
    async with rooms(providers=recorded(Recorder())) as here:
        await here.supervisor.deploy(agent())
        assert await here.send("tester", "x", performative=Performative.INFORM) == []
        await here.supervisor.deploy(agent("messaging: {auto_respond: true}"), replace=True)
        again = {"performative": Performative.INFORM, "conversation": "new"}  # the old one keeps its version
        assert len(await here.send("tester", "x", **again)) == 1
        assert await here.send("tester", "x", performative=Performative.FAILURE) == []


async def test_an_agent_asks_another_one_hop_further() -> None:
    providers = scripted(
        "tool_calls: [{name: ask_data_analysis, arguments: {content: {q: 1}, files: [s.csv]}}]",
        'match: {tool_result: "42"}, text: "asked"',
        "tool_calls: [{name: ask_data_analysis, arguments: {content: 1}}]",
        'match: {tool_result: "42"}, text: "asked at the limit"',
        "tool_calls: [{name: ask_data_analysis, arguments: {content: 1}}]",
        'match: {tool_result: "ring"}, text: "stopped"',
    )
    async with rooms(providers=providers) as here:
        await here.supervisor.deploy(agent("requires: [data-analysis]"))
        here.bus.reply = Message(
            id="r",
            performative=Performative.INFORM,
            sender="other@node-2",
            receiver="tester@node-1",
            content=42,
            conversation_id="c",
            reply_with="r",
        )
        [draft] = await here.send("tester", "x", CSV, hops=2)
        assert draft.content["answer"] == "asked"
        [(question, hops)] = here.bus.asked
        assert (question.sender, question.capability, hops) == ("tester@node-1", "data-analysis", 3)
        assert question.attachments == (CSV,)
        [draft] = await here.send("tester", "x", hops=HOP_LIMIT - 1)
        assert (draft.content["answer"], here.bus.asked[-1][1]) == ("asked at the limit", HOP_LIMIT)
        [draft] = await here.send("tester", "x", hops=HOP_LIMIT)
        assert draft.content["answer"] == "stopped"
        assert len(here.bus.asked) == 2


async def test_a_file_that_is_not_attached_is_not_left_out_of_a_question() -> None:
    providers = scripted(
        "tool_calls: [{name: ask_data_analysis, arguments: {content: 1, files: [absent.csv]}}]",
        'match: {tool_result: "list of the message.s attachments: s.csv"}, text: "told"',
    )
    async with rooms(providers=providers) as here:
        await here.supervisor.deploy(agent("requires: [data-analysis]"))
        [draft] = await here.send("tester", "x", CSV)
        assert (draft.content["answer"], here.bus.asked) == ("told", [])


async def test_an_answer_cannot_claim_another_provider() -> None:
    async with rooms(providers=scripted("content: {provider: oracle, answer: 1}")) as here:
        await here.supervisor.deploy(agent())
        [draft] = await here.send("tester", "x")
        assert draft.content == {"provider": "scripted", "answer": 1}


async def test_a_bug_is_one_failure_logged_with_its_trace_and_the_agent_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Buggy:
        name = "builtin"

        async def complete(self, request: CompletionRequest, **_: object) -> Completion:
            raise KeyError("swordfish")

    trace = "ab" * 16
    async with rooms(providers=ProviderRegistry(providers={"builtin": Buggy()})) as here:
        await here.supervisor.deploy(agent())
        for _ in range(2):
            [draft] = await here.send("tester", "x", traceparent=f"00-{trace}-{'cd' * 8}-01")
            assert draft.performative is Performative.FAILURE
            assert "swordfish" not in str(draft.content)
        assert here.supervisor.get("tester").execution_stats["failed_requests"] == 2
    assert [getattr(record, "trace_id", "") for record in caplog.records] == [trace, trace]
