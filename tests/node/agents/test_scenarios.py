"""Scenarios: their file is strict, they run as on a node, and rules judge them."""

from __future__ import annotations

import textwrap
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from node.agents.scenarios import AgentFiles, Trial, Verdict, read_scenarios
from node.agents.scenarios.file import Check, Expect, Scenario
from node.agents.scenarios.judging import Absent, Conduct, ToolUse, at, judge
from node.cli.agent_files import read_agent, scenarios_path
from node.cli.deploy import read_file
from node.environment import system_environment
from node.errors import AgentInvalid
from node.llm.builtin import BuiltinProvider
from node.llm.scripted import ScriptedProvider
from node.samples import sample_agents
from tests.node.agents.test_configured import Recorder
from tests.node.agents.test_definition import agent


def read(text: str) -> tuple[Scenario, ...]:
    return read_scenarios(textwrap.dedent(text).encode()).whole("x.scenarios.yaml")


def problems(text: str) -> list[tuple[str, str, int, int]]:
    found = read_scenarios(textwrap.dedent(text).encode())
    assert found.scenarios == ()
    return [(p.field, p.message, p.line, p.column) for p in found.problems]


def test_every_problem_has_its_place_and_the_nearest_key() -> None:
    found = problems(
        """\
        scenarios:
          - name: one
            inptu: {content: 1}
            input: {content: 1, performative: requst}
            expect:
              tolls: [a]
              max_turns: 0
              content:
                - {at: rows, equals: 1}
                - {equals: 1, contains: x}
                - {matches: "("}
        """
    )
    assert [(field, line, column) for field, _, line, column in found] == [
        ("scenarios[0].inptu", 3, 5),
        ("scenarios[0].input.performative", 4, 39),
        ("scenarios[0].expect.tolls", 6, 7),
        ("scenarios[0].expect.max_turns", 7, 18),
        ("scenarios[0].expect.content[0].at", 9, 16),
        ("scenarios[0].expect.content[1]", 10, 11),
        ("scenarios[0].expect.content[2].matches", 11, 21),
    ]
    said = " ".join(message for _, message, _, _ in found)
    for words in (
        "did you mean 'input'?",
        "did you mean 'tools'?",
        "Did you mean 'request'?",
        "exactly one of",
    ):
        assert words in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        ("- a", "mapping"),
        ("scenarios: []", "is empty"),
        ("scenarios: [{name: a}]", "'input' is required"),
        ("scenarios: [{name: a, input: {}}, {name: a, input: {}}]", "two scenarios have the name 'a'"),
        ("scenarios: [{name: a, input: {}, providers: [scripted]}]", "a script is needed"),
        ("scenarios: [{name: a, input: {}, providers: [openai]}]", "must be"),
        ("scenarios: [{name: a, input: {}, script: [{text: a, tool_calls: [{name: b}]}]}]", "exactly one of"),
        ("scenarios: [{name: a, input: {}, expect: {content: [{follows: {type: x}}]}}]", "no JSON Schema"),
        ("scenarios: &a [*a]", "aliases"),
        ("scenarios: [", "broken"),
        ("scenarios: [{name: a, input: {}, input: {}}]", "twice"),
    ],
)
def test_a_file_that_is_wrong_says_why(text: str, said: str) -> None:
    assert said in problems(text)[0][1]
    with pytest.raises(AgentInvalid, match="problem"):
        read(text)


@pytest.mark.parametrize(
    ("pointer", "found"),
    [("", {"a/b": [{"~": 1}]}), ("/a~1b/0/~0", 1), ("/a~1b/0", {"~": 1})],
)
def test_a_pointer_leads_to_a_value(pointer: str, found: object) -> None:
    assert at({"a/b": [{"~": 1}]}, pointer) == found


@pytest.mark.parametrize("pointer", ["/a", "/a~1b/1", "/a~1b/-1", "/a~1b/00", "/a~1b/0/~0/x"])
def test_a_pointer_that_leads_nowhere_says_what_is_there(pointer: str) -> None:
    with pytest.raises(Absent, match="there is"):
        at({"a/b": [{"~": 1}]}, pointer)


DONE = Conduct(
    "inform",
    {"answer": ["total 50"], "rows": 3, "ok": True},
    (ToolUse("a", {"n": 1}), ToolUse("b", error="broken"), ToolUse("a", {"n": 2})),
    turns=3,
    tokens=900,
)


@pytest.mark.parametrize(
    ("expect", "said"),
    [
        ({"performative": "failure"}, "the reply is inform, not failure"),
        ({"tools": ["a", "c"]}, "the tool c was not used"),
        ({"tools": ["b", "a", "a"]}, "the tool a was not used"),
        ({"not_tools": ["a"]}, "the tool a was used"),
        ({"tools": ["b"]}, "b failed: broken"),
        ({"results": [{"tool": "a", "at": "/n", "equals": 3}]}, "results of a/n: is 2, not 3"),
        ({"results": [{"tool": "b", "equals": 3}]}, "b has given none"),
        ({"content": [{"at": "/rows", "equals": 4}]}, "content/rows: is 3, not 4"),
        ({"content": [{"at": "/ok", "equals": 1}]}, "content/ok: is true, not 1"),
        ({"content": [{"at": "/sum", "equals": 4}]}, "there is no 'sum'; there is answer, rows, ok"),
        ({"content": [{"contains": "total 51"}]}, "does not contain"),
        ({"content": [{"at": "/answer/0", "matches": "^5"}]}, "does not match"),
        ({"content": [{"follows": {"required": ["sum"]}}]}, "'sum' is a required property"),
        ({"max_turns": 2}, "it took 3 turns"),
        ({"max_tokens": 899}, "it took 900 tokens"),
    ],
)
def test_what_is_not_as_expected_is_said(expect: dict[str, Any], said: str) -> None:
    assert said in " ".join(judge(DONE, Expect.model_validate(expect)))


def test_what_is_as_expected_says_nothing() -> None:
    expect = {
        "tools": ["a", "a"],
        "not_tools": ["c"],
        "results": [{"tool": "a", "at": "/n", "equals": 1}, {"tool": "a", "at": "/n", "equals": 2}],
        "content": [
            {"at": "/answer/0", "matches": r"\d+"},
            {"contains": "total 50"},
            {"follows": {"required": ["rows"]}},
            {"at": "/ok", "equals": True},
        ],
        "max_turns": 3,
        "max_tokens": 900,
    }
    assert judge(DONE, Expect.model_validate(expect)) == []
    assert Check.model_validate({"equals": None}).equals is None  # null can be expected


def trial(content: bytes, directory: Path = Path()) -> Trial:
    return Trial(
        AgentFiles("a.md", content),
        directory,
        environment=system_environment(),
        read_agent=read_agent,
        read_file=Path.read_bytes,
    )


def scenario(**fields: Any) -> Scenario:
    return Scenario.model_validate({"name": "one", "input": {"content": "x"}, **fields})


@pytest.mark.parametrize("path", sample_agents(), ids=lambda path: path.stem)
async def test_every_sample_agent_passes_its_scenarios(path: Path) -> None:
    found = read_scenarios(scenarios_path(path).read_bytes()).whole(path.name)
    tried = Trial(
        read_agent(path),
        path.parent,
        environment=system_environment(),
        read_agent=read_agent,
        read_file=Path.read_bytes,
    )
    kinds = set()
    for each in found:
        for kind in each.kinds:
            kinds.add(kind)
            verdict = await tried.run(each, partial(provider_of, kind))
            assert verdict.problems == (), (path.stem, each.name, kind)
    assert kinds >= ({"builtin"} if path.stem == "echo" else {"builtin", "scripted"})


def provider_of(kind: str, each: Scenario) -> Any:
    if kind == "builtin":
        return BuiltinProvider()
    return ScriptedProvider(each.script_text, system_environment().clock)


async def test_the_history_is_sent_first_and_the_last_message_counts() -> None:
    provider = Recorder()
    verdict = await trial(agent()).run(
        scenario(input={"content": "new", "history": [{"content": "old"}]}, expect={"max_turns": 1}),
        lambda _: provider,
    )
    assert verdict.passed
    assert [request.subject.content for request in provider.requests] == ["old", "new"]
    assert len({request.subject.conversation_id for request in provider.requests}) == 1


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"input": {"attachments": ["gone.csv"]}}, "gone.csv"),
        ({"agents": ["gone.md"]}, "gone.md"),
        ({"expect": {"performative": "none"}}, "the reply is inform, not none"),
    ],
)
async def test_what_cannot_be_run_is_a_problem_of_the_verdict(
    fields: dict[str, Any], said: str, tmp_path: Path
) -> None:
    tried = Trial(
        AgentFiles("a.md", agent()),
        tmp_path,
        environment=system_environment(),
        read_agent=read_agent,
        read_file=read_file,
    )
    verdict: Verdict = await tried.run(scenario(**fields), lambda _: Recorder())
    assert said in " ".join(verdict.problems)


@pytest.mark.parametrize(
    ("sent", "reply"),
    [
        ({"performative": "propose", "content": {"action": "Renewal"}}, "accept_proposal"),
        ({"performative": "propose", "content": "termination"}, "reject_proposal"),
        ({"performative": "propose", "content": "merger"}, "not_understood"),
        ({"performative": "QUERY-REF", "content": "what?"}, "inform"),
        ({"performative": "cfp", "content": "review it"}, "propose"),
        ({"performative": "inform", "content": "news"}, "none"),
        ({"performative": "subscribe", "content": "news"}, "refuse"),
        ({"performative": "cancel"}, "not_understood"),
    ],
)
async def test_every_performative_can_be_sent_and_expected(sent: dict[str, Any], reply: str) -> None:
    clerk = agent("proposals: {accept: [renewal], reject: [termination]}", "bids: {cost: 3}")
    verdict = await trial(clerk).run(
        scenario(input=sent, expect={"performative": reply}), lambda _: Recorder()
    )
    assert verdict.problems == ()


async def test_an_agent_with_problems_is_shown_with_all_of_them() -> None:
    verdict = await trial(b"---\nname: abc\ntypo: 1\n---\n").run(scenario(), lambda _: Recorder())
    assert not verdict.passed
    assert "typo" in verdict.problems[0]
    assert "system_prompt" in verdict.problems[0]


async def test_memory_does_not_live_from_one_run_to_the_next() -> None:
    content = agent("memory_enabled: true", "tools: [memory]")
    entity = "{name: Blue, entityType: c, observations: [x]}"
    store = f"tool_calls: [{{name: create_entities, arguments: {{entities: [{entity}]}}}}]"
    for _ in range(2):
        provider = ScriptedProvider(
            f"rules:\n  - {{{store}}}\n  - {{text: done}}\n", system_environment().clock
        )
        verdict = await trial(content).run(
            scenario(expect={"results": [{"tool": "create_entities", "contains": "Blue"}]}),
            lambda _, given=provider: given,
        )
        assert verdict.problems == ()


async def test_pages_are_served_to_the_tools_of_the_run_and_named_in_its_texts() -> None:
    front = ["tools: [http_client]", 'security: {allowed_domains: ["*"]}']
    url = "{{server}}/a"
    given = scenario(
        serve={"/a": {"text": "hello", "media_type": "text/plain"}},
        input={"content": {"url": url}},
        script=[
            {"tool_calls": [{"name": "http_get", "arguments": {"url": url}}]},
            {"tool_calls": [{"name": "http_get", "arguments": {"url": "{{server}}/b"}}]},
            {"tool_calls": [{"name": "http_get", "arguments": {"url": "http://localhost:1/"}}]},
            {"text": url},
        ],
        expect={
            "results": [
                {"tool": "http_get", "at": "/text", "equals": "hello"},
                {"tool": "http_get", "at": "/status", "equals": 404},
            ],
            "content": [{"at": "/answer", "matches": "^http://127.0.0.1:[0-9]+/a$"}],
        },
    )
    verdict = await trial(agent(*front)).run(given, partial(provider_of, "scripted"))
    assert [use.name for use in verdict.conduct.uses] == ["http_get"] * 3  # type: ignore[union-attr]
    [problem] = verdict.problems
    assert problem.startswith("http_get failed")
    assert "allow" in problem  # what is not served is not called


async def test_folders_are_there_for_the_run_alone() -> None:
    given = scenario(
        folders={"library": {"deep/a.txt": "in it"}},
        input={"content": "read library/deep/a.txt"},
        expect={"results": [{"tool": "read_file", "contains": "in it"}]},
    )
    content = agent("tools: [files]")
    verdict = await trial(content).run(given, lambda _: BuiltinProvider())
    assert verdict.problems == ()
    without = given.model_copy(update={"folders": {}})
    verdict = await trial(content).run(without, lambda _: BuiltinProvider())
    assert not verdict.passed


@pytest.mark.parametrize(
    "line",
    [
        "serve: {/a: {text: x, status: 999}}",
        'serve: {/a: {text: x, media_type: "text/plain\\r\\nx: y"}}',
        "folders: {..: {a: x}}",
        "folders: {a: {../b: x}}",
        "folders: {a: {/etc/b: x}}",
        "folders: {a/b: {c: x}}",
    ],
)
def test_what_a_scenario_puts_around_its_agent_stays_inside(line: str) -> None:
    assert read_scenarios(f"scenarios: [{{name: a, input: {{}}, {line}}}]".encode()).problems


async def test_a_scenario_decides_about_calls_that_need_an_operator() -> None:
    marked = agent("tools: [time]", "security: {require_approval: [time/time_now]}")
    [approved, denied, undecided] = read(
        """\
        scenarios:
          - name: approved
            approve: [time]
            input: {content: "the time"}
            script:
              - {match: {turn: 1}, tool_calls: [{name: time_now, arguments: {}}]}
              - {match: {tool_result: "denied by the operator: too late"}, text: "I may not."}
              - {text: "It is noon."}
            expect: {tools: [time_now], content: [{at: /answer, equals: "It is noon."}], max_turns: 2}
          - name: denied
            approve: ["*"]
            deny: {time/time_now: too late}
            input: {content: "the time"}
            script:
              - {match: {turn: 1}, tool_calls: [{name: time_now, arguments: {}}]}
              - {match: {tool_result: "denied by the operator: too late"}, text: "I may not."}
              - {text: "It is noon."}
            expect: {not_tools: [time_now], content: [{at: /answer, equals: "I may not."}]}
          - name: undecided
            input: {content: "the time"}
            script:
              - {match: {turn: 1}, tool_calls: [{name: time_now, arguments: {}}]}
              - {match: {tool_result: "denied by the operator: too late"}, text: "I may not."}
              - {text: "It is noon."}
            expect: {performative: agree, not_tools: [time_now]}
        """
    )
    environment = system_environment()
    trial = Trial(
        AgentFiles("tester.md", marked),
        Path(),
        environment=environment,
        read_agent=read_agent,
        read_file=read_file,
    )

    def make(scenario: Scenario) -> ScriptedProvider:
        return ScriptedProvider(scenario.script_text, environment.clock)

    for scenario in (approved, denied, undecided):
        verdict = await trial.run(scenario, make)
        assert verdict.problems == (), scenario.name
