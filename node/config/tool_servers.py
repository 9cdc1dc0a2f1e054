"""The section ``tools``: which tool servers there are beside the built-in ones, and what they may do.

``mcpServers`` is the map that MCP clients share, word for word, so that it can be pasted. What Caxton adds
to it, the bounds of each server, lies beside it under ``servers``.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, SecretStr, model_validator

from node.config.section import Section
from node.config.tools import FileRootsConfig, HttpClientConfig
from node.config.units import (
    LONGEST_S,
    Bytes,
    Count,
    Domains,
    Networks,
    Seconds,
    Text,
    Texts,
    seconds,
)

SERVERS_LIMIT: Final = 32
"""Most tool servers beside the built-in ones."""
DISABLED_LIMIT: Final = 256
"""Most tools of one server that are named as disabled."""
ARGUMENTS_LIMIT: Final = 64
"""Most arguments of a server's command, variables of its environment, and headers of its requests."""
CLIENT_TIMEOUT_S: Final = 3_600
"""Longest time that other clients give a call in seconds; a greater number is meant in milliseconds."""
VALUE_LIMIT: Final = 8_192
"""Longest argument, variable or header, in characters."""
APPROVAL_LIMIT_S: Final = 30 * 86_400.0
"""Longest time for an approval, in seconds."""
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,62}")
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_HEADER: Final = re.compile(r"[A-Za-z0-9-]{1,64}")
_OWN_HEADERS: Final = frozenset(
    {"accept", "accept-encoding", "connection", "content-length", "content-type", "host"}
    | {"last-event-id", "mcp-protocol-version", "mcp-session-id", "transfer-encoding"}
)
_TYPES: Final = {
    "stdio": "stdio",
    "http": "http",
    "streamable-http": "http",
    "streamable_http": "http",
    "streamablehttp": "http",
}


def _plain_text(value: Any) -> Any:
    """YAML reads ``PORT: 8080`` as a number where the map's own JSON has a text."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _client_timeout(value: Any) -> Any:
    """Clients write seconds, at most an hour of them, or milliseconds."""
    found = seconds(value)
    return found / 1000 if not isinstance(value, str) and found > CLIENT_TIMEOUT_S else found


Value = Annotated[str, BeforeValidator(_plain_text), Field(max_length=VALUE_LIMIT, pattern=r"^[^\x00]*$")]
Secret = Annotated[SecretStr, BeforeValidator(_plain_text), Field(max_length=VALUE_LIMIT)]


class McpServer(Section):
    """One server of the map.

    Attributes:
        command: The program of a stdio server.
        args: Its arguments.
        env: The variables it is given; it sees none of the node's own.
        cwd: Where it runs; in a directory of its own otherwise.
        url: The address of a streamable HTTP server.
        headers: Headers of all requests to it.
        type: How it is spoken to; told by ``command`` or ``url`` otherwise.
        env_file: A file of further variables of a stdio server; those of ``env`` win.
        disabled: Whether it is left alone.
        disabled_tools: Tools of it that nobody is offered.
        timeout_s: Longest call of its tools, where it is shorter than others that hold.
        auto_approve: Of other clients; grants nothing here.
        always_allow: Of other clients; grants nothing here.
        trust: Of other clients; grants nothing here.
        description: For people.
    """

    command: Annotated[Value, Field(min_length=1)] | None = None
    args: Annotated[tuple[Value, ...], Field(max_length=ARGUMENTS_LIMIT)] = ()
    env: dict[str, Secret] = Field(default_factory=dict, max_length=ARGUMENTS_LIMIT)
    cwd: Path | None = None
    url: Annotated[str, Field(min_length=1, max_length=2_048)] | None = None
    headers: dict[str, Secret] = Field(default_factory=dict, max_length=ARGUMENTS_LIMIT)
    type: Text | None = None
    env_file: Path | None = Field(default=None, alias="envFile")
    disabled: bool = False
    disabled_tools: Annotated[tuple[Value, ...], Field(max_length=DISABLED_LIMIT)] = Field(
        default=(), alias="disabledTools"
    )
    timeout_s: Annotated[float, BeforeValidator(_client_timeout), Field(gt=0, le=LONGEST_S)] | None = Field(
        default=None, alias="timeout"
    )
    auto_approve: Any = Field(default=None, alias="autoApprove")
    always_allow: Any = Field(default=None, alias="alwaysAllow")
    trust: Any = None
    description: Annotated[str, Field(max_length=2_000)] | None = None

    @property
    def kind(self) -> Literal["stdio", "http"]:
        """How it is spoken to."""
        return "stdio" if self.command is not None else "http"

    @property
    def ignored(self) -> tuple[str, ...]:
        """Keys that are there and would let a model call more than its agent's file grants."""
        keys = {"autoApprove": self.auto_approve, "alwaysAllow": self.always_allow, "trust": self.trust}
        return tuple(key for key, value in keys.items() if value)

    @model_validator(mode="after")
    def _is_one_kind(self) -> McpServer:
        if (self.command is None) == (self.url is None):
            raise ValueError("a server has a command (stdio) or a url (streamable HTTP), and not both")
        told = _TYPES.get((self.type or self.kind).lower())
        if told is None:
            hint = "; the transport 'sse' is gone from MCP" if self.type == "sse" else ""
            raise ValueError(f"the type {self.type!r} is not spoken here, only stdio and http{hint}")
        if told != self.kind:
            raise ValueError(f"the type {self.type!r} does not go with what the server has")
        for problem in self._problems():
            raise ValueError(problem)
        return self

    def _problems(self) -> Iterator[str]:
        if self.kind == "stdio" and self.headers:
            yield "headers belong to a server with a url"
        if self.kind == "http" and (self.args or self.env or self.env_file or self.cwd is not None):
            yield "args, env, envFile and cwd belong to a server with a command"
        for name, secret in self.env.items():
            if not _VARIABLE.fullmatch(name) or "\x00" in secret.get_secret_value():
                yield f"{name[:64]!r} cannot be set in an environment"
        for name, secret in self.headers.items():
            value = secret.get_secret_value()
            if not (_HEADER.fullmatch(name) and value.isascii() and value.isprintable()):
                yield f"{name[:64]!r} is not a header that can be sent"
            elif name.lower() in _OWN_HEADERS:
                yield f"the header {name!r} is set by the transport itself"
        if self.url is not None:
            yield from _url_problems(self.url)


class ToolServerLimits(Section):
    """What one server of the map may do; a stdio server is held to it by the system.

    Attributes:
        read: Directories and files that a stdio server may read, beside the system's own.
        write: Those that it may read and write, beside a directory of its own that goes when it ends.
        network: Whether a stdio server may use the network.
        allowed_domains: Hosts that it may reach, ``*.example.org`` for those below; any without it.
        memory_bytes: Address space of each process of a stdio server.
        processes: Most processes and threads of a stdio server.
        open_files: Most files that each process has open.
        max_file_bytes: Largest file that it may write.
        allow_http: Whether ``http://`` may lead to other than this machine.
        allowed_networks: Networks that these hosts may lead to although they are not public.
        timeout_s: Longest call of its tools, where it is shorter than ``tools.timeout``.
    """

    read: Annotated[tuple[Value, ...], Field(max_length=ARGUMENTS_LIMIT)] = ()
    write: Annotated[tuple[Value, ...], Field(max_length=ARGUMENTS_LIMIT)] = ()
    network: bool = True
    allowed_domains: Domains = ()
    memory_bytes: Bytes = Field(default=4 * 1024**3, alias="memory")
    processes: Count = 64
    open_files: Annotated[Count, Field(ge=16, le=65_536)] = 256
    max_file_bytes: Bytes = Field(default=1024**3, alias="max_file")
    allow_http: bool = False
    allowed_networks: Networks = ()
    timeout_s: Seconds | None = Field(default=None, alias="timeout")

    @model_validator(mode="after")
    def _values_are_whole(self) -> ToolServerLimits:
        for path in (*self.read, *self.write):
            if not Path(path).is_absolute():
                raise ValueError(f"the path {path[:200]!r} must be absolute")
        if self.allowed_domains and not self.network:
            raise ValueError("allowed_domains has no meaning without network")
        return self


class ToolsConfig(Section):
    """Tool calls, and the tool servers beside the built-in ones.

    Attributes:
        allowed_tools: Servers (``csv_parser``) or tools (``csv_parser/csv_top``) that agents may be
            granted; absent for all.
        require_approval: Servers or tools of which every call needs an operator's approval; ``*`` for all.
        repeatable: Servers or tools whose approved call is made again when a crash left its outcome unknown.
        approval_timeout_s: How long an operator has for it.
        timeout_s: Longest call.
        max_result_bytes: Largest result, as JSON.
        http_client: Where the tools of ``http_client`` may go.
        files: What the tools of ``files`` and ``csv_parser`` may read and write.
        mcp_servers: The servers, as other MCP clients are told of them.
        servers: What each of them may do.
        confinement: Whether a stdio server starts where the system cannot hold it to all of its bounds.
    """

    allowed_tools: Texts | None = None
    require_approval: Texts = ()
    repeatable: Texts = ()
    approval_timeout_s: Annotated[Seconds, Field(le=APPROVAL_LIMIT_S)] = Field(
        default=86_400.0, alias="approval_timeout"
    )
    timeout_s: Seconds = Field(default=30.0, alias="timeout")
    max_result_bytes: Bytes = Field(default=256 * 1024, alias="max_result")
    http_client: HttpClientConfig = HttpClientConfig()
    files: FileRootsConfig = FileRootsConfig()
    mcp_servers: dict[str, McpServer] = Field(
        default_factory=dict, max_length=SERVERS_LIMIT, alias="mcpServers"
    )
    servers: dict[str, ToolServerLimits] = Field(default_factory=dict, max_length=SERVERS_LIMIT)
    confinement: Literal["prefer", "require"] = "prefer"

    @model_validator(mode="after")
    def _servers_are_whole(self) -> ToolsConfig:
        for problem in self._problems():
            raise ValueError(problem)
        return self

    def limits(self, server: str) -> ToolServerLimits:
        """What a server of the map may do."""
        return self.servers.get(server, ToolServerLimits())

    def call_s(self, server: str) -> float:
        """The longest call of a tool of a server of the map, in seconds: the shortest time that is given."""
        own = (self.limits(server).timeout_s, self.mcp_servers[server].timeout_s)
        return min([self.timeout_s, *(each for each in own if each is not None)])

    def _problems(self) -> Iterator[str]:
        for name in self.servers:
            if name not in self.mcp_servers:
                known = ", ".join(self.mcp_servers) or "none"
                yield f"servers.{name[:80]}: there is no such server in mcpServers; there are {known}"
        for name, server in self.mcp_servers.items():
            if not _NAME.fullmatch(name):
                yield f"{name[:80]!r} cannot name a server: letters, digits, blanks, '.', '_' and '-'"
            limits = self.limits(name)
            if server.url is None:
                continue
            parts = urlsplit(server.url)
            host = parts.hostname or ""
            if parts.scheme == "http" and not (limits.allow_http or is_this_machine(host)):
                yield (
                    f"mcpServers.{name}.url is not encrypted and leads to another machine; use https, or "
                    f"set servers.{name}.allow_http"
                )


def is_this_machine(host: str) -> bool:
    """Whether a host of a URL is written as this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _url_problems(url: str) -> Iterator[str]:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        yield "the url is none"
        return
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        yield "the url must be as https://mcp.example.org/mcp"
    elif not url.isascii() or not url.isprintable() or " " in url:
        yield "the url must be printable ASCII without blanks"
    elif parts.username is not None or parts.password is not None or parts.fragment:
        yield "the url must not hold a password or a fragment; what is secret goes into headers"
