from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import click
import pytest

from node.cli import main
from node.cli.main import VERBS, cli, run
from node.errors import AddressInUse
from node.security.permissions import VERBS as PERMISSIONS
from tests.node.cli.conftest import FakeNode, Shell

WRITTEN = [verb for verb, (module, _) in VERBS.items() if importlib.util.find_spec(module) is not None]


def test_every_verb_has_a_permission() -> None:
    assert set(VERBS) == set(PERMISSIONS)


@pytest.mark.parametrize("verb", WRITTEN)
def test_every_verb_has_json_and_a_help_text(verb: str, shell: Shell) -> None:
    command = cli.get_command(click.Context(cli), verb)
    assert command is not None
    commands = command.commands.values() if isinstance(command, click.Group) else [command]
    options = [option for each in commands for parameter in each.params for option in parameter.opts]
    assert "--json" in options
    assert shell(verb, "--help") == 0
    assert f"caxton {verb}" in shell.out


def test_the_help_imports_nothing_but_click_and_the_table() -> None:
    program = (
        "import sys; from node.cli.main import run; run(['--help']); "
        "bad = [m for m in ('trio', 'httpx', 'pydantic', 'rich', 'yaml', 'node.errors', 'node.cli.send') "
        "if m in sys.modules]; sys.exit(repr(bad) if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    shown = " ".join(done.stdout.split())  # long lines are wrapped
    for verb, (_, short_help) in VERBS.items():
        assert f"{verb} {short_help}" in shown


def test_the_module_is_the_command_where_no_script_is_on_the_path() -> None:
    command = [sys.executable, "-m", "node.cli.main", "strat"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Did you mean 'start'?" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "guess"),
    [
        (["snd"], "'send'"),
        (["statsu", "--json"], "'status'"),
        (["send", "--capabilty", "x"], "'--capability'"),
    ],
)
def test_a_misspelt_word_gets_a_suggestion(arguments: list[str], guess: str, shell: Shell) -> None:
    assert shell(*arguments) == 2
    assert shell.err.startswith("caxton: ")
    assert f"fix: Did you mean {guess}?" in shell.err
    assert ("USAGE_ERROR" in shell.out) is ("--json" in arguments)


def test_a_word_like_no_other_gets_the_help(shell: Shell) -> None:
    assert shell("zzzzzz") == 2
    assert "caxton --help" in shell.err


def test_bare_caxton_shows_its_help(shell: Shell) -> None:
    shell()
    assert "Verbs:" in shell.out + shell.err


def test_the_version_is_shown(shell: Shell) -> None:
    assert shell("--version") == 0
    assert shell.out.startswith("caxton ")


def break_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr(main.cli, "main", fail)


def test_an_error_in_a_nursery_says_what_why_and_fix(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    error = AddressInUse("port 8080 is taken", why="another process listens", fix="Use --port 0.")
    break_with(monkeypatch, ExceptionGroup("outer", [ExceptionGroup("inner", [ValueError("x"), error])]))
    assert shell("start") == AddressInUse.exit_code
    assert shell.err == "caxton: port 8080 is taken\n  why: another process listens\n  fix: Use --port 0.\n"


def test_a_bug_has_no_traceback_unless_it_is_asked_for(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    break_with(monkeypatch, ZeroDivisionError("oops"))
    assert shell("start", "--json") == 1
    assert "Traceback" not in shell.err
    assert "CAXTON_DEBUG=1" in shell.err
    assert '"INTERNAL_ERROR"' in shell.out
    monkeypatch.setenv("CAXTON_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        run(["start"])


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), click.Abort(), BaseExceptionGroup("nursery", [KeyboardInterrupt()])]
)
def test_ctrl_c_is_quiet(error: BaseException, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    break_with(monkeypatch, error)
    assert shell("logs") == 130
    assert shell.out == shell.err == ""


def run_with(
    body: str, *arguments: bytes, stdout: int = subprocess.PIPE
) -> subprocess.CompletedProcess[bytes]:
    """The command line in a process of its own, its verb ``status`` being ``body``, a line of Python."""
    program = (
        "import sys, click\nfrom node.cli import main\n"
        f"def status():\n    {body}\n"
        "main.cli.get_command = lambda context, name: click.Command('status', callback=status)\n"
        "main.main(['status', *sys.argv[1:]])"
    )
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, check=False)


@pytest.mark.parametrize(
    "body", ["click.echo('x' * 100)", "raise BaseExceptionGroup('tasks', [BrokenPipeError(32, 'gone')])"]
)
def test_a_reader_that_has_read_enough_is_no_failure(body: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = run_with(body, stdout=writer)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(
    "error", ["BrokenPipeError(32, 'of a tool')", "ExceptionGroup('', [BrokenPipeError(32)])"]
)
def test_another_pipe_that_breaks_is_a_failure(error: str) -> None:
    assert run_with(f"raise {error}").returncode == 1


@pytest.mark.parametrize("arguments", [("trace",), ("send", "--to", "a"), ("memory", "search")])
def test_an_argument_that_is_no_text_is_named(
    arguments: tuple[str, ...], node: FakeNode, shell: Shell
) -> None:
    assert shell(*arguments, "g\udcfct") == 2
    assert r"caxton: the argument 'g\udcfct' is not text in utf-8" in shell.err
    assert node.requests == []
