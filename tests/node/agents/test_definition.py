"""An agent file becomes a definition, or a list of everything that is wrong with it and where."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.agents.definition import examine_definition, normalise_name, parse_definition
from node.agents.frontmatter import FILE_LIMIT_BYTES, PROBLEM_LIMIT
from node.agents.template import LATER_VARIABLES, render
from node.errors import AgentInvalid, ValidationFailed

PUBLISHED = b"""---
name: DataAnalyzer
capabilities: [data-analysis, report-generation]
tools: [http_client, csv_parser, chart_generator]
memory_enabled: true
parameters:
  max_file_size: "10MB"
system_prompt: |
  You are a data analysis expert who helps users understand their data.
---
"""

BROKEN = b"""---
nam: X
version: one
tools:
  - a
  - 3
capabilities: [Data_X, ok]
capabilities: [b]
user_prompt_template: "hi {{requst}}"
conversation:
  max_turns: 0
  max_turn: 3
performance: {max_execution_time: soon}
parameters: {request: x}
---
"""


def agent(*lines: str, name: str = "tester") -> bytes:
    head = [f"name: {name}", "version: 1.2.3", "capabilities: [testing]", "system_prompt: Test."]
    return "\n".join(["---", *head, *lines, "---", "# About", "text"]).encode()


def problems(content: bytes, **options: Any) -> list[dict[str, Any]]:
    with pytest.raises(AgentInvalid) as caught:
        parse_definition(content, **options)
    found: list[dict[str, Any]] = caught.value.details["problems"]
    return found


def test_the_published_example_loads_unchanged() -> None:
    definition = parse_definition(PUBLISHED, known_tools=["csv_parser"])
    assert (definition.id, definition.name, definition.version) == ("data-analyzer", "DataAnalyzer", "1.0.0")
    assert definition.tools == ("http_client", "csv_parser", "chart_generator")
    warned = [(w.field, w.type) for w in definition.warnings]
    assert warned == [
        ("version", "missing_field"),
        ("tools[0]", "unknown_tool"),
        ("tools[2]", "unknown_tool"),
    ]


def test_warnings_are_errors_in_strict_mode() -> None:
    found = problems(PUBLISHED, known_tools=["csv_parser"], strict=True)
    assert "tools[0]" in [p["field"] for p in found]


def test_all_problems_are_found_at_once_each_with_its_place() -> None:
    found = {p["field"]: (p["type"], p["line"], p["column"]) for p in problems(BROKEN)}
    assert found == {
        "name": ("missing_field", 1, 1),
        "system_prompt": ("missing_field", 1, 1),
        "nam": ("unknown_field", 2, 1),
        "version": ("invalid_value", 3, 10),
        "tools": ("invalid_value", 5, 3),
        "capabilities[0]": ("invalid_capability", 7, 16),
        "capabilities": ("duplicate_field", 8, 1),
        "user_prompt_template": ("template", 9, 23),
        "conversation.max_turns": ("invalid_value", 11, 14),
        "conversation.max_turn": ("unknown_field", 12, 3),
        "performance.max_execution_time": ("invalid_value", 13, 35),
        "parameters.request": ("reserved_name", 14, 23),
    }
    nearest = {p["field"]: p["available_alternatives"] for p in problems(BROKEN)}
    assert nearest["nam"] == ["name"]
    assert nearest["conversation.max_turn"] == ["max_turns"]
    assert nearest["user_prompt_template"] == ["request"]


def test_the_place_is_told_in_words_too() -> None:
    assert problems(BROKEN)[2]["location"] == "line 2, column 1"


@pytest.mark.parametrize(
    ("content", "line", "column", "message"),
    [
        (b"---\nname: [a\nb: {\n---\n", 3, 2, "YAML is broken"),
        (b"---\nname: a\n\tb: c\n---\n", 3, 1, "YAML is broken"),
        (b"---\nname: &a x\nb: *a\n---\n", 3, 4, "aliases"),
        (b"---\na: " + b"[" * 40 + b"]" * 40 + b"\n---\n", 2, 19, "nested deeper"),
        (b"---\na: !!python/object:os.system x\n---\n", 2, 4, "not allowed"),
        (b"---\na: \x07\n---\n", 2, 4, "not allowed"),
        (b"---\nname: \xff\n---\n", 2, 7, "UTF-8"),
        (b"---\nname: a\n", 3, 1, "never closed"),
        (b"# Agent\n", 1, 1, "must begin"),
        (b"---\n- a\n---\n", 2, 1, "mapping"),
        (b"---\n\n---\n", 2, 1, "empty"),
        (b"", 1, 1, "must begin"),
        (b"---\n" + b"#" * FILE_LIMIT_BYTES + b"\n---\n", 1, 1, "at most 262,144"),
        (b"---\n" + b"#" * 70_000 + b"\n---\n", 1, 1, "front matter is larger"),
    ],
)
def test_a_broken_file_is_refused_with_line_and_column(
    content: bytes, line: int, column: int, message: str
) -> None:
    found = next(p for p in problems(content) if message in p["message"])
    assert (found["line"], found["column"]) == (line, column)


@pytest.mark.parametrize(
    ("name", "identifier"),
    [
        ("DataAnalyzer", "data-analyzer"),
        ("data-analyzer", "data-analyzer"),
        ("HTTPClient", "http-client"),
        ("Agent2", "agent2"),
        ("CSV-Reader", "csv-reader"),
        ("a-1", "a-1"),
    ],
)
def test_names_normalise_to_kebab_case(name: str, identifier: str) -> None:
    assert normalise_name(name) == identifier
    assert normalise_name(identifier) == identifier


@pytest.mark.parametrize("name", ["ab", "1abc", "abc-", "a b c", "a_b_c", "x" * 65, "", "äbc", "abc\n"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ValidationFailed):
        normalise_name(name)


def test_groups_are_read_with_their_units() -> None:
    definition = parse_definition(
        agent(
            "conversation: {max_turns: 4, timeout: 500ms}",
            "performance: {max_execution_time: 2m}",
            "author: Ann",
            "created: 2024-05-01",
            "proposals: {accept: [meet], reject: [sell]}",
        )
    )
    assert definition.setting("conversation", "timeout") == 0.5
    assert definition.setting("performance", "max_execution_time") == 120
    assert definition.data == {"author": "Ann", "created": "2024-05-01"}
    assert definition.documentation == "# About\ntext"
    assert definition.warnings == ()


def test_a_wasm_agent_needs_a_module_and_no_prompt() -> None:
    text = b"---\nname: echo\nversion: 1.0.0\nruntime: wasm\ncapabilities: [echo]\n---\n"
    assert [p["field"] for p in problems(text)] == ["module"]
    found = problems(text.replace(b"runtime: wasm", b"runtime: wasm\nmodule: ../x.wat\nrequires: [more]"))
    assert [p["field"] for p in found] == ["module", "requires"]


@pytest.mark.parametrize(
    ("more", "field", "severity"),
    [
        ("tools: [text]", "tools", "warning"),
        ("wasm: {memory_read: [global]}", "wasm.memory_read", "warning"),
        ("wasm: {grants: [tools]}", "wasm.grants", "warning"),
        ("tools: [text]\nwasm: {grants: [tools], deterministic: true}", "wasm.deterministic", "error"),
        ("wasm: {grants: [memory], deterministic: true}", "wasm.deterministic", "error"),
        ("wasm: {grants: [memory], memory_read: [mine]}", "wasm.memory_read", "error"),
    ],
)
def test_what_has_no_effect_on_a_wasm_agent_is_a_warning_and_what_contradicts_itself_an_error(
    more: str, field: str, severity: str
) -> None:
    text = "---\nname: echo\nversion: 1.0.0\nruntime: wasm\ncapabilities: [echo]\nmodule: x.wat\n"
    found = examine_definition(f"{text}{more}\n---\n".encode()).problems
    assert [(p.field, p.severity) for p in found] == [(field, severity)]


def test_templates_are_filled_once() -> None:
    assert render("{{a}} {{ b }}", {"a": "{{b}}", "b": [1]}) == "{{b}} [1]"


def test_a_parameter_can_be_used_in_a_template() -> None:
    parse_definition(agent("parameters: {tone: dry}", 'user_prompt_template: "{{tone}} {{request}}"'))
    found = problems(agent('user_prompt_template: "{{tone}} {{ request"'))
    assert [p["type"] for p in found] == ["template", "template"]


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200) | st.text(alphabet="ab:-[]{}\n &*!'\"#|>?%@`", max_size=80).map(str.encode))
def test_any_front_matter_gives_problems_and_nothing_else(data: bytes) -> None:
    with pytest.raises(AgentInvalid) as caught:
        parse_definition(b"---\n" + data + b"\n---\n")
    assert caught.value.details["problems"]


def test_warnings_never_crowd_out_an_error() -> None:
    tools = ", ".join(f"absent-{n}" for n in range(64))
    later = " ".join(f"{{{{{name}}}}}" for name in LATER_VARIABLES)
    handlers = "\n".join(f'  {kind}_handler: "{later}"' for kind in ("request", "query"))
    content = f"""---
name: noisy
version: 1.0.0
capabilities: [noise]
tools: [{tools}]
security: {{restricted_tools: [{tools}]}}
system_prompt: "{later}"
prompt_templates:
{handlers}
  inform_handler: "{{{{nobody_fills_this}}}}"
---
""".encode()
    with pytest.raises(AgentInvalid) as caught:
        parse_definition(content, known_tools=["csv_parser"])
    found = caught.value.details["problems"]
    assert [p["field"] for p in found if p["severity"] == "error"] == ["prompt_templates.inform_handler"]
    assert sum(p["severity"] == "warning" for p in found) == PROBLEM_LIMIT


def test_a_file_full_of_problems_gets_a_bounded_list() -> None:
    content = b"---\n" + b"a: 1\n" * 10_000 + b"---\n"
    with pytest.raises(AgentInvalid) as caught:
        parse_definition(content)
    assert len(caught.value.details["problems"]) <= 2 * PROBLEM_LIMIT


def test_a_restriction_that_restricts_nothing_is_a_warning() -> None:
    content = b"""---
name: careful
version: 1.0.0
capabilities: [care]
tools: [csv_parser]
security: {restricted_tools: [csv_parser/csv_fnd, csv_top, csv_parser/csv_find]}
system_prompt: Be careful.
---
"""
    known = ["csv_parser", "csv_parser/csv_find", "csv_parser/csv_top"]
    [warning] = parse_definition(content, known_tools=known).warnings
    assert (warning.field, warning.available_alternatives) == (
        "security.restricted_tools[0]",
        ("csv_parser/csv_find",),
    )


def test_topics_are_patterns_with_or_without_a_group():
    lines = "topics: [orders.#, {topic: stock.*, group: billing}, {topic: a.b}, orders.#]"
    definition = parse_definition(
        f"---\nname: Listener\nversion: 1.0.0\n{lines}\nsystem_prompt: x\n---\n".encode()
    )
    assert definition.topics == (("orders.#", ""), ("stock.*", "billing"), ("a.b", ""))
    assert definition.capabilities == ()


@pytest.mark.parametrize(
    "topics",
    ["[a.#.b]", "7", "[{group: x}]", "[{topic: a, grup: x}]", "[{topic: a, group: two words}]", "[[a]]",
     "[" + "a, " * 17 + "]", "['']"],
)  # fmt: skip
def test_a_wrong_subscription_is_refused_with_its_place(topics):
    with pytest.raises(AgentInvalid) as caught:
        parse_definition(
            f"---\nname: Listener\nversion: 1.0.0\ntopics: {topics}\nsystem_prompt: x\n---\n".encode()
        )
    [problem] = caught.value.details["problems"]
    assert (problem["field"], problem["line"]) == ("topics", 4)


def test_an_expression_over_contents_is_read():
    assert parse_definition(agent("accepts: content.amount > 100")).accepts == "content.amount > 100"
    assert parse_definition(agent()).accepts == ""


@pytest.mark.parametrize("text", ["content.amount >", "amount > 1", "content.f()", "7", "[content.a]"])
def test_a_wrong_expression_is_refused_with_its_place(text):
    with pytest.raises(AgentInvalid) as caught:
        parse_definition(agent(f"accepts: {text}"))
    [problem] = [p for p in caught.value.details["problems"] if p["severity"] == "error"]
    assert problem["field"] == "accepts"
    assert problem["line"] > 1
    assert "expression" in problem["message"]


def test_a_policy_for_minorities_is_one_of_three():
    assert parse_definition(agent("minority: refuse")).minority == "refuse"
    assert parse_definition(agent()).minority == "serve"
    with pytest.raises(AgentInvalid) as caught:
        parse_definition(agent("minority: queued"))
    assert "did you mean 'queue'?" in str(caught.value.details["problems"])
