from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import httpx
import pytest

from node.client import AsyncClient
from tests.node.client.nodes import QUICK, Node


@pytest.fixture(params=["trio", "asyncio"])
def run(request: pytest.FixtureRequest) -> Callable[..., Any]:
    def on_backend(node: Node, test: Callable[[AsyncClient], Awaitable[Any]], **options: Any) -> Any:
        async def within() -> Any:
            given = {"retries": QUICK} | options
            async with AsyncClient("http://node", transport=httpx.MockTransport(node), **given) as client:
                return await test(client)

        return anyio.run(within, backend=request.param)

    return on_backend
