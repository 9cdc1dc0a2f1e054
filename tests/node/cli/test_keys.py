from __future__ import annotations

from typing import Any

import pytest

from tests.node.cli.conftest import TOKEN, FakeNode, Shell
from tests.node.cli.test_members import rows

PATH = "/cluster/keys"


def report(operation: str, *, ok: bool = True, absent: tuple[str, ...] = ()) -> dict[str, Any]:
    return {
        "node": "alpha",
        "operation": operation,
        "key_id": None if operation == "list" else "0000000b",
        "ok": ok,
        "members": [
            {"name": "alpha", "ok": True, "error": "", "key_ids": ["0000000a", "0000000b"]},
            {"name": "beta", "ok": ok, "error": "" if ok else "no answer", "key_ids": None},
        ],
        "absent": list(absent),
        "keys": [{"key_id": "0000000a", "held_by": 1, "encrypts_for": 1}],
    }


def test_the_list_shows_who_holds_which_keys_and_who_was_not_asked(node: FakeNode, shell: Shell) -> None:
    node.answers["GET", PATH] = 200, report("list", absent=("gamma",))
    assert shell("keys", "list", "--timeout", "2") == 0
    first, head, alpha, beta, last = rows(shell)
    assert first == ["list: 2 of 2 members that are up, seen from alpha"]
    assert head[:2] == ["member", "result"]
    assert alpha == ["alpha", "done", "0000000a 0000000b"]
    assert beta == ["beta", "done", "not said"]
    assert last == ["Away, and not asked: gamma"]
    assert node.requests == [("GET", PATH + "?timeout_s=2.0", None, f"Bearer {TOKEN}")]
    assert shell.json("keys", "list") == report("list", absent=("gamma",))


def test_each_step_of_a_rotation_names_the_next(node: FakeNode, shell: Shell) -> None:
    steps = {
        "install": "caxton keys use 0000000b",
        "use": "caxton keys remove KEY_ID",
        "remove": "gossip.key",
    }
    for step, following in steps.items():
        node.answers["POST", PATH] = 200, report(step)
        arguments = (step,) if step == "install" else (step, "0000000b", "--force")
        assert shell("keys", *arguments) == 0
        assert following in shell.out.splitlines()[-1]
    sent = [(body["operation"], body["key_id"], body["force"]) for _, _, body, _ in node.requests]
    assert sent == [("install", None, False), ("use", "0000000b", True), ("remove", "0000000b", True)]


def test_a_member_that_has_not_done_it_ends_the_command_with_status_1(node: FakeNode, shell: Shell) -> None:
    node.answers["POST", PATH] = 200, report("install", ok=False)
    assert shell("keys", "install") == 1
    assert rows(shell)[0] == ["install 0000000b: 1 of 2 members that are up, seen from alpha"]
    assert rows(shell)[-1] == ["beta", "no answer", "not said"]
    assert shell("keys", "install", "--json") == 1


@pytest.mark.parametrize(
    "arguments",
    [("use",), ("remove",), ("list", "0000000a"), ("install", "0000000a"), ("install", "--force"), ("turn",)],
)
def test_a_command_that_makes_no_sense_is_not_sent(
    node: FakeNode, shell: Shell, arguments: tuple[str, ...]
) -> None:
    assert shell("keys", *arguments) == 2
    assert node.requests == []
