"""``caxton tool``: the tool servers of a node."""

from __future__ import annotations

from tests.node.cli.conftest import TOKEN, FakeNode, Shell


def test_the_tools_of_a_node_are_shown_by_server(node: FakeNode, shell: Shell) -> None:
    server = {"name": "csv_parser", "kind": "built-in", "state": "running", "tools": [{"name": "csv_top"}]}
    found = {"node": "alpha", "servers": [server]}
    node.answers["GET", "/tools"] = 200, found
    assert shell("tool", "list") == 0
    assert ["csv_parser", "built-in", "running", "csv_top"] in [
        line.split() for line in shell.out.splitlines()
    ]
    assert node.requests == [("GET", "/tools", None, f"Bearer {TOKEN}")]
    assert shell.json("tool", "list") == found
