"""What a scenario puts around its agent for one run: pages on loopback, and folders with files."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import trio

from node.agents.scenarios.file import Page, Scenario
from node.config import ToolsConfig
from node.config.tools import FileRootsConfig, HttpClientConfig
from node.environment import Environment

SERVER: Final = "{{server}}"
"""Stands in the texts of a scenario for the address of its pages, ``http://127.0.0.1:PORT``."""
HOST: Final = "127.0.0.1"
REQUEST_BYTES_LIMIT: Final = 16 * 1024
"""Longest head of a request that is answered."""
REQUEST_S: Final = 10.0
"""Longest that a request may take to arrive, in seconds."""


@asynccontextmanager
async def serving(pages: Mapping[str, Page], environment: Environment) -> AsyncIterator[str]:
    """Serve pages on loopback until the block ends; yields their address, or nothing where there are none."""
    if not pages:
        yield ""
        return
    listener = await environment.network.listen(HOST, 0)
    async with trio.open_nursery() as nursery:

        async def accept() -> None:
            while True:
                nursery.start_soon(_answer, await listener.accept(), pages, environment)

        nursery.start_soon(accept)
        try:
            yield f"http://{HOST}:{listener.address[1]}"
        finally:
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await listener.aclose()


def reach(scenario: Scenario, directory: Path, tools: ToolsConfig) -> ToolsConfig:
    """How far tools reach in a run: to what the scenario puts there, else as far as they are configured.

    Args:
        scenario: Its folders are written below ``directory``.
        directory: Of the run alone.
        tools: The configuration.
    """
    found = tools
    if scenario.serve:
        http = HttpClientConfig(allowed_domains=(HOST,), allowed_networks=(f"{HOST}/32",))
        found = found.model_copy(update={"http_client": http})
    if scenario.folders:
        for folder, files in scenario.folders.items():
            for name, text in files.items():
                path = directory / folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
        roots = FileRootsConfig(read=tuple(directory / folder for folder in scenario.folders))
        found = found.model_copy(update={"files": roots})
    return found


def filled(scenario: Scenario, server: str) -> Scenario:
    """The scenario with the address of its pages in its texts."""
    if not server:
        return scenario
    found: Scenario = Scenario.model_validate(_replaced(scenario.model_dump(exclude_unset=True), server))
    return found


def _replaced(value: Any, server: str) -> Any:
    if isinstance(value, str):
        return value.replace(SERVER, server)
    if isinstance(value, Mapping):
        return {key: _replaced(item, server) for key, item in value.items()}
    return [_replaced(item, server) for item in value] if isinstance(value, list) else value


async def _answer(stream: trio.abc.Stream, pages: Mapping[str, Page], environment: Environment) -> None:
    """Answer one request, and close the connection."""
    head = bytearray()
    async with stream:
        with environment.clock.move_on_after(REQUEST_S):
            try:
                while b"\r\n\r\n" not in head and len(head) < REQUEST_BYTES_LIMIT:
                    piece = await stream.receive_some(4096)
                    if not piece:
                        return
                    head += piece
                path = bytes(head).split(b" ", 2)[1].decode(errors="replace") if b" " in head else ""
                await stream.send_all(_page(pages.get(path)))
            except trio.BrokenResourceError:
                return  # whoever asked has gone


def _page(page: Page | None) -> bytes:
    shown = page or Page(text="there is no such page", media_type="text/plain", status=404)
    body = shown.text.encode()
    reason = HTTPStatus(shown.status).phrase
    head = [
        f"HTTP/1.1 {shown.status} {reason}",
        f"content-type: {shown.media_type}",
        f"content-length: {len(body)}",
        "connection: close",
    ]
    return "\r\n".join([*head, "", ""]).encode() + body
