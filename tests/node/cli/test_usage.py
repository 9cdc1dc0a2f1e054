"""What click finds wrong with a command line is told in our words."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.node.cli.conftest import FakeNode, Shell


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("statsu",), "`caxton` has no verb 'statsu'\n  fix: Did you mean 'status'? See `caxton --help`."),
        (("memory", "serch", "x"), "`caxton memory` has no verb 'serch'\n  fix: Did you mean 'search'?"),
        (("status", "--clustr"), "there is no option --clustr\n  fix: Did you mean '--cluster'?"),
        (("send", "--to"), "--to needs a value\n  fix: See `caxton send --help`."),
        (("memory", "search", "--scope"), "--scope needs a value\n  fix: See `caxton memory search --help`."),
        (("status", "--json=3"), "--json takes no value"),
        (("status", "x", "y"), "too many arguments: x y"),
        (("memory", "add"), "NAME is missing"),
        (("wasm", "compose", "x"), "--with is missing"),
        (("send", "--timeout", "abc"), "--timeout cannot be 'abc'\n  why: it is a number from 0.1 to 300\n"),
        (("send", "--timeout", "0"), "--timeout cannot be 0.0\n  why: it is a number from 0.1 to 300\n"),
        (("send", "--priority", "10"), "--priority cannot be 10\n  why: it is a whole number from 0 to 9\n"),
        (("tail", "--count", "0"), "--count cannot be 0\n  why: it is a whole number of at least 1\n"),
        (("simulate", "run", "churn", "--seed", "x"), "--seed cannot be 'x'\n  why: it is a whole number\n"),
        (("keys", "lst"), "ACTION cannot be 'lst'\n  why: it is one of list, install, use, remove\n"),
        (("keys", "lst"), "fix: Did you mean 'list'?"),
        (
            ("tool", "serve", "nope"),
            "SERVER cannot be 'nope'\n  why: it is one of chart_generator, csv_parser",
        ),
        (("agent", "inspect", "/nope"), "FILE cannot be '/nope'\n  why: nothing is there\n"),
        (("memory", "export", "/"), "FILE cannot be '/'\n  why: it is a directory\n"),
        (("agent", "test", "--suite", __file__), "it is a file"),
    ],
)
def test_a_command_line_that_is_wrong_is_told_in_our_words(
    shell: Shell, arguments: tuple[str, ...], told: str
) -> None:
    assert shell(*arguments) == 2
    assert told in shell.err
    assert "Invalid value" not in shell.err


@pytest.mark.parametrize("group", [(), ("memory",), ("agent",)])
def test_a_group_without_a_verb_shows_its_help(shell: Shell, group: tuple[str, ...]) -> None:
    assert shell(*group) == 2
    assert shell.err.startswith(f"Usage: {' '.join(('caxton', *group))}")


@pytest.mark.parametrize(
    "arguments",
    [
        ("trace", ""),
        ("explain", ""),
        ("members", "--why", ""),
        ("agent", "undeploy", ""),
        ("approvals", "approve", ""),
        ("deployments", ""),
        ("logs", ""),
        ("stop", ""),
    ],
)
def test_an_empty_name_is_none(node: FakeNode, shell: Shell, arguments: tuple[str, ...]) -> None:
    assert shell(*arguments) == 2
    assert "'' is no name\n  why: it is empty" in shell.err
    assert node.requests == []


def test_an_empty_path_is_not_the_working_directory(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    assert shell("init", "") == 2
    assert shell("memory", "export", "") == 2
    assert sorted(tmp_path.iterdir()) == before


def test_a_token_that_cannot_be_sent_is_told_so(node: FakeNode, shell: Shell) -> None:
    for token in ("", "a b", "a\nb", "ä"):
        assert shell("status", "--token", token) == 2
        assert "what was given as --token is no token" in shell.err
    assert node.requests == []
