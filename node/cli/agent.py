"""``caxton agent``: write, check, look into and try out agent files, watch one, and change deployments."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import click

from node.cli.deployment_lines import line_of
from node.cli.options import Where, json_option, node_options
from node.deployments.limits import REPLICAS_LIMIT

FILE: Final = click.Path(path_type=Path, exists=True, dir_okay=False)
PLACES: Final = click.Path(path_type=Path, exists=True)
OUT: Final = click.Path(path_type=Path, dir_okay=False)
_revision = click.option(
    "--revision",
    type=click.IntRange(0),
    metavar="N",
    help="Only as it was read: `caxton deployments AGENT` shows its revision.",
)


class _Actions(click.Group):
    """The actions, with the verb ``deploy`` among them, which is loaded when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All actions, sorted."""
        return sorted([*super().list_commands(ctx), "deploy"])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """An action; None if there is no such one."""
        if cmd_name != "deploy":
            return super().get_command(ctx, cmd_name)
        from node.cli.deploy import command as deploy  # noqa: PLC0415 - as said above

        return deploy


@click.group("agent", cls=_Actions)
def command() -> None:
    """Write, check, look into and try out agent files, watch one, and change deployments."""


@command.command("init", epilog="For example: caxton agent init MyAnalyst --template data-analyzer")
@click.argument("name", required=False)
@click.option(
    "--template", default="minimal", show_default=True, help="What to begin with; `list` shows all."
)
@click.option(
    "--dir", "directory", type=click.Path(path_type=Path, file_okay=False), default=Path(), help="Where."
)
@click.option("--force", is_flag=True, help="Overwrite files that exist.")
def init(name: str | None, template: str, directory: Path, force: bool) -> None:
    """Write an agent file for NAME, and scenarios beside it."""
    from node.cli.agent_init import show  # noqa: PLC0415 - not for --help

    show(name, template, directory, force=force)


@command.command("validate", epilog="For example: caxton agent validate configs/agents --strict")
@click.argument("paths", nargs=-1, required=True, type=PLACES)
@click.option("--strict", is_flag=True, help="Warnings are errors.")
@click.option("--config", type=FILE, help="Configuration (YAML) of a node; its tool servers are known.")
@click.option("--check-tools", is_flag=True, help="Start the tool servers of --config that agents name.")
@json_option
def validate(
    paths: tuple[Path, ...], strict: bool, config: Path | None, check_tools: bool, as_json: bool
) -> int:
    """Check agent files, modules and scenarios.

    Of a directory, every file that begins with a front matter is checked.

    Prints one problem a line, as FILE:LINE:COLUMN. The exit status is 1 when a file has an error.
    """
    from node.cli.agent_validate import validate as examine  # noqa: PLC0415 - not for --help

    return examine(paths, strict=strict, config=config, check_tools=check_tools, as_json=as_json)


@command.command("schema", epilog="For example: caxton agent schema > agent.schema.json")
@click.option("--scenarios", is_flag=True, help="The schema of files of scenarios instead.")
def schema(scenarios: bool) -> None:
    """Print the JSON Schema of agent files, for editors."""
    from node.agents.scenarios import scenarios_schema  # noqa: PLC0415 - not for --help
    from node.agents.schema import front_matter_schema  # noqa: PLC0415

    click.echo(json.dumps(scenarios_schema() if scenarios else front_matter_schema(), indent=2))


@command.command(
    "inspect", epilog='For example: caxton agent inspect analyst.md --content \'{"action": "analyze"}\''
)
@click.argument("file", type=FILE)
@click.option("--content", help="Content of the message that prompts are shown for, JSON or text.")
@click.option("--performative", default="request", show_default=True, help="Of that message.")
@click.option("--attach", type=FILE, multiple=True, help="File that comes with it; repeatable.")
@json_option
def inspect(
    file: Path, content: str | None, performative: str, attach: tuple[Path, ...], as_json: bool
) -> None:
    """Show what a node would make of FILE.

    That is its id, capabilities, tools and limits, and the prompts for a message.
    """
    from node.cli.agent_inspect import show  # noqa: PLC0415 - not for --help

    show(file, content, performative, attach, as_json=as_json)


@command.command("test", epilog="For example: caxton agent test analyst.md --provider scripted")
@click.argument("paths", nargs=-1, type=PLACES)
@click.option(
    "--suite", type=click.Path(path_type=Path, exists=True, file_okay=False), help="Directory of agents."
)
@click.option("--provider", metavar="NAME", help="builtin, scripted, recording, live, or one of --config.")
@click.option("--scenario", metavar="NAME", help="The only scenario to run.")
@click.option("--config", type=FILE, help="Configuration (YAML) of providers and tools.")
@click.option("--record", type=OUT, help="File that the answers of a live provider are recorded in.")
@click.option("--junit", type=OUT, help="File that a report in JUnit's XML is written to.")
@json_option
def test(
    paths: tuple[Path, ...],
    suite: Path | None,
    provider: str | None,
    scenario: str | None,
    config: Path | None,
    record: Path | None,
    junit: Path | None,
    as_json: bool,
) -> int:
    """Run the scenarios beside agent files.

    They run in this process, without a node, each anew. The exit status is 1 when one was not as expected.
    """
    from node.cli.agent_test import Choice, agents_of, try_agents  # noqa: PLC0415 - not for --help

    agents = agents_of((*paths, *([suite] if suite is not None else [])))
    choice = Choice(provider, scenario, config, record)
    return try_agents(agents, choice, as_json=as_json, junit=junit)


@command.command("watch", epilog="For example: caxton agent watch analyst.md")
@click.argument("file", type=FILE)
@click.option("--workspace", default="default", show_default=True, help="The workspace it belongs to.")
@node_options
def watch(
    file: Path,
    workspace: str,
    as_json: bool,
    where: Where,
) -> None:
    """Deploy FILE to a node whenever it changes.

    Ctrl-C ends it; it is for development. Conversations that are under way finish on the version that they
    began with.
    """
    from node.cli.agent_watch import watch as keep_watching  # noqa: PLC0415 - not for --help

    keep_watching(where, file, workspace, as_json=as_json)


@command.command("scale", epilog="For example: caxton agent scale triage --replicas 3")
@click.argument("agent")
@click.option(
    "--replicas", type=click.IntRange(0, REPLICAS_LIMIT), required=True, help="How many nodes run it."
)
@_revision
@node_options
def scale(agent: str, replicas: int, revision: int | None, as_json: bool, where: Where) -> None:
    """Have another number of nodes run AGENT, which was deployed with --replicas; 0 for none."""
    from node.cli.client import Client, find_target, segment  # noqa: PLC0415 - not for --help
    from node.cli.output import print_json, safe  # noqa: PLC0415

    body = {"replicas": replicas} | ({} if revision is None else {"revision": str(revision)})
    with Client(find_target(where)) as client:
        found = client.call("POST", f"/deployments/{segment(agent)}/scale", body=body)
    if as_json:
        print_json(found)
    else:
        click.echo(safe(line_of(found)))


@command.command("undeploy", epilog="For example: caxton agent undeploy triage")
@click.argument("agent")
@_revision
@node_options
def undeploy(agent: str, revision: int | None, as_json: bool, where: Where) -> None:
    """Have no node run AGENT any more, which was deployed with --replicas."""
    from node.cli.client import Client, find_target, segment  # noqa: PLC0415 - not for --help
    from node.cli.output import print_json, safe  # noqa: PLC0415

    query = {} if revision is None else {"revision": revision}
    with Client(find_target(where)) as client:
        client.call("DELETE", f"/deployments/{segment(agent)}", query=query)
    if as_json:
        print_json({"agent": agent, "undeployed": True})
    else:
        click.echo(safe(f"{agent} is undeployed; its replicas finish what they are handling"))
