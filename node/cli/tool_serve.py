"""``caxton tool serve``: one of the built-in tool servers by itself, for any MCP client.

Over standard input and output by default, as clients start servers; over HTTP on this machine with
``--http``, where a token is needed. What a server may reach is what the command line names, and nothing
else: a client's ``_meta``, by which a node tells a server who calls, is not looked at.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import trio

from node.cli.client import Client, Target, find_target
from node.cli.errors import UsageFailed
from node.cli.mcp_http import serve_http
from node.cli.options import Where, target_options
from node.errors import NoReply
from node.wording import said_of

if TYPE_CHECKING:
    from mcp.server.mcpserver import MCPServer

    from node.memory.room import MemoryRoom

TOKEN_VARIABLE: Final = "CAXTON_TOOL_TOKEN"  # noqa: S105 - a name
"""Environment variable with the token that clients show over HTTP; without it one is made."""
_TAKES: Final = {
    "csv_parser": ("roots", "writes"),
    "files": ("roots", "writes"),
    "http_client": ("domains", "networks"),
    "time": (),
    "chart_generator": (),
    "memory": ("data_dir", "agent"),
    "request_capability": ("api", "node_name", "token", "token_file"),
}
"""Server -> the parameters that mean something for it."""
_NEEDS: Final = {
    "csv_parser": (("roots", "writes"), "--root DIR"),
    "files": (("roots", "writes"), "--root DIR"),
    "http_client": (("domains",), "--allow-domain example.org, or --allow-domain '*' for all public ones"),
    "memory": (("data_dir",), "--data-dir DIR"),
}
"""Server -> the parameters of which it needs one, and how one is given."""


@dataclass(frozen=True, slots=True)
class _Given:
    """What the command line says."""

    roots: tuple[Path, ...] = ()
    writes: tuple[Path, ...] = ()
    domains: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    data_dir: Path | None = None
    agent: str | None = None
    api: str | None = None
    node_name: str | None = None
    token: str | None = None
    token_file: Path | None = None


@click.command("serve", epilog="For example: caxton tool serve files --root ~/reports")
@click.argument("server", type=click.Choice(sorted(_TAKES)))
@click.option(
    "--root",
    "roots",
    type=click.Path(path_type=Path, exists=True, file_okay=False, resolve_path=True),
    multiple=True,
    help="Folder that may be read; repeatable. Known by its last part.",
)
@click.option(
    "--write",
    "writes",
    type=click.Path(path_type=Path, exists=True, file_okay=False, resolve_path=True),
    multiple=True,
    help="Folder that may be read and written; repeatable.",
)
@click.option(
    "--allow-domain",
    "domains",
    metavar="DOMAIN",
    multiple=True,
    help="Domain that may be called; repeatable.",
)
@click.option(
    "--allow-network",
    "networks",
    metavar="CIDR",
    multiple=True,
    help="Network that may be called although it is not public; repeatable.",
)
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where the memory is; not that of a node that runs.",
)
@click.option("--agent", metavar="NAME", help="Whose memory it is; local without it.")
@click.option(
    "--http", "port", type=click.IntRange(1, 65_535), help="Serve by HTTP on this port of 127.0.0.1."
)
@target_options
def serve(server: str, port: int | None, where: Where, **given: Any) -> None:
    """Serve SERVER over standard input and output, or by HTTP, to any MCP client."""
    asked = _Given(**given, **asdict(where))
    _check(server, asked)
    # What the SDK would log goes to standard error, and only if something is wrong.
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s: %(message)s")
    trio.run(_run, server, asked, port)


def _check(server: str, asked: _Given) -> None:
    """Refuse what means nothing for a server, and a server that could reach nothing."""
    for name in _Given.__dataclass_fields__:
        if getattr(asked, name) not in (None, ()) and name not in _TAKES[server]:
            if os.environ.get("CAXTON_" + name.upper()) == getattr(asked, name):
                continue  # of the environment, where it is meant for other verbs
            option = next(p.opts[0] for p in serve.params if p.name == name)
            raise UsageFailed(f"{option} means nothing for {server}", fix="Leave it out.")
    needed, example = _NEEDS.get(server, ((), ""))
    if needed and all(getattr(asked, name) in (None, ()) for name in needed):
        raise UsageFailed(
            f"{server} could reach nothing", why="nothing is named that it may use", fix=f"Give {example}."
        )


async def _run(server: str, asked: _Given, port: int | None) -> None:
    async with _built(server, asked) as built:
        if port is None:
            await built.run_stdio_async()
        else:
            app = built.streamable_http_app()
            await serve_http(app, name=built.name, port=port, variable=TOKEN_VARIABLE)


@asynccontextmanager
async def _built(server: str, asked: _Given) -> AsyncIterator[MCPServer]:
    """A server, and what it needs to run beside it."""
    from node.environment import system_environment  # noqa: PLC0415 - quick help
    from node.tools.caller import Caller  # noqa: PLC0415

    environment = system_environment()
    access = "read_write" if asked.writes else "read_only"
    caller = Caller(asked.agent or "local", domains=asked.domains, file_access=access)  # type: ignore[arg-type]
    if server == "memory":
        from node.tools.memory_server import create_memory_server  # noqa: PLC0415

        async with _memory(asked, environment) as room:
            yield create_memory_server(room, lambda _meta: caller)
        return
    if server == "request_capability":
        from node.tools.capability_server import create_capability_server  # noqa: PLC0415

        target = find_target(Where(asked.api, asked.node_name, asked.token, asked.token_file))
        yield create_capability_server(_NodeAgents(target))
        return
    from node.tools.builtin_servers import builtin_servers  # noqa: PLC0415
    from node.tools.files import FileSpaces  # noqa: PLC0415

    servers = builtin_servers(environment=environment, config=_reach(asked), caller_of=lambda _meta: caller)
    found = next(each for each in servers if each.name == server)
    yield found.create(FileSpaces(), environment.workers)


def _reach(asked: _Given) -> Any:
    """The command line as a configuration, and checked like one.

    Raises:
        UsageFailed: it means nothing.
    """
    from pydantic import ValidationError  # noqa: PLC0415

    from node.config import ToolsConfig  # noqa: PLC0415
    from node.config.tools import FileRootsConfig, HttpClientConfig  # noqa: PLC0415

    try:
        return ToolsConfig(
            http_client=HttpClientConfig(allowed_domains=asked.domains, allowed_networks=asked.networks),
            files=FileRootsConfig(read=asked.roots, write=asked.writes),
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageFailed("what the server may reach is not valid", why=said_of(first)) from None


@asynccontextmanager
async def _memory(asked: _Given, environment: Any) -> AsyncIterator[MemoryRoom]:
    from node.memory.embedding.factory import make_embedder  # noqa: PLC0415 - only the memory needs it
    from node.memory.embedding.settings import EmbeddingSettings  # noqa: PLC0415
    from node.memory.records import Limits  # noqa: PLC0415
    from node.memory.room import FILE, MemoryRoom  # noqa: PLC0415

    directory = asked.data_dir or Path()
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise UsageFailed(
            f"{directory} cannot be used", why=error.strerror or str(error), fix="Name another --data-dir."
        ) from None
    room = MemoryRoom(
        environment=environment,
        path=directory / FILE,
        durability="normal",
        node="local",
        limits=Limits(100_000, 100_000),
        threshold=0.3,
        make_embedder=partial(make_embedder, EmbeddingSettings(), environment),
    )
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(room.run)
            yield room
            nursery.cancel_scope.cancel()
    finally:
        room.close()


class _NodeAgents:
    """The agents of a cluster, through the admin API of a node."""

    def __init__(self, target: Target) -> None:
        self._target = target

    async def request(self, content: Any, *, capability: str, timeout_s: float) -> dict[str, Any]:
        """Ask whoever offers a capability."""

        def ask() -> dict[str, Any]:
            body = {"capability": capability, "performative": "request", "content": content}
            with Client(self._target) as client:
                found = client.call(
                    "POST", "/messages", body=body, query={"wait": timeout_s}, wait_s=timeout_s
                )
            reply: dict[str, Any] | None = found.get("reply")
            if reply is None:
                raise NoReply("nobody has answered", why=f"within {timeout_s:g} s", fix="Wait longer.")
            return reply

        return await trio.to_thread.run_sync(ask, abandon_on_cancel=True)

    async def capabilities(self) -> list[dict[str, Any]]:
        """What is offered."""

        def ask() -> list[dict[str, Any]]:
            with Client(self._target) as client:
                found: list[dict[str, Any]] = client.get("/capabilities")["capabilities"]
            return found

        return await trio.to_thread.run_sync(ask, abandon_on_cancel=True)
