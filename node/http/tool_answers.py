"""Bodies of the answers about tool servers, as the node's own description shows them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field


class ToolView(BaseModel):
    """One tool of a server."""

    name: str


class ToolServerView(BaseModel):
    """One tool server."""

    name: str
    kind: Literal["built-in"]
    state: Annotated[str, Field(description="Built-in servers start with the first agent that uses them.")]
    tools: list[ToolView]


class ToolServersBody(BaseModel):
    """The tool servers of the node."""

    node: str
    servers: list[ToolServerView]
