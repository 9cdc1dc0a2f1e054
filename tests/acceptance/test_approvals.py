"""A call that an operator must approve, on real nodes: it waits over kill -9, and is made once."""

import yaml

from tests.acceptance.agents import scripted
from tests.acceptance.processes import caxton, eventually, has_crashed

AGENT = """\
---
name: Scribe
version: 1.0.0
capabilities: [writing]
tools: [files]
llm: {provider: scripted}
security:
  require_approval: [files/write_file]
  sandbox_restrictions: {file_system_access: read_write}
system_prompt: Write.
---
"""
SCRIPT = """\
rules:
  - {times: 0, match: {turn: 1}, tool_calls: [{name: write_file, arguments: {file: out/n, text: hello}}]}
  - {times: 0, match: {tool_result: "denied by the operator: no"}, text: "I may not."}
  - {times: 0, text: "It is written."}
"""


def test_a_call_waits_for_an_operator_over_a_crash_and_its_answer_reaches_the_caller(cluster, tmp_path):
    node, caller = cluster.add("a", "b")
    (out := tmp_path / "out").mkdir()
    file = node.bundle / "node.yaml"
    told = yaml.safe_load(file.read_text()) | {"tools": {"files": {"write": [str(out)]}}}
    file.write_text(yaml.safe_dump(told))
    node.start(settings=scripted(tmp_path, SCRIPT))
    caller.start(node.gossip)
    (agent := tmp_path / "scribe.md").write_text(AGENT)
    node.deploy(agent)
    cluster.wait_for_providers([caller], writing=["a"])
    options = ("--api", node.url, "--token", cluster.token)

    def ask(content):
        return caller.send("writing", content)["conversation_id"]

    def replies(conversation):
        shown = caller.get(f"/conversations/{conversation}")["messages"][1:]
        return [(each["performative"], each["content"]) for each in shown]

    def approvals(*arguments):
        return caxton("approvals", *arguments, *options, home=node.home).stdout

    asked = ask("write a note")
    [(performative, promise)] = eventually(lambda: replies(asked), within=60.0)
    assert performative == "agree"
    node.kill()  # at once: what was promised is on disk
    node.start()
    approval = promise["approval"]
    assert f"{approval}  scribe  files/write_file" in approvals("list")
    shown = approvals("show", approval)
    assert '"text": "hello"' in shown
    assert "client@b" in shown
    assert not list(out.iterdir())

    assert "files/write_file: approved" in approvals("approve", approval, "--yes", "--reason", "fine")
    answered = eventually(lambda: replies(asked)[1:], within=60.0)
    assert [(performative, content["answer"]) for performative, content in answered] == [
        ("inform", "It is written.")
    ]
    assert (out / "n").read_text() == "hello"
    again = caxton("approvals", "deny", approval, *options, home=node.home, check=False)
    assert again.returncode == 1
    assert "cannot be decided any more" in again.stderr
    assert "write_file: approved by" in caxton("logs", "scribe", *options, home=node.home).stdout

    denied = ask("write another")
    [(_, promise)] = eventually(lambda: replies(denied), within=60.0)
    approvals("deny", promise["approval"], "--reason", "no")
    [(performative, content)] = eventually(lambda: replies(denied)[1:], within=60.0)
    assert (performative, content["answer"]) == ("inform", "I may not.")
    assert not has_crashed(node.log_text())
