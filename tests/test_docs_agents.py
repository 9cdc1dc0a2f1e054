"""The pages say of agents what the code says: fields, examples, the interface of modules, limits."""

import json

from node.agents.definition import parse_definition
from node.agents.fields import GROUPS, TOP
from node.agents.scenarios import Scenario, read_scenarios
from node.agents.scenarios.file import Expect, Input
from node.agents.settings import AgentSettings
from node.agents.template import LATER_VARIABLES, MESSAGE_VARIABLES
from node.agents.wasm import WasmPolicy, interface
from node.agents.wasm.engine import CoreModule, WasmEngine, binary_of
from node.agents.wasm.host import Moment, Way
from node.agents.wasm.instance import WasmInstance
from node.environment import SystemClock
from node.llm.scripted import ScriptedProvider
from node.samples import sample_agents
from node.tools.builtin_servers import builtin_servers
from tests.docs_pages import DOCS, blocks, column, number, plain, rows


# agents.md
def test_every_field_of_an_agent_file_is_documented_with_its_effect() -> None:
    words = {"used": "used", "data": "carried", "later": "later"}
    table = dict(TOP) | {f"{g}.{name}": field for g, group in GROUPS.items() for name, field in group.items()}
    said = {plain(row["Field"]): row["Effect"] for row in rows("agents.md", "Field", "Effect")}
    assert said == {name: words[field.effect.value] for name, field in table.items()}
    assert column("agents.md", "Variable") == [*MESSAGE_VARIABLES, *LATER_VARIABLES]


def test_the_agent_files_of_the_page_are_valid() -> None:
    known = [name for s in builtin_servers() for name in (s.name, *(f"{s.name}/{tool}" for tool in s.tools))]
    found = [
        parse_definition(text.encode(), known_tools=known)
        for page in ("agents.md", "wasm.md")
        for text in blocks(DOCS / page, "markdown")
    ]
    assert [agent.id for agent in found] == ["data-analyzer", "contract-clerk", "pong"]
    assert [agent.warnings for agent in found] == [(), (), ()]
    assert found[1].groups["messaging"] == {"auto_respond": True, "response_format": "hybrid"}


def test_the_tools_of_the_page_are_those_there_are() -> None:
    tools = [f"{server.name}/{tool}" for server in builtin_servers() for tool in server.tools]
    assert column("agents.md", "Tool") == tools


def test_the_scenarios_of_the_page_are_valid_and_every_key_is_documented() -> None:
    text = next(block for block in blocks(DOCS / "agents.md", "yaml") if block.startswith("scenarios:"))
    assert read_scenarios(text.encode()).problems == ()
    for head, model in (("scenario", Scenario), ("`input`", Input), ("`expect`", Expect)):
        assert column("agents.md", f"Key of {'a ' if head == 'scenario' else ''}{head}") == list(
            model.model_fields
        )


def test_every_sample_agent_is_on_the_page() -> None:
    assert sorted(column("agents.md", "Sample")) == [path.stem for path in sample_agents()]


def test_the_script_of_the_page_is_valid() -> None:
    script = next(block for block in blocks(DOCS / "agents.md", "yaml") if block.startswith("strict:"))
    assert ScriptedProvider(script, SystemClock()).unused() == [1, 2, 3]


def test_the_interface_of_modules_is_that_of_the_code() -> None:
    exports = {
        plain(row["Export"]): (plain(row["Signature"]), row["Needed"]) for row in rows("wasm.md", "Export")
    }
    shown = {name: (interface.show(s), "yes") for name, s in interface.REQUIRED_EXPORTS.items()}
    shown |= {name: (interface.show(s), "no") for name, s in interface.OPTIONAL_EXPORTS.items()}
    assert exports == {"memory": ("memory", "yes"), **shown}
    imports = {
        plain(row["Import from `caxton`"]): plain(row["Signature"])
        for row in rows("wasm.md", "Import from `caxton`")
    }
    assert imports == {name: interface.show(s) for name, s in interface.IMPORTS.items()}
    granted = {
        plain(row["Import from `caxton`"]): row["Grant"].strip("`")
        for row in rows("wasm.md", "Import from `caxton`")
        if not row["Grant"].startswith("none")
    }
    assert granted == {name: grant.value for name, grant in interface.NEEDS.items()}
    [text] = [block for block in blocks(DOCS / "wasm.md", "yaml") if block.startswith("wasm:")]
    head = "name: abc\nversion: 1.0.0\ncapabilities: [a]\nruntime: wasm\nmodule: a.wat\n"
    group = parse_definition(f"---\n{head}{text}\n---\n".encode()).groups["wasm"]
    assert group == {"grants": ("clock", "state"), "memory": 8 * 1024**2, "timeout": 0.2}


def test_the_module_of_the_page_answers() -> None:
    [source] = blocks(DOCS / "wasm.md", "wat")
    engine, moment = WasmEngine(), Moment(0, b"seed")
    module = CoreModule(engine, engine.compile(binary_of(source.encode())), ())
    instance = WasmInstance(module, WasmPolicy(), moment, lambda: False)
    [(way, sent)] = instance.handle(b'{"content":null}', moment).sent
    assert way is Way.SEND
    assert json.loads(sent) == {"performative": "inform", "content": "pong"}


def test_the_limits_of_agents_are_those_of_the_settings() -> None:
    found = {
        plain(row[head]): number(row["Value"])
        for page, head in (("wasm.md", "Limit of a module"), ("agents.md", "Limit of an agent"))
        for row in rows(page, head)
    }
    assert len(found) > 5
    assert found == {name: getattr(AgentSettings(), name) for name in found}
