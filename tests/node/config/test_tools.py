"""The section ``tools``: the map of other clients, word for word, and the bounds beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.config import ToolsConfig, load_config
from node.errors import ConfigInvalid

OTHERS = """{"mcpServers": {
    "files": {"command": "npx", "args": ["-y", "server-files", "/srv"], "env": {"PORT": 8080},
              "autoApprove": ["read"], "disabled": false, "timeout": 60, "envFile": "keys.env",
              "disabledTools": ["delete"]},
    "search": {"type": "streamable-http", "url": "https://mcp.example.org/mcp",
               "headers": {"Authorization": "Bearer ${TOKEN}"}}
}}"""


def load(path: Path, text: str) -> ToolsConfig:
    path.write_text(text)
    return load_config(path, environ={"HOME": "/nowhere", "TOKEN": "swordfish"}).tools


def test_the_map_of_other_clients_is_taken_word_for_word(tmp_path: Path) -> None:
    found = load(tmp_path / "node.yaml", f'{{"tools": {OTHERS}}}')
    files, search = found.mcp_servers["files"], found.mcp_servers["search"]
    assert (files.kind, files.args) == ("stdio", ("-y", "server-files", "/srv"))
    assert files.env["PORT"].get_secret_value() == "8080"
    assert (search.kind, search.headers["Authorization"].get_secret_value()) == ("http", "Bearer swordfish")
    assert "swordfish" not in repr(found)
    assert (files.ignored, search.ignored) == (("autoApprove",), ())
    assert (files.env_file, files.disabled_tools) == (tmp_path / "keys.env", ("delete",))
    assert found.limits("files").network


@pytest.mark.parametrize(
    ("server", "bounds", "said"),
    [
        ("{}", "", "a command (stdio) or a url"),
        ("{command: a, url: 'https://b.c'}", "", "a command (stdio) or a url"),
        ("{command: a, type: http}", "", "does not go with"),
        ("{url: 'https://b.c', type: sse}", "", "'sse' is gone from MCP"),
        ("{command: a, headers: {X: y}}", "", "headers belong to a server with a url"),
        ("{url: 'https://b.c', args: [x]}", "", "belong to a server with a command"),
        ("{command: a, env: {'A=B': c}}", "", "cannot be set in an environment"),
        ("{url: 'https://b.c', headers: {Host: x}}", "", "set by the transport"),
        ('{url: "https://b.c", headers: {A: "x\\r\\nB: y"}}', "", "not a header that can be sent"),
        ("{url: 'https://b.c', envFile: a.env}", "", "belong to a server with a command"),
        ("{command: a, timeout: 0}", "", "must be above 0"),
        ("{command: a, timeout: soon}", "", "must be a duration"),
        ("{command: a, oauth: {}}", "", "there is no such key"),
        ("{command: a, includeTools: [b]}", "", "there is no such key"),
        ("{url: 'ftp://b.c'}", "", "must be as https://"),
        ("{url: 'https://u:p@b.c'}", "", "must not hold a password"),
        ("{url: 'http://b.c/mcp'}", "", "is not encrypted"),
        ("{url: 'http://b.c/mcp'}", "s: {allow_http: true}", ""),
        ("{url: 'http://127.0.0.1:9/mcp'}", "", ""),
        ("{url: 'https://b.c'}", "s: {allowed_domains: ['*.c']}", ""),
        ("{command: a}", "s: {allowed_domains: [c]}", ""),
        ("{command: a}", "s: {allowed_domains: [c], network: false}", "no meaning without network"),
        ("{command: a}", "t: {network: false}", "there is no such server"),
        ("{command: a}", "s: {read: [here]}", "must be absolute"),
        ("{command: a}", "s: {netwrok: false}", "did you mean 'network'"),
        ("{command: a, agrs: [b]}", "", "did you mean 'args'"),
        ("{url: 'https://b.c'}", "s: {allowed_networks: [10.0.0.1/8]}", "write '10.0.0.0/8'"),
    ],
)
def test_a_server_that_is_none_is_refused_with_the_reason(
    tmp_path: Path, server: str, bounds: str, said: str
) -> None:
    text = f"tools:\n  mcpServers:\n    s: {server}\n  servers:\n    {bounds}\n"
    if not said:
        assert "s" in load(tmp_path / "node.yaml", text).mcp_servers
        return
    with pytest.raises(ConfigInvalid) as caught:
        load(tmp_path / "node.yaml", text)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("written", "bound", "call_s"),
    [
        ("5", "", 5.0),  # seconds
        ("5000", "", 5.0),  # milliseconds
        ("2s", "", 2.0),
        ("3600", "", 30.0),  # an hour: tools.timeout holds
        ("20", "timeout: 10s", 10.0),
        ("10", "timeout: 20s", 10.0),
    ],
)
def test_the_shortest_time_of_a_call_holds(tmp_path: Path, written: str, bound: str, call_s: float) -> None:
    text = f"tools:\n  mcpServers:\n    s: {{command: a, timeout: {written}}}\n"
    text += f"  servers:\n    s: {{{bound}}}\n"
    assert load(tmp_path / "node.yaml", text).call_s("s") == call_s
