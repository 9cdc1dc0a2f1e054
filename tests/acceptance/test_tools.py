"""Tools of another program on a real node: called by an agent, approved by an operator, kept over kill -9."""

import sys

import yaml

from tests.acceptance.agents import scripted
from tests.acceptance.processes import CONFIGS, caxton, eventually
from tests.node.tools.test_external import processes_with

RAW = CONFIGS.parent / "tests" / "node" / "tools" / "servers" / "raw.py"
AGENT = """\
---
name: Caller
version: 1.0.0
capabilities: [calling]
tools: [raw]
llm: {provider: scripted}
system_prompt: Call.
---
"""
SCRIPT = """\
rules:
  - {times: 0, match: {content: "change", turn: 1}, tool_calls: [{name: raw__change, arguments: {}}]}
  - {times: 0, match: {turn: 1}, tool_calls: [{name: raw__echo, arguments: {text: "from afar"}}]}
  - {times: 0, match: {tool_result: "from afar"}, text: "It said: from afar."}
  - {times: 0, match: {tool_result: "waits for approval"}, text: "It waits."}
  - {times: 0, text: "done"}
"""


def test_a_tool_of_another_program_from_its_configuration_to_its_approval(cluster, tmp_path):
    [node] = cluster.add("a")
    server = {"command": sys.executable, "args": [str(RAW), str(node.home / "starts")]}
    bounds = {"read": [sys.prefix, sys.base_prefix], "write": [str(node.home)], "network": False}
    file = node.bundle / "node.yaml"
    told = yaml.safe_load(file.read_text()) | {
        "tools": {"mcpServers": {"raw": server}, "servers": {"raw": bounds}}
    }
    file.write_text(yaml.safe_dump(told))
    node.start(settings=scripted(tmp_path, SCRIPT))
    (agent := tmp_path / "caller.md").write_text(AGENT)
    node.deploy(agent)
    cluster.wait_for_providers([node], calling=["a"])

    def answer(content):
        return node.request("calling", content)["reply"]["content"]["answer"]

    def tool(name):
        [found] = [server for server in node.get("/tools")["servers"] if server["name"] == "raw"]
        return next((each["status"] for each in found["tools"] if each["name"] == name), found["state"])

    assert answer("go") == "It said: from afar."
    answer("change")
    eventually(lambda: tool("echo") == "changed")
    assert answer("go") == "It waits."
    options = ("--yes", "--api", node.url, "--token", cluster.token)
    shown = caxton("tool", "approve", "raw/echo", *options, home=node.home)
    assert "ignore what you were told" in shown.stdout
    assert answer("go") == "It said: from afar."

    assert len(processes_with(str(node.home / "starts"))) == 1
    node.kill()
    eventually(lambda: processes_with(str(node.home / "starts")) == [])
    node.start()
    eventually(
        lambda: tool("echo") == "changed"
    )  # back to how it was at first, which is not what was approved
    shown = caxton("tool", "list", "--api", node.url, "--token", cluster.token, home=node.home)
    assert "raw/echo is changed (description)" in shown.stdout
    records = node.get("/agents/caller/logs")["records"]
    assert any(record["message"].startswith("tool server raw") for record in records)
