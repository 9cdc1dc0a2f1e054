"""``caxton demo``: a cluster of real nodes that answers, loses a node, and loses no request."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from node.cli.options import json_option
from node.cli.output import print_json

if TYPE_CHECKING:
    from node.cli.demo_cluster import DemoCluster
    from node.cli.demo_failover import Failover
    from node.cli.demo_story import Answer
    from node.cli.demo_view import Scene, Screen

LEAST_NODES: Final = 3
MOST_NODES: Final = 12


@click.command("demo")
@click.option(
    "--nodes",
    "count",
    type=click.IntRange(LEAST_NODES, MOST_NODES),
    default=LEAST_NODES,
    show_default=True,
    help="How many nodes to start.",
)
@click.option(
    "--csv",
    "path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Analyze this file; sample sales by default.",
)
@click.option("--keep", is_flag=True, help="Leave the cluster running, and say how to talk to it.")
@json_option
def command(count: int, path: Path | None, keep: bool, as_json: bool) -> None:
    """Start nodes on this machine, have a request answered across them, and kill the node that answered.

    Needs no network and no API key. Everything runs on loopback and in one temporary directory, which is
    removed at the end.
    """
    from node.cli.demo_cluster import signals_as_interrupts, temporary_cluster  # noqa: PLC0415 - not for --help
    from node.cli.demo_csv import CsvFile  # noqa: PLC0415
    from node.cli.demo_failover import tell_failover  # noqa: PLC0415
    from node.cli.demo_story import DemoFailed, Stage, tell_beginning  # noqa: PLC0415
    from node.cli.demo_view import NodeRow, Scene  # noqa: PLC0415
    from node.cli.demo_watch import watching  # noqa: PLC0415
    from node.errors import CaxtonError  # noqa: PLC0415
    from node.samples import sample  # noqa: PLC0415

    csv = CsvFile.read(path or sample("demo/sales.csv"))
    names = [f"node-{number}" for number in range(1, count + 1)]
    scene = Scene({name: NodeRow(name) for name in names})
    scene.nodes[names[0]].role = "sender"
    screen = _screen(scene, as_json=as_json)
    with signals_as_interrupts(), temporary_cluster(names) as cluster:
        with screen, watching(cluster.nodes[0], scene):
            stage = Stage(cluster, csv, scene, screen)
            try:
                answer = tell_beginning(stage)
                _show_answer(screen, answer)
                failover = tell_failover(stage, answer)
            except CaxtonError:
                cluster.check()  # a node that ended by itself is the better explanation
                raise
            elapsed_s = scene.elapsed_s
        missing = failover.missing()
        kept = _kept(cluster, csv.name, failover.victim) if keep else None
        if keep:
            cluster.keep()
        if as_json:
            held_by = _holders(cluster, csv.name)
            print_json(
                _result(scene, answer, failover, elapsed_s) | {"csv_held_by": held_by, "cluster": kept}
            )
        else:
            _show_end(screen, failover, elapsed_s)
            _show_kept(screen, kept)
    if missing and as_json:
        click.get_current_context().exit(DemoFailed.exit_code)
    if missing:
        raise DemoFailed("the demo did not show everything", why="; ".join(missing), fix="Run it again.")


def _screen(scene: Scene, *, as_json: bool) -> Screen:
    from node.cli.demo_view import LiveScreen, PlainScreen, SilentScreen  # noqa: PLC0415

    if as_json:
        return SilentScreen()
    return LiveScreen(scene) if sys.stdout.isatty() else PlainScreen()


def _result(scene: Scene, answer: Answer, failover: Failover, elapsed_s: float) -> dict[str, Any]:
    """The one document of ``--json``."""
    missing = failover.missing()
    return {
        "ok": not missing,
        "missing": missing,
        "nodes": list(scene.nodes),
        "members": failover.members,
        "agents": {row.name: list(row.agents) for row in scene.nodes.values()},
        "request": answer.request,
        "reply": answer.reply,
        "reply_seconds": round(answer.seconds, 3),
        "routed_to": answer.routed_to,
        "route": answer.route,
        "victim": failover.victim,
        "victim_pid": failover.victim_pid,
        "burst": failover.burst,
        "unsettled_at_kill": failover.unsettled_at_kill,
        "suspected_seconds": _rounded(failover.suspected_s),
        "detection_seconds": _rounded(failover.detection_s),
        "rerouted": failover.rerouted,
        "answered": failover.answered,
        "answered_by": failover.answered_by,
        "lost": failover.lost,
        "unanswered": failover.unanswered,
        "elapsed_seconds": round(elapsed_s, 3),
        "steps": [step.as_json() for step in scene.steps],
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


def _show_answer(screen: Screen, answer: Answer) -> None:
    from node.cli.demo_answer import sheets  # noqa: PLC0415

    for sheet in sheets(answer):
        screen.sheet(sheet)


def _show_end(screen: Screen, failover: Failover, elapsed_s: float) -> None:
    screen.say()
    screen.say(
        f"{failover.victim} was killed with {failover.unsettled_at_kill} requests unsettled on it "
        f"and declared dead after {failover.detection_s or 0.0:.2f} s."
    )
    screen.say(
        f"{failover.answered} of {failover.burst} requests answered, {failover.rerouted} of them re-routed, "
        f"{failover.lost} lost. {elapsed_s:.1f} s in all."
    )


def _holders(cluster: DemoCluster, name: str) -> list[str]:
    """The nodes whose data directory has a file of that name, wherever in it."""
    return [actor.name for actor in cluster.nodes if any(actor.data_dir.rglob(name))]


def _kept(cluster: DemoCluster, csv_name: str, victim: str) -> dict[str, Any]:
    """How to talk to a cluster that stays, and how to end it."""
    alive = [actor for actor in cluster.nodes if actor.name != victim]
    sender = alive[0]
    program = _program()
    token = ["--token-file", str(cluster.token_file)]
    to_sender = ["--api", sender.api, *token]
    file = str(sender.data_dir / csv_name)
    content = f'{{"action": "analyze", "file": "{csv_name}"}}'
    commands = {
        "status": [*program, "status", "--cluster", *to_sender],
        "send": [*program, "send", "--capability", "data-analysis", "--attach", file, content, *to_sender],
        "echo": [*program, "send", "--capability", "echo", '{"hello": "world"}', *to_sender],
    }
    stops = [[*program, "stop", "--api", actor.api, *token] for actor in alive]
    return {
        "directory": str(cluster.directory),
        "token_file": str(cluster.token_file),
        "nodes": [
            {
                "name": actor.name,
                "api": actor.api,
                "pid": actor.pid,
                "config": str(actor.config),
                "data_dir": str(actor.data_dir),
                "log": str(actor.log),
            }
            for actor in alive
        ],
        "commands": {verb: shlex.join(words) for verb, words in commands.items()}
        | {
            "stop": [shlex.join(words) for words in stops],
            "remove": shlex.join(["rm", "-r", str(cluster.directory)]),
        },
    }


def _program() -> list[str]:
    """How the user can call us again: by our name, by the path that was used, or as a module."""
    from node.cli.demo_cluster import caxton_command  # noqa: PLC0415 - not for --help

    if shutil.which("caxton"):
        return ["caxton"]
    used = Path(sys.argv[0]).absolute()
    return [str(used)] if used.name == "caxton" and used.is_file() else list(caxton_command())


def _show_kept(screen: Screen, kept: dict[str, Any] | None) -> None:
    if kept is None:
        return
    commands = kept["commands"]
    screen.say(f"\nThe cluster keeps running; its files and logs are in {kept['directory']}. Talk to it:\n")
    for verb in ("status", "send", "echo"):
        screen.command(commands[verb])
    screen.say("\nEnd it, node by node, and remove its files:\n")
    for line in (*commands["stop"], commands["remove"]):
        screen.command(line)
