"""What people see of the demo: a live table on a terminal, lines elsewhere, nothing for programs."""

import io

import pytest
from rich.console import Console

from node.cli.demo_view import FLOW_LINES, LiveScreen, NodeRow, PlainScreen, Scene, Sheet, SilentScreen, Step
from node.cli.demo_watch import refresh, watching
from node.errors import NodeUnreachable
from tests.node.cli.demo_cast import FakeCast

SHEET = Sheet("sales.csv", ("column", "total"), [("revenue [red]", "12"), ("x\x1b[2J", "3")], ["by node-2"])


@pytest.fixture
def scene():
    return Scene({"node-1": NodeRow("node-1", "sender", 42), "node-2": NodeRow("node-2", state="dead")})


def live(scene, **options):
    console = Console(file=io.StringIO(), force_terminal=True, width=100, highlight=False, **options)
    return console, LiveScreen(scene, console)


def test_the_live_table_shows_members_agents_flow_and_steps(scene):
    console, screen = live(scene, no_color=True)
    scene.nodes["node-2"].agents = tuple(f"agent{n}" for n in range(9))
    scene.nodes["node-2"].unsettled = 17
    scene.sent, scene.answered, scene.rerouted = 36, 20, 16
    scene.steps += [
        Step("Start", 0.0, 1.5, "pids 1, 2"),
        Step("Fail", 1.5, 0.5, failed=True),
        Step("Run", 2.0),
    ]
    with screen:
        for number in range(9):
            screen.moved(f"REQUEST number {number} [bold]x[/bold]")
    shown = console.file.getvalue()
    for text in (
        "node-1",
        "sender",
        "42",
        "dead",
        "agent5",
        "...",
        "17",
        "36 sent",
        "20 answered",
        "16 re-routed",
    ):
        assert text in shown
    assert "agent6" not in shown
    assert "1.50 s" in shown
    assert "pids 1, 2" in shown
    assert "✔" in shown
    assert "✘" in shown
    assert "number 8 [bold]x[/bold]" in shown
    assert f"number {8 - FLOW_LINES} " not in shown.rpartition("caxton demo")[2]


@pytest.mark.parametrize("kind", ["live", "plain"])
def test_text_of_others_cannot_drive_the_terminal(scene, capsys, kind):
    console, screen = live(scene, no_color=True) if kind == "live" else (None, PlainScreen())
    with screen:
        screen.sheet(SHEET)
        screen.moved("evil \x1b[2J")
        screen.say("worse \x1b]0;x\x07")
    shown = console.file.getvalue() if console else capsys.readouterr().out
    assert "\x1b[2J" not in shown
    assert "\x1b]0;" not in shown
    assert "revenue [red]" in shown
    assert "by node-2" in shown


def test_plain_lines_align_columns_and_time_steps(capsys):
    screen = PlainScreen()
    with screen:
        screen.ended(Step("Start 3 nodes", 0.0, 1.234, "all there"))
        screen.sheet(Sheet("t", ("column", "total"), [("a", "1,000"), ("bcd", "2")]))
    out = capsys.readouterr().out
    assert "  1.23 s  Start 3 nodes: all there" in out
    assert "    column  total\n    a       1,000\n    bcd         2\n" in out
    assert "\x1b" not in out


def test_programs_see_nothing(capsys):
    with SilentScreen() as screen:
        screen.ended(Step("x", 0.0, 1.0))
        screen.sheet(SHEET)
        screen.moved("x")
        screen.say("x")
    assert capsys.readouterr() == ("", "")


def test_the_table_follows_the_sender(tmp_path):
    cast = FakeCast(tmp_path)
    scene = Scene({node.name: NodeRow(node.name) for node in cast.nodes})
    cast.send({})
    refresh(cast.nodes[0], scene)
    assert [row.state for row in scene.nodes.values()] == ["alive"] * 3
    assert scene.nodes["node-2"].unsettled == 1


def test_a_sender_that_does_not_answer_ends_nothing(tmp_path, monkeypatch):
    cast = FakeCast(tmp_path)
    asked = []

    def refuse(path):
        asked.append(path)
        raise NodeUnreachable("gone")

    monkeypatch.setattr("node.cli.demo_watch.WATCH_INTERVAL_S", 0.001)
    monkeypatch.setattr(cast.nodes[0], "get", refuse)
    with watching(cast.nodes[0], Scene({})):
        while len(asked) < 3:
            pass
