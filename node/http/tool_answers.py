"""Bodies of the answers about tool servers, as the node's own description shows them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from node.http.answer import Answer


class ToolChangeView(Answer):
    """A part of a tool's description that is not what was approved; long ones are cut."""

    part: str
    from_: Annotated[str | None, Field(alias="from")]
    to: str | None


class ToolView(Answer):
    """One tool of a server."""

    name: str
    status: Annotated[
        Literal["approved", "new", "changed", "refused"],
        Field(description="Only approved ones are offered to agents; a refused one has no usable schema."),
    ]
    model_name: Annotated[str | None, Field(description="Its name as models see it.")] = None
    hash: Annotated[str | None, Field(description="SHA-256 of name, description and input schema.")] = None
    changes: list[ToolChangeView] = Field(default_factory=list)
    why: Annotated[str | None, Field(description="Why it is refused.")] = None


class ToolServerView(Answer):
    """One tool server; what is said beside the first four is of other programs' servers only."""

    name: str
    kind: Literal["built-in", "stdio", "http"]
    state: Annotated[str, Field(description="Built-in servers start with the first agent that uses them.")]
    tools: list[ToolView]
    reason: Annotated[str, Field(description="Why it does not run.")] = ""
    next_try_s: Annotated[float | None, Field(description="Seconds until it is started again.")] = None
    restarts: int = 0
    not_confined: Annotated[
        dict[str, str],
        Field(default_factory=dict, description="What the system could not confine, and why."),
    ]


class ToolServersBody(Answer):
    """The tool servers of the node."""

    node: str
    servers: list[ToolServerView]


class ToolsApprovedBody(Answer):
    """The tools that were approved."""

    node: str
    server: str
    approved: list[str]
