from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from node.cli import stop
from node.cli.local_nodes import LocalNode, announce, local_nodes
from node.cli.send import INLINE_BYTES, INPUT_LIMIT_BYTES
from node.config.model import MessagingConfig
from node.tools.csv_table import BYTES_LIMIT
from tests.node.cli.conftest import TOKEN, FakeNode, Shell

RECEIPT: dict[str, Any] = {
    "message_id": "m1",
    "conversation_id": "c1",
    "routed_to": ["worker@beta"],
    "routing_strategy": "best_match",
    "status": "answered",
    "timestamp": "2026-01-01T00:00:00Z",
}


def reply(performative: str, content: object) -> dict[str, Any]:
    return RECEIPT | {"reply": {"sender": "worker@beta", "performative": performative, "content": content}}


def test_send_waits_for_the_reply_and_shows_its_content(node: FakeNode, shell: Shell) -> None:
    node.answers["POST", "/messages"] = 200, reply("inform", {"total": 3})
    assert shell("send", "--capability", "data-analysis", '{"action": "analyze"}', "--timeout", "5") == 0
    assert json.loads(shell.out) == {"total": 3}
    [(_, path, body, authorization)] = node.requests
    assert path == "/messages?wait=5.0"
    assert body == {
        "capability": "data-analysis",
        "performative": "request",
        "content": {"action": "analyze"},
    }
    assert authorization == f"Bearer {TOKEN}"
    assert shell.json("send", "--to", "worker", "plain text") == node.answers["POST", "/messages"][1]
    assert node.requests[-1][2]["content"] == "plain text"


def test_the_files_of_an_answer_are_saved_and_none_is_overwritten(
    node: FakeNode, shell: Shell, tmp_path: Path
) -> None:
    answer = reply("inform", "done")
    told = [{"name": name, "media_type": "image/png", "size_bytes": 3} for name in ("a.png", "b c")]
    answer["reply"] |= {"message_id": "r1", "attachments": told}
    node.answers["POST", "/messages"] = 200, answer
    node.answers["GET", "/messages/r1/attachments/a.png"] = 200, b"one"
    node.answers["GET", "/messages/r1/attachments/b%20c"] = 200, b"two"
    folder = tmp_path / "out" / "deep"
    save = ("send", "--to", "worker", "x", "--save-attachments", str(folder))
    assert shell(*save) == 0
    assert "attached: a.png (image/png, 3 bytes)" in shell.err
    assert shell(*save) == 0
    assert f"saved {folder / 'a-2.png'}" in shell.err
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert found == {"a.png": b"one", "a-2.png": b"one", "b c": b"two", "b c-2": b"two"}
    (tmp_path / "file").write_text("")
    assert shell(*save[:-1], str(tmp_path / "file" / "x")) == 2
    assert "cannot be saved" in shell.err
    del node.answers["GET", "/messages/r1/attachments/b%20c"]
    assert shell(*save) == 1
    assert "no route" in shell.err
    assert len(list(folder.glob("b c*"))) == 2
    del answer["reply"]["attachments"]
    asked = len(node.requests)
    assert shell(*save) == 0
    assert len(node.requests) == asked + 1


@pytest.mark.parametrize("name", ["../x", "/etc/x", "..", "", "a/b"])
def test_a_file_is_saved_nowhere_else_whatever_a_node_calls_it(
    node: FakeNode, shell: Shell, tmp_path: Path, name: str
) -> None:
    answer = reply("inform", "done")
    answer["reply"] |= {"message_id": "r1", "attachments": [{"name": name}]}
    node.answers["POST", "/messages"] = 200, answer
    folder = tmp_path / "out" / "deep"
    assert shell("send", "--to", "worker", "x", "--save-attachments", str(folder)) != 0
    assert not [path for path in (tmp_path / "out").rglob("*") if not path.is_relative_to(folder)]
    assert not folder.exists() or list(folder.iterdir()) == []


def test_an_inform_is_not_waited_for(node: FakeNode, shell: Shell) -> None:
    node.answers["POST", "/messages"] = 202, RECEIPT | {"status": "accepted"}
    assert shell("send", "--to", "worker@beta", "--performative", "INFORM", "{}") == 0
    assert shell.out == "m1  accepted  worker@beta\n"
    assert node.requests[-1][1] == "/messages"
    assert shell("send", "--to", "worker", "--no-wait", "x") == 0
    assert node.requests[-1][1] == "/messages"


@pytest.mark.parametrize(
    ("spelling", "sent"), [("Query-If", "query"), ("CFP", "cfp"), ("subscribe", "subscribe")]
)
def test_what_expects_a_reply_is_waited_for_in_any_spelling(
    spelling: str, sent: str, node: FakeNode, shell: Shell
) -> None:
    node.answers["POST", "/messages"] = 200, reply("inform", 1)
    assert shell("send", "--to", "worker", "--performative", spelling, "x") == 0
    _, path, body, _ = node.requests[-1]
    assert path.startswith("/messages?wait=")
    assert body["performative"] == sent


def test_an_unknown_performative_is_refused_before_anything_is_sent(node: FakeNode, shell: Shell) -> None:
    assert shell("send", "--to", "worker", "--performative", "suscribe", "x") != 0
    assert "Did you mean 'subscribe'?" in shell.err
    assert node.requests == []


def test_attachments_and_standard_input_travel_along(
    node: FakeNode, shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.answers["POST", "/messages"] = 200, reply("inform", "done")
    (tmp_path / "sales.csv").write_text("a,b\n")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"[1, 2]")))
    assert shell("send", "--capability", "c", "-", "--attach", str(tmp_path / "sales.csv")) == 0
    assert shell.out == "done\n"
    body = node.requests[-1][2]
    assert body["content"] == [1, 2]
    [attachment] = body["attachments"]
    assert (attachment["name"], attachment["media_type"]) == ("sales.csv", "text/csv")
    assert base64.b64decode(attachment["base64"]) == b"a,b\n"
    assert shell("send", "--capability", "c", "--attach", str(tmp_path / "none.csv")) == 2
    assert "none.csv cannot be read" in shell.err


@pytest.mark.parametrize("performative", ["failure", "refuse"])
def test_a_refusal_is_a_failure_of_the_command(performative: str, node: FakeNode, shell: Shell) -> None:
    node.answers["POST", "/messages"] = 200, reply(performative, {"reason": "no provider"})
    assert shell("send", "--capability", "c", "x") == 1
    assert f"the answer was {performative}" in shell.err
    assert "no provider" in shell.err
    assert "`caxton trace m1`" in shell.err
    assert shell("send", "--capability", "c", "x", "--json") == 1
    assert json.loads(shell.out)["reply"]["performative"] == performative


def test_send_needs_exactly_one_address(shell: Shell) -> None:
    assert shell("send", "x") == 2
    assert shell("send", "--to", "a", "--capability", "b", "x") == 2
    assert "exactly one" in shell.err


def test_what_the_node_refuses_is_told_in_its_words_with_its_status(node: FakeNode, shell: Shell) -> None:
    body = {
        "error": {
            "code": "UNAUTHORIZED",
            "message": "the token is not valid",
            "why": "w",
            "fix": "f",
            "details": {},
        },
        "code": "UNAUTHORIZED",
        "request_id": "r",
    }
    node.answers["GET", "/status"] = 401, body
    assert shell("status") == 4
    assert shell.err == "caxton: the token is not valid\n  why: w\n  fix: f\n"
    assert shell.json("status") == body
    node.answers["GET", "/status"] = 500, {"error": "other shape"}
    assert shell("status") == 1


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"\xff"])
def test_something_else_on_the_port_is_told(body: bytes, node: FakeNode, shell: Shell) -> None:
    node.answers["GET", "/status"] = 200, body
    assert shell("status") == 3
    assert "not a Caxton node" in shell.err


def test_nobody_there_is_told_with_a_fix(shell: Shell) -> None:
    assert shell("status") == 3
    assert "caxton start" in shell.err
    assert shell("status", "--api", "http://127.0.0.1:1") == 3
    assert "does not answer" in shell.err
    assert shell("status", "--api", "ftp://x") == 2
    assert shell("status", "--api", "http://[::1") == 2


def test_a_node_is_chosen_by_name_when_there_are_several(node: FakeNode, shell: Shell) -> None:
    announce(LocalNode("beta", "http://127.0.0.1:1", os.getpid()))
    node.answers["GET", "/cluster/status"] = 200, {"node": "alpha", "partition_state": "healthy"}
    node.answers["GET", "/capabilities"] = 200, {"capabilities": []}
    assert shell("status", "--cluster") == 3
    assert "alpha, beta" in shell.err
    assert shell("status", "--cluster", "--node", "alpha") == 0
    assert shell("status", "--node", "alpa") == 3
    assert "Did you mean 'alpha'?" in shell.err


def test_files_of_dead_or_foreign_processes_are_ignored(state: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    left_over = announce(LocalNode("old", "http://127.0.0.1:1", gone.pid))
    for number, text in enumerate(
        ['{"node": 1}', "[]", "x", '{"node":"a","api":"b","pid":-1,"token_file":null}']
    ):
        (state / f"bad{number}.json").write_text(text)
    mine = announce(LocalNode("new", "http://127.0.0.1:1", os.getpid()))
    assert [node.node for node in local_nodes()] == ["new"]
    assert not left_over.exists()
    assert mine.stat().st_mode & 0o077 == 0


def test_a_token_comes_from_option_file_or_environment(
    node: FakeNode, shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.answers["POST", "/agents/w/stop"] = 200, {"name": "w", "status": "stopped"}
    (tmp_path / "t").write_text("from-file\n")
    shell("stop", "w", "--token-file", str(tmp_path / "t"))
    shell("stop", "w", "--token", "from-option")
    monkeypatch.setenv("CAXTON_TOKEN", "from-environment")
    shell("stop", "w", "--api", node.api)
    assert [r[3] for r in node.requests] == [
        "Bearer from-file",
        "Bearer from-option",
        "Bearer from-environment",
    ]
    monkeypatch.delenv("CAXTON_TOKEN")
    (tmp_path / "t").write_text("two words")
    assert shell("stop", "w", "--token-file", str(tmp_path / "t")) == 2
    assert shell("stop", "w", "--token-file", str(tmp_path / "none")) == 2


def test_deploy_sends_the_file_and_the_module_it_names(node: FakeNode, shell: Shell, tmp_path: Path) -> None:
    node.answers["POST", "/agents"] = 201, {"name": "echo", "status": "running", "capabilities": ["echo"]}
    (tmp_path / "echo.md").write_text("---\nname: echo\nmodule: echo.wat\n---\nText\n")
    (tmp_path / "echo.wat").write_text("(module)")
    assert shell("deploy", str(tmp_path / "echo.md"), "--replace") == 0
    assert shell.out == "echo is running; it offers echo\n"
    body = node.requests[-1][2]
    assert body["artifacts"] == {"echo.wat": base64.b64encode(b"(module)").decode()}
    assert (body["filename"], body["replace"]) == ("echo.md", True)
    assert shell("deploy", str(tmp_path / "echo.wat"), "--name", "raw") == 0
    body = node.requests[-1][2]
    assert base64.b64decode(body["content_base64"]) == b"(module)"
    assert "content" not in body


@pytest.mark.parametrize("module", ["../secret.wat", "/etc/secret.wat", "passwd", "[1]", "{"])
def test_deploy_sends_no_other_file(module: str, node: FakeNode, shell: Shell, tmp_path: Path) -> None:
    node.answers["POST", "/agents"] = 201, {}
    folder = tmp_path / "agents"
    folder.mkdir()
    (tmp_path / "secret.wat").write_text("secret")
    (folder / "a.md").write_text(f"---\nmodule: {module}\n---\n")
    assert shell("deploy", str(folder / "a.md")) == 0
    assert "artifacts" not in node.requests[-1][2]


def test_deploy_says_which_file_is_missing(node: FakeNode, shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("---\nmodule: gone.wasm\n---\n")
    assert shell("deploy", str(tmp_path / "a.md")) == 2
    assert "gone.wasm cannot be read" in shell.err
    (tmp_path / "b.md").write_bytes(b"\xff")
    assert shell("deploy", str(tmp_path / "b.md")) == 2
    assert shell("deploy", str(tmp_path / "none.md")) == 2
    assert node.requests == []


def test_status_shows_agents_counts_and_no_control_characters(node: FakeNode, shell: Shell) -> None:
    node.answers["GET", "/status"] = (
        200,
        {
            "node": "alpha",
            "status": "healthy",
            "uptime": 3.2,
            "version": "1",
            "messaging": {"outbox": 2},
            "rooms": {"storage": {"bytes": 4096, "rows": {"outbox": 5}}},
            "unsettled_by_node": {"beta": 7},
        },
    )
    node.answers["GET", "/agents"] = (
        200,
        {"agents": [{"name": "a\x1b[31m", "status": "running", "capabilities": ["x"]}]},
    )
    assert shell("status", "--all") == 0
    assert "\x1b" not in shell.out
    rows = [line.split() for line in shell.out.splitlines()]
    assert ["messaging", "outbox", "2"] in rows
    assert ["storage", "bytes", "4096"] in rows
    assert ["storage", "rows.outbox", "5"] in rows
    assert ["unsettled", "beta", "7"] in rows


def test_status_of_the_cluster_shows_members_and_capabilities(node: FakeNode, shell: Shell) -> None:
    node.answers["GET", "/cluster/status"] = (
        200,
        {
            "node": "alpha",
            "partition_state": "healthy",
            "members": [{"name": "beta", "state": "alive", "address": ["10.0.0.2", 7946]}],
            "unsettled_by_node": {"beta": 3},
        },
    )
    provider = {"agent": "worker", "node": "beta", "version": "1.0.0", "load": 0.5}
    node.answers["GET", "/capabilities"] = (
        200,
        {"capabilities": [{"capability": "echo", "providers": [provider]}]},
    )
    assert shell("status", "--cluster") == 0
    rows = [line.split() for line in shell.out.splitlines()]
    assert ["beta", "alive", "10.0.0.2:7946", "3"] in rows
    assert ["echo", "worker", "beta", "1.0.0", "0.5"] in rows


def test_status_of_a_node_that_has_not_joined_names_its_seeds(node: FakeNode, shell: Shell) -> None:
    tries = [
        {"event": "SeedUnreachable", "seed": "10.0.0.9:7946", "reason": "refused", "attempt": n}
        for n in (1, 2)
    ]
    shown = {"node": "alpha", "partition_state": "majority", "joined": False, "events": tries}
    node.answers["GET", "/cluster/status"] = 200, shown
    node.answers["GET", "/capabilities"] = 200, {"capabilities": []}
    assert shell("status", "--cluster") == 0
    assert "still trying 10.0.0.9:7946: refused (attempt 2)" in shell.out


def test_logs_of_all_agents_are_merged_by_time(node: FakeNode, shell: Shell) -> None:
    node.answers["GET", "/agents"] = 200, {"agents": [{"name": "a"}, {"name": "b"}]}
    for name, second in (("a", 2), ("b", 1)):
        record = {"time": f"2026-01-01T00:00:0{second}Z", "level": "info", "message": "m\x1b", "tool": "csv"}
        node.answers["GET", f"/agents/{name}/logs"] = 200, {"records": [record]}
    assert shell("logs", "--since", "1h", "--level", "info") == 0
    lines = shell.out.splitlines()
    assert [line.split()[2] for line in lines] == ["b:", "a:"]
    assert lines[0].endswith("m\ufffd tool=csv")
    assert node.requests[-1][1] == "/agents/b/logs?since=1h&tail=100&level=info"


def test_logs_follow_shows_each_record_once(
    node: FakeNode, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = {"time": "2026-01-01T00:00:01Z", "level": "info", "message": "one"}
    second = first | {"message": "two"}
    node.answers["GET", "/agents/a/logs"] = 200, {"records": [first]}
    rounds = iter([[first, second], [first, second]])

    def later(_: float) -> None:
        records = next(rounds, None)
        if records is None:
            raise KeyboardInterrupt
        node.answers["GET", "/agents/a/logs"] = 200, {"records": records}

    monkeypatch.setattr("node.cli.logs.time.sleep", later)
    assert shell("logs", "a", "--follow", "--json") == 130
    assert [json.loads(line)["message"] for line in shell.out.splitlines()] == ["one", "two"]


def test_stopping_a_node_waits_for_its_end(
    node: FakeNode, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.answers["POST", "/shutdown"] = 202, {"status": "stopping", "node": "alpha"}
    node.answers["GET", "/health"] = 200, {}
    monkeypatch.setattr(stop, "LEAVE_LIMIT_S", 0.2)
    assert shell("stop", "--api", node.api) == 3
    assert "still there" in shell.err
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    announce(LocalNode("beta", node.api, child.pid))
    monkeypatch.setattr(stop, "FORCE_AFTER_S", 0.1)
    assert shell("stop", "--force", "--node", "beta") == 0
    assert shell.out == "alpha has been killed\n"
    assert child.wait() == -9
    assert child.stdin is not None
    child.stdin.close()


def test_large_files_are_brought_to_the_node_beside_the_message(
    node: FakeNode, shell: Shell, tmp_path: Path
) -> None:
    small, large = tmp_path / "small.txt", tmp_path / "large.csv"
    small.write_text("small")
    large.write_bytes(bytes(INLINE_BYTES))
    digest = hashlib.sha256(bytes(INLINE_BYTES)).hexdigest()
    size = {"size_bytes": INLINE_BYTES, "received_bytes": INLINE_BYTES}
    node.answers["GET", f"/blobs/{digest}"] = 200, size | {"received_bytes": 65_536, "complete": False}
    node.answers["PUT", f"/blobs/{digest}"] = 200, size | {"complete": True}
    node.answers["POST", "/messages"] = 202, {"message_id": "m", "status": "routed", "routed_to": ["a@b"]}
    address = ("--to", "a", "--no-wait")
    assert shell("send", "x", "--attach", str(small), "--attach", str(large), *address) == 0
    [(_, asked, _, _), (_, sent, _, _), (_, _, body, _)] = node.requests
    assert (asked, sent) == (f"/blobs/{digest}", f"/blobs/{digest}?offset=65536&size={INLINE_BYTES}")
    assert body["attachments"] == [
        {"name": "small.txt", "media_type": "text/plain", "base64": "c21hbGw="},
        {"name": "large.csv", "media_type": "text/csv", "blob": digest},
    ]
    refusal = {"code": "VALIDATION_ERROR", "message": "a blob has 1 to 67,108,864 bytes"}
    node.answers["PUT", f"/blobs/{digest}"] = 400, {"error": refusal}
    assert shell("send", "x", "--attach", str(large), "--attach", str(large), *address) == 2
    assert "67,108,864" in shell.err
    assert shell("send", "x", "--attach", str(tmp_path / "none"), *address) == 2


def test_more_input_than_a_message_carries_is_refused_before_it_is_sent(
    node: FakeNode, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(bytes(INPUT_LIMIT_BYTES + 1))))
    assert shell("send", "-", "--to", "a") == 2
    assert f"{INPUT_LIMIT_BYTES:,} bytes" in shell.err
    assert node.requests == []


def test_the_limits_of_a_file_on_its_way_are_one() -> None:
    field = MessagingConfig.model_fields["max_message_bytes"]
    [limit] = [rule.le for rule in field.metadata if getattr(rule, "le", 0) < 2**40 and hasattr(rule, "le")]
    assert INPUT_LIMIT_BYTES == BYTES_LIMIT == limit


HOSTILE = "\x1b]0;owned\x07\x9b31m\u202egpj.exe\u2028\ud800\rgone"


def test_text_of_agents_and_nodes_cannot_drive_the_terminal(node: FakeNode, shell: Shell) -> None:
    reply = {"sender": HOSTILE, "performative": "inform", "content": {"text": HOSTILE, HOSTILE: 1}}
    error = {"error": {"code": "NO_REPLY", "message": HOSTILE, "why": HOSTILE, "fix": HOSTILE}}
    agents = {"agents": [{"name": f"a\nb{HOSTILE}", "status": HOSTILE, "capabilities": [HOSTILE]}]}
    address = ("--api", node.api, "--token", TOKEN)
    node.answers[("POST", "/messages")] = (200, {"reply": reply})
    node.answers[("GET", "/status")] = (200, {"node": HOSTILE, "status": HOSTILE})
    node.answers[("GET", "/agents")] = (200, agents)
    shown = []
    for arguments in (("send", "x", "--to", "a"), ("status",)):
        assert shell(*arguments, *address) == 0
        shown.append(shell.out + shell.err)
    node.answers[("POST", "/messages")] = (504, error)
    assert shell("send", "x", "--to", "a", *address) != 0
    shown.append(shell.out + shell.err)
    for text in shown:
        assert "gone" in text
        assert [c for c in text if not c.isprintable() and c not in "\n\ufffd"] == []
    assert "a\\nb" in shown[1]


@pytest.mark.parametrize("name", [".", ".."])
def test_a_name_is_no_step_through_the_path(name: str, node: FakeNode, shell: Shell) -> None:
    assert shell("stop", name, "--api", node.api) == 2
    assert node.requests == []


def test_agents_can_be_named_by_an_option_too(node: FakeNode, shell: Shell, tmp_path: Path) -> None:
    node.answers["GET", "/agents/a/logs"] = 200, {"records": []}
    assert shell("logs", "--agent", "a", "--since", "1h") == 0
    node.answers["POST", "/agents/a/stop"] = 200, {"name": "a", "status": "stopped"}
    assert shell("stop", "--agent", "a", "--force") == 0
    assert shell.out == "a is stopped\n"
    file = tmp_path / "a.md"
    file.write_text("---\nname: a\n---\n")
    node.answers["POST", "/agents"] = 201, {"name": "a", "status": "running", "capabilities": []}
    assert shell("deploy", "--agent", str(file)) == 0
    assert shell("stop", "a", "--agent", "b") == 2
    assert "given twice" in shell.err
    assert shell("deploy") == 2
    assert "FILE is missing" in shell.err
