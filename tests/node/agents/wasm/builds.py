"""Projects from the templates, each with a line that makes it crash when it greets `crash`; what they do."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import trio

from node.agents.definition import parse_definition
from node.agents.settings import AgentSettings
from node.agents.wasm import Grant, WasmAgent, WasmPolicy
from node.agents.wasm.engine import WasmEngine
from node.agents.wasm.failure import NotDone
from node.cli.build import build
from node.cli.build_template import AGENT_FILE, new_project
from node.cli.errors import ToolchainMissing
from node.errors import InvalidWasm
from node.vocabulary import Performative
from tests.node.agents.rooms import delivery
from tests.node.agents.wasm.guests import House, as_text, ask

PRESENT: Final = frozenset(os.environ.get("CAXTON_TOOLCHAINS", "").split())
"""Languages whose toolchain was installed for this run: their tests fail where they would be skipped."""


@dataclass(frozen=True)
class Crash:
    """A line of a template before which another one comes, and where that is seen to crash.

    Args:
        file: The file of the template.
        before: The line, without blanks around it.
        line: What comes before it.
        more: What is appended to the file.
        told: A function of the backtrace, or a line of the log.
    """

    file: str
    before: str
    line: str
    more: str
    told: str


CRASHES: Final = {
    "rust": Crash(
        "src/lib.rs",
        'caxton::log(&format!("greeted {name}"));',
        'if name == "crash" { fall(name) }',
        '#[inline(never)]\nfn fall(name: &str) { panic!("{name}") }\n',
        "greeter::fall",
    ),
    "go": Crash(
        "main.go",
        'caxton.Log("greeted " + asked.Name)',
        'if asked.Name == "crash" { fall(asked.Name) }',
        "//go:noinline\nfunc fall(name string) { panic(name) }\n",
        "main.fall",
    ),
    "c": Crash(
        "agent.c",
        "caxton_log(name.at, name.length);",
        "if (name.length == 5) fall(name);",
        "",
        "fall",
    ),
    "zig": Crash(
        "agent.zig",
        'caxton.log(try std.fmt.allocPrint(memory, "greeted {s}", .{asked.name}));',
        'if (std.mem.eql(u8, asked.name, "crash")) fall();',
        "noinline fn fall() void {\n    @trap();\n}\n",
        "fall",
    ),
    "python": Crash(
        "app.py",
        'caxton.log("greeted " + content["name"])',
        'if content["name"] == "crash": fall()',
        "def fall():\n    raise ValueError('down')\n",
        "in fall",
    ),
    "javascript": Crash(
        "app.js",
        "caxton.log(`greeted ${content.name}`);",
        'if (content.name === "crash") fall();',
        'function fall() { throw new Error("down"); }\n',
        "at fall",
    ),
    "typescript": Crash(
        "app.ts",
        "caxton.log(`greeted ${name}`);",
        'if (name === "crash") fall();',
        'function fall(): never { throw new Error("down"); }\n',
        "at fall",
    ),
}
_SCRIPT: Final = """function ask()VOID {
  const id = caxton.remember("Zoë's tea.");
  const texts = caxton.search("tea", 5);
  const { told } = caxton.callTool("echo", { told: "Zoë" })CAST;
  try {
    caxton.callTool("none");
  } catch (why) {
    if (why instanceof caxton.NotDone) caxton.log(`${texts.length} ${texts[0]} ${id} ${told} ${why.message}`);
  }
}
"""
ASKS: Final = {
    "rust": (
        'if name == "asks" { caxton::log(&ask().unwrap()) }',
        """fn ask() -> Result<String, String> {
    let id = caxton::remember("Zoë's tea.")?;
    let texts = caxton::search("tea", 5)?;
    let told = caxton::call_tool("echo", &json!({"told": "Zoë"}))?;
    let why = caxton::call_tool("none", &json!({})).unwrap_err();
    Ok(format!("{} {} {id} {} {why}", texts.len(), texts[0], told["told"].as_str().unwrap()))
}
""",
    ),
    "go": (
        'if asked.Name == "asks" { ask() }',
        """func ask() {
	id, err := caxton.Remember("Zoë's tea.")
	texts, err2 := caxton.Search("tea", 5)
	var told struct{ Told string }
	err3 := caxton.CallTool("echo", map[string]string{"told": "Zoë"}, &told)
	if err != nil || err2 != nil || err3 != nil {
		panic("asked in vain")
	}
	why := caxton.CallTool("none", struct{}{}, &told)
	caxton.Log(strconv.Itoa(len(texts)) + " " + texts[0] + " " + id + " " + told.Told + " " + why.Error())
}
""",
    ),
    "c": (
        "if (name.length == 4) ask();",
        """
#define TEXT(text) text, sizeof text - 1
static char asked[4096];
static size_t asked_length;
static void told(int status) {
    (void)status;
    asked_length += (size_t)caxton_take(asked + asked_length, sizeof asked - asked_length);
    asked[asked_length++] = ' ';
}
static void ask(void) {
    told(caxton_remember(TEXT("Zo\\xc3\\xab's tea.")));
    told(caxton_search(TEXT("tea"), 5));
    told(caxton_call_tool(TEXT("echo"), TEXT("{\\"told\\":\\"Zo\\xc3\\xab\\"}")));
    if (caxton_call_tool(TEXT("none"), TEXT("{}")) < 0) told(0);
    caxton_log(asked, asked_length - 1);
}
""",
    ),
    "zig": (
        'if (std.mem.eql(u8, asked.name, "asks")) try ask(memory);',
        """fn ask(memory: std.mem.Allocator) !void {
    const id = try caxton.remember(memory, "Zoë's tea.");
    const texts = try caxton.search(memory, "tea", 5);
    const told = try caxton.callTool(memory, "echo", .{ .told = "Zoë" });
    const none = struct {};
    if (caxton.callTool(memory, "none", none{})) |_| return error.Called else |_| {}
    const why = try caxton.whyNot(memory);
    const all = .{ texts.len, texts[0], id, told.object.get("told").?.string, why };
    caxton.log(try std.fmt.allocPrint(memory, "{d} {s} {s} {s} {s}", all));
}
""",
    ),
    "python": (
        'if content["name"] == "asks": ask()',
        """def ask():
    id, texts = caxton.remember("Zoë's tea."), caxton.search("tea", 5)
    told = caxton.call_tool("echo", told="Zoë")["told"]
    try:
        caxton.call_tool("none")
    except caxton.NotDone as why:
        caxton.log(f"{len(texts)} {texts[0]} {id} {told} {why}")
""",
    ),
    "javascript": (
        'if (content.name === "asks") ask();',
        _SCRIPT.replace("VOID", "").replace("CAST", ""),
    ),
    "typescript": (
        'if (name === "asks") ask();',
        _SCRIPT.replace("VOID", ": void").replace("CAST", " as { told: string }"),
    ),
}
"""A line of a template that asks the memory and tools, and the function that does, for each language."""
TOLD: Final = "2 Zoë's tea. note-1 Zoë there is no tool 'none'"
"""What it logs; C, which reads no JSON, logs the answers as they came."""
TOLD_IN_C: Final = """note-1 ["Zoë's tea.","more"] {"told":"Zoë"} there is no tool 'none'"""
_C_FALL: Final = (
    "__attribute__((noinline)) static void fall(caxton_text name) { (void)name; __builtin_trap(); }\n"
)


def project(directory: Path, language: str) -> Path:
    """A project of the template, with its line that crashes."""
    new_project(directory, "greeter", language)
    crash = CRASHES[language]
    path = directory / crash.file
    text = path.read_text()
    assert text.count(crash.before) == 1
    at = text.index(crash.before)
    indent = text[text.rindex("\n", 0, at) + 1 : at]
    asks, how = ASKS[language]
    text = text[:at] + f"{crash.line}\n{indent}{asks}\n{indent}" + text[at:] + "\n" + crash.more
    if language == "c":
        text = text.replace('#include "caxton.h"\n', '#include "caxton.h"\n' + _C_FALL + how)
    else:
        text += how
    path.write_text(text)
    return directory


def module(directory: Path, language: str, engine: str | None = None) -> bytes:
    """What is built of such a project; the test is skipped where its toolchain is missing."""
    made = project(directory / "project", language)
    try:
        build(made, language, directory / "agent.wasm", engine)
    except ToolchainMissing as error:
        if (engine or language) in PRESENT:
            raise
        pytest.skip(f"{language}: {error.why}")
    return (directory / "agent.wasm").read_bytes()


def policy(directory: Path) -> dict[str, Any]:
    """Grants and limits of the template's agent file."""
    definition = parse_definition((directory / "project" / AGENT_FILE).read_bytes())
    assert definition.warnings == ()
    found = WasmPolicy.of(definition, AgentSettings())
    grants = found.grants | {Grant.MEMORY, Grant.TOOLS}
    return {"grants": grants, "memory_bytes": found.memory_bytes, "fuel": found.fuel}


async def load(house: House, source: bytes, directory: Path, **more: Any) -> WasmAgent:
    """The agent; its module is compiled in a hurry, on all cores."""
    if house.runtime._engine is None:
        house.runtime._engine = WasmEngine(parallel=True, optimised=False)
    return await house.load(source, **(policy(directory) | more))


async def check_agent(
    directory: Path, language: str, nursery: trio.Nursery, engine: str | None = None
) -> None:
    """The agent of a template does what its description says, in the sandbox, with nothing but its grants."""
    source = module(directory, language, engine)
    house = House()
    agent = await load(house, source, directory)
    nursery.start_soon(agent.run_timers)

    first = await ask(agent, {"name": 'Zoë "Z"'})
    assert {name: first[name] for name in ("greeting", "count")} == {
        "greeting": 'Hello, Zoë "Z"!',
        "count": 1,
    }
    assert 1_700_000_000_000_000 <= first["at_us"] < 1_800_000_000_000_000
    assert 0 <= first["lucky"] < 100
    assert any("Zo\u00eb" in line for line in house.lines("info"))
    for wrong in ({"other": 1}, {}, "text", None, [1], {"name": None}):
        [draft] = await agent.handle(delivery(wrong))
        assert draft.performative is Performative.FAILURE
        assert draft.content == {"reason": "content.name is missing"}

    started = agent.statistics()["instances_started"]
    again = await load(house, source, directory)  # what was kept outlives the instance
    assert (await ask(again, {"name": "Ada", "remind_after_ms": 50}))["count"] == 2
    nursery.start_soon(again.run_timers)
    await house.environment.clock.sleep(1)
    [reminder] = house.bus.accepted
    assert (reminder.performative, reminder.receiver) == (Performative.INFORM, delivery(None).message.sender)
    assert reminder.content == "Time to greet again."
    assert house.lines().count("reminded") == 1
    assert set(json_keys(house)) == {b"count"}

    asks = await load(house, source, directory, agent="asks", outside=Desk())
    assert (await ask(asks, {"name": "asks"}))["count"] == 1
    assert (TOLD_IN_C if language == "c" else TOLD) in house.lines("info")

    limit, reason = await ask(again, {"name": "crash"})
    assert limit in ("trap", "status", "exit")
    records = house.journal.records(tail=100, since_s=None, level="error")
    told = [
        *(line for record in records for line in record.fields.get("backtrace", ())),
        *house.lines("error"),
    ]
    sign = "fall@" if engine == "spidermonkey" else CRASHES[language].told
    assert any(sign in line for line in told), (reason, told)
    assert (await ask(again, {"name": "Eve"}))["count"] == 3  # another instance, the same state
    assert agent.statistics()["instances_started"] == started

    assert "it used up its instructions" in await starved(house, source, directory)
    nursery.cancel_scope.cancel()


class Desk:
    """Stands in for what is outside: it knows one tool, which says what it is told."""

    def errands(self, call: object, progress: object) -> Desk:
        return self

    def search(self, query: str, limit: int) -> list[str]:
        return ["Zoë's tea.", "more"] if (query, limit) == ("tea", 5) else []

    def store(self, content: str) -> str:
        return "note-1" if content == "Zoë's tea." else "another"

    def call(self, name: str, arguments: str) -> str:
        if name != "echo":
            raise NotDone("unavailable", f"there is no tool {name!r}")
        return as_text(json.loads(arguments))


async def starved(house: House, source: bytes, directory: Path) -> str:
    """How an agent fails that has too few instructions; a runtime may need more than that for its start."""
    try:
        agent = await load(house, source, directory, agent="starved", fuel=10_000)
    except InvalidWasm as error:
        return error.why
    return str((await ask(agent, {"name": "Ada" * 10_000}))[1])


def json_keys(house: House) -> list[bytes]:
    """Keys that the agent has kept."""
    return [key for (key,) in house.store.connection.execute("SELECT key FROM agent_state ORDER BY key")]
