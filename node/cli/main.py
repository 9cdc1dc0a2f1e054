"""Entry point of the ``caxton`` command.

``caxton --help`` must be quick on a small machine, so this module imports nothing but click: the table
below has every verb's short help, and a verb's module is imported when the verb runs. All errors end
here: what happened, why, and how to fix it, on standard error, with an exit status of the error's class.
"""

from __future__ import annotations

import importlib
import io
import os
import select
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from node.errors import CaxtonError

VERBS: Final = {
    "init": ("node.cli.init", "Create a cluster's keys and certificates, and add nodes to it."),
    "start": ("node.cli.start", "Start a node; without any option, alone on this machine."),
    "demo": ("node.cli.demo", "Show three nodes answering, and surviving the loss of one."),
    "build": ("node.cli.build", "Build the WebAssembly module of an agent from its sources."),
    "deploy": ("node.cli.deploy", "Deploy an agent file to a node."),
    "agent": ("node.cli.agent", "Write, check, try out and watch agent files; scale or end deployments."),
    "deployments": ("node.cli.deployments", "Show what the cluster is to run, where it runs, and why not."),
    "send": ("node.cli.send", "Send a message to a capability or an agent, and show the reply."),
    "call": ("node.cli.call", "Give a task to whoever makes the best bid, and show the result."),
    "dead-letters": ("node.cli.dead_letters", "Show, send again or drop what could not be delivered."),
    "conversations": ("node.cli.conversations", "Show conversations, follow one, or close them."),
    "trace": ("node.cli.trace", "Show the way of a message, and what it caused, across the nodes."),
    "explain": ("node.cli.explain", "Show why a message went where it went."),
    "tail": ("node.cli.tail", "Watch the messages of a node as they pass."),
    "bench": ("node.cli.bench", "Load a running cluster, and show rate and round trips."),
    "memory": ("node.cli.memory", "Search, show, add to or forget what agents remember."),
    "status": ("node.cli.status", "Show a node, or its whole cluster."),
    "members": ("node.cli.members", "Show who is in the cluster, and why."),
    "keys": ("node.cli.keys", "Show or change the keys that encrypt the gossip of all members."),
    "revoke": ("node.cli.revoke", "Revoke the key of a node, or show what is revoked."),
    "event": ("node.cli.event", "Announce something to every node, or show what was announced."),
    "query": ("node.cli.query", "Ask every node, or some, and show the answers."),
    "logs": ("node.cli.logs", "Show what agents have logged."),
    "llm": ("node.cli.llm", "Try the language models of a configuration, or show those of a node."),
    "approvals": ("node.cli.approvals", "Show the calls of tools that wait for you; approve or deny them."),
    "tool": ("node.cli.tool", "Show the tool servers of a node and their tools, and approve tools."),
    "mcp": ("node.cli.mcp", "Offer the agents of the cluster as tools to an MCP client."),
    "wasm": (
        "node.cli.wasm",
        "Sign the modules of WebAssembly agents, compose them, look into them, and try them.",
    ),
    "test": ("node.cli.test", "Run the scenarios of agents, or try one out while things fail."),
    "simulate": ("simulations.cli", "Run clusters from a seed, with faults; find and replay failures."),
    "stop": ("node.cli.stop", "Stop an agent, or the local node."),
}
"""Verb -> (module that has it as ``command``, its line in the help)."""

INTERRUPTED: Final = 130
"""Exit status after Ctrl-C, as shells have it: 128 + SIGINT."""


class Verbs(click.Group):
    """The verbs, imported on first use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All verbs, in the order in which one meets them."""
        del ctx
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of a verb, or None when there is no such verb."""
        del ctx
        if cmd_name not in VERBS:
            return None
        module, short_help = VERBS[cmd_name]
        command: click.Command = importlib.import_module(module).command
        command.short_help = short_help
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of verbs, from the table alone."""
        del ctx
        with formatter.section("Verbs"):
            formatter.write_dl([(verb, short_help) for verb, (_, short_help) in VERBS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb; where the reader of its output goes first, as ``head`` does, that is a good end.

        It is answered in here, because click makes a failure of it.
        """
        try:
            return super().invoke(ctx)
        except (BrokenPipeError, BaseExceptionGroup) as error:
            if not (_is_only(error, BrokenPipeError) and _is_reader_gone()):
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise click.exceptions.Exit(0) from None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The verb that ``args`` begin with."""
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            raise click.exceptions.NoSuchCommand(args[0], possibilities=VERBS, ctx=ctx)
        return super().resolve_command(ctx, args)


def _show_version(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    del parameter
    if value and not ctx.resilient_parsing:
        from node.telemetry.version import software_version  # noqa: PLC0415 - see the module's docstring

        click.echo(f"caxton {software_version()}")
        ctx.exit()


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version and exit.",
)
def cli() -> None:
    """Run agents on a peer-to-peer cluster of self-contained nodes.

    Start with `caxton demo`, or with `caxton start` and, in another terminal, `caxton status`.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and end the process with its status."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # of a locale that cannot write an answer's letters
    sys.exit(run(sys.argv[1:] if arguments is None else list(arguments)))


def run(arguments: Sequence[str]) -> int:
    """Run the command line.

    Args:
        arguments: Without the program's name.

    Returns:
        The exit status.
    """
    try:
        found = cli.main(args=list(arguments), prog_name="caxton", standalone_mode=False)
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return error.exit_code
    except Exception as error:
        if _is_interrupt(error):
            return INTERRUPTED
        if os.environ.get("CAXTON_DEBUG") == "1":
            raise
        return _report(_as_caxton(error, arguments), as_json="--json" in arguments)
    except BaseExceptionGroup as error:
        if _is_interrupt(error):
            return INTERRUPTED
        raise
    return found if isinstance(found, int) else 0


def _is_interrupt(error: BaseException) -> bool:
    return isinstance(error, BaseExceptionGroup) and error.subgroup(KeyboardInterrupt) is not None


def _is_only(error: BaseException, wanted: type[BaseException]) -> bool:
    """Whether an error, or each of a group, is of the wanted class."""
    if isinstance(error, BaseExceptionGroup):
        return error.split(wanted)[1] is None
    return isinstance(error, wanted)


def _is_reader_gone() -> bool:
    """Whether nobody reads our output any more; another pipe may have broken, a tool's for one."""
    output = select.poll()
    output.register(sys.stdout.fileno(), select.POLLOUT)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in output.poll(0))


def _as_caxton(error: Exception, arguments: Sequence[str]) -> CaxtonError:
    """Whatever went wrong, as an error with what, why and fix."""
    from node.cli.errors import UnexpectedFailure, UsageFailed  # noqa: PLC0415 - only when something went wrong
    from node.errors import CaxtonError  # noqa: PLC0415

    leaf = _first_leaf(error, CaxtonError)
    if isinstance(leaf, CaxtonError):
        return leaf
    if isinstance(error, click.ClickException):
        return UsageFailed.of(error, _verb_of(arguments))
    if isinstance(leaf, UnicodeEncodeError):
        broken = next((text for text in arguments if any("\ud800" <= c <= "\udfff" for c in text)), None)
        if broken is not None:
            return UsageFailed(
                f"the argument {broken!r} is not text in {sys.getfilesystemencoding()}",
                why="it holds bytes that are no characters there",
                fix="Write it in UTF-8, in a locale of UTF-8 (LC_ALL=C.UTF-8).",
            )
    return UnexpectedFailure(
        f"an unexpected error: {type(leaf).__name__}: {leaf}",
        why="this is a bug in Caxton",
        fix="Run it again with CAXTON_DEBUG=1 in the environment and report the traceback.",
    )


def _verb_of(arguments: Sequence[str]) -> str:
    """The verb that a command line begins with, as ``caxton memory add``."""
    context, path = click.Context(cli), ["caxton"]
    command: click.Command = cli
    for word in arguments:
        found = command.get_command(context, word) if isinstance(command, click.Group) else None
        if found is None:
            break
        command, path = found, [*path, word]
    return " ".join(path)


def _first_leaf(error: BaseException, wanted: type[BaseException]) -> BaseException:
    """The first error of the wanted class inside nested groups, else the first error at all."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    leaves = [_first_leaf(inner, wanted) for inner in error.exceptions]
    return next((leaf for leaf in leaves if isinstance(leaf, wanted)), leaves[0])


def _report(error: CaxtonError, *, as_json: bool) -> int:
    if as_json:
        import json  # noqa: PLC0415 - only when something went wrong

        found: dict[str, Any] = error.as_json()
        click.echo(json.dumps(found, default=str))
    from node.cli.output import safe  # noqa: PLC0415 - only when something went wrong

    lines = [f"caxton: {error.what}"]
    lines += [f"  why: {error.why}"] if error.why else []
    lines += [f"  fix: {error.fix}"] if error.fix else []
    click.echo(safe("\n".join(lines)), err=True)  # a node may have said it, and quote an agent or a peer
    return error.exit_code


if __name__ == "__main__":  # `python -m node.cli.main`, where no script named caxton is on the path
    main()
