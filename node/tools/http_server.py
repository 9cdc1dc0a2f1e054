"""The built-in MCP server ``http_client``: pages and APIs of the domains that an agent may call."""

from __future__ import annotations

from json import dumps as json_text
from typing import Annotated, Any, Final, Literal

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from pydantic import Field

from node.errors import CaxtonError
from node.security.outbound import URL_LIMIT
from node.tools.caller import CallerOf
from node.tools.http_client import BODY_LIMIT, HEADERS_LIMIT, HttpCall, HttpClient

NAME: Final = "http_client"
"""The name agents grant themselves in their front matter."""

FACTS_LINES: Final = 10
"""Lines of an answer that are quoted as facts."""
FACTS_LINKS: Final = 5
"""Links that are."""
FACT_LIMIT: Final = 300
"""Longest such line, in characters."""

Url = Annotated[
    str,
    Field(
        min_length=8,
        max_length=URL_LIMIT,
        description="Where to, with https:// or http://.",
        json_schema_extra={"format": "uri", "x-aliases": ["link", "address", "uri", "page", "website"]},
    ),
]
Headers = Annotated[
    dict[str, str],
    Field(max_length=HEADERS_LIMIT, description="Additional headers, as accept or authorization."),
]
Form = Annotated[
    Literal["text", "raw"],
    Field(description="text gives HTML as a person reads it, raw as it came."),
]


def create_http_server(client: HttpClient, caller_of: CallerOf) -> MCPServer:
    """Build the server.

    Args:
        client: Makes the calls.
        caller_of: Who calls, and which domains that may be.
    """
    server = MCPServer(NAME, instructions="Calls web pages and HTTP APIs of the domains that are allowed.")

    async def make(ctx: Context, call: HttpCall) -> dict[str, Any]:
        try:
            answer = await client.call(call, caller_of(ctx.request_context.meta).domains)
        except CaxtonError as error:
            raise ToolError(str(error)) from None
        return answer | {"facts": _facts(answer)}

    @server.tool(structured_output=True)
    async def http_get(
        ctx: Context, url: Url, form: Form = "text", headers: Headers | None = None
    ) -> dict[str, Any]:
        """Get, fetch, open, download or read a web page, website, URL or HTTP API.

        HTML comes as text with title and links, JSON as JSON.
        """
        return await make(ctx, HttpCall(url=url, form=form, headers=headers or {}))

    @server.tool(structured_output=True)
    async def http_request(  # noqa: PLR0917 - the SDK calls it by name
        ctx: Context,
        url: Url,
        method: Annotated[
            Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"], Field(description="The method.")
        ],
        headers: Headers | None = None,
        json: Annotated[Any, Field(description="A JSON body.")] = None,
        text: Annotated[str | None, Field(max_length=BODY_LIMIT, description="A text body.")] = None,
        form: Form = "text",
    ) -> dict[str, Any]:
        """Make an HTTP request with a method, headers and a body: post, put, patch or delete at an API."""
        call = HttpCall(
            url=url, method=method, headers=headers or {}, json_body=json, text_body=text, form=form
        )
        return await make(ctx, call)

    return server


def _facts(answer: dict[str, Any]) -> list[str]:
    """What a person wants to see first: what it is, how it begins, and where it leads."""
    named = f"{answer['title']}: " if answer.get("title") else ""
    facts = [f"{named}{answer['url']} (status {answer['status']})"]
    text = answer.get("text") or (json_text(answer["json"], ensure_ascii=False) if "json" in answer else "")
    lines = [line.strip()[:FACT_LIMIT] for line in text.splitlines() if line.strip()]
    facts += lines[:FACTS_LINES]
    if len(lines) > FACTS_LINES:
        facts.append(f"... and {len(lines) - FACTS_LINES} more lines")
    links = [f"{link['text'] or link['url']} ({link['url']})" for link in answer.get("links", [])]
    return facts + ([f"Links: {', '.join(links[:FACTS_LINKS])}"] if links else [])
