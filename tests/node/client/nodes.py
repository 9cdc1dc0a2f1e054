"""A node as a client sees it: requests come in, and what a script says goes out."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx

from node.client import Retries

QUICK = Retries(first_s=0.001, last_s=0.01)
RECEIPT = {"message_id": "m", "conversation_id": "c", "routed_to": ["w@a"], "status": "routed"}
Script = Callable[[httpx.Request], httpx.Response]


def refusal(status: int, code: str, **details: Any) -> httpx.Response:
    error = {"code": code, "message": "no", "why": "because", "fix": "do", "details": details}
    headers = {"retry-after": "7"} if status == 429 else {}
    return httpx.Response(status, json={"error": error, "code": code}, headers=headers)


class Node:
    """Answers requests as the script says, the last entry again and again."""

    def __init__(self, *script: Any) -> None:
        self.script, self.requests = list(script), []

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        what = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if isinstance(what, Exception):
            raise what
        return what(request) if callable(what) else what

    def bodies(self) -> list[Any]:
        return [json.loads(request.content) for request in self.requests]


def ok(body: Any = RECEIPT, status: int = 202) -> httpx.Response:
    return httpx.Response(status, json=body)
