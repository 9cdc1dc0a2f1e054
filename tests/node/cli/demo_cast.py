"""A cluster for the demo's story that lives in one dictionary: what each node's admin API would say."""

from __future__ import annotations

import itertools
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ANALYSIS = {
    "file": "data.csv",
    "rows": 2,
    "totals": {"revenue": 30},
    "averages": {"revenue": 15},
    "top": {
        "by": "product",
        "measure": {"name": "revenue"},
        "items": [{"name": "Tent", "value": 20.5, "rows": 1}],
    },
}
FILES = {"data_analyzer": "data-analysis", "echo": "echo"}


@dataclass
class Request:
    """One request of the sender: where it went, and what came back."""

    id: str
    node: str
    moved_to: str | None = None
    replies: list[dict[str, Any]] = field(default_factory=list)

    @property
    def routes(self) -> list[dict[str, Any]]:
        first = {"to": f"data-analyzer@{self.node}", "epoch": 0, "state": "settled"}
        if self.moved_to is None:
            return [first]
        second = {"to": f"data-analyzer@{self.moved_to}", "epoch": 1, "state": "settled"}
        return [first | {"state": "moved"}, second]


@dataclass
class FakeCast:
    """Three or more nodes; node-1 sends, node-2 and node-3 analyze."""

    directory: Path
    count: int = 3
    settles: bool = False  # whether providers settle all requests at once
    quick: bool = False  # whether they settle at once what is shared among them
    notices: bool = True  # whether death is noticed
    loses: int = 0  # how many of the victim's requests nobody answers
    doubles: bool = False  # whether one request is answered twice
    corrupts: bool = False  # whether the other provider answers something else
    first_reply: dict[str, Any] = field(default_factory=dict)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    requests: dict[str, Request] = field(default_factory=dict)
    agents: dict[str, list[str]] = field(default_factory=dict)
    killed: str | None = None
    looks: int = 0

    def __post_init__(self) -> None:
        self.nodes = [FakeNode(self, f"node-{n}") for n in range(1, self.count + 1)]
        self.lock = threading.Lock()
        self.numbers = itertools.count(1)

    def start(self) -> None:
        for node in self.nodes:
            node.data_dir.mkdir(parents=True)

    def signed(self, file: Path) -> Path:
        return file

    def state(self, name: str) -> str:
        if name != self.killed:
            return "alive"
        self.looks += 1
        if not self.notices or self.looks < 3:
            return "suspect"
        self._reroute()
        return "dead"

    def _reroute(self) -> None:
        [other] = [name for name in ("node-2", "node-3") if name != self.killed]
        held = [
            r for r in self.requests.values() if r.node == self.killed and not r.replies and not r.moved_to
        ]
        for request in held[self.loses :]:
            request.moved_to = other
            analysis = ANALYSIS | {"totals": {"revenue": 31}} if self.corrupts else ANALYSIS
            request.replies.append(reply(f"data-analyzer@{other}", request.id, analysis))

    def send(self, body: dict[str, Any]) -> Request:
        with self.lock:
            number = next(self.numbers)
            to_victim = number % 2 or "conversation_id" in body
            request = Request(f"m{number}", "node-2" if to_victim else "node-3")
            self.requests[request.id] = request
            self.bodies.append(body)
            quick = self.quick and body["routing_strategy"] == "load_balanced"
            if self.settles or quick or request.node == "node-3":
                request.replies.append(reply(f"data-analyzer@{request.node}", request.id, ANALYSIS))
                if self.doubles:
                    self.doubles = False
                    request.replies *= 2
        return request


def reply(sender: str, to: str, analysis: dict[str, Any]) -> dict[str, Any]:
    return {
        "sender": sender,
        "performative": "inform",
        "in_reply_to": to,
        "status": "settled",
        "content": {"provider": "builtin", "results": [{"tool": "csv_analyze", "result": analysis}]},
    }


class FakeNode:
    """One of its nodes, which is its own client."""

    def __init__(self, cast: FakeCast, name: str) -> None:
        self.cast, self.name, self.pid = cast, name, 1
        self.data_dir = cast.directory / name / "data"
        self.is_ready = True

    @property
    def client(self) -> FakeNode:
        return self

    def kill(self) -> None:
        self.cast.killed = self.name

    def get(self, path: str, **_: object) -> Any:
        cast = self.cast
        if path.startswith("/messages/re-"):
            request = cast.requests[path.rpartition("re-")[2]]
            return {"message": request.replies[0]}
        if path.startswith("/messages/"):
            return self._history(cast.requests[path.rpartition("/")[2]])
        open_requests = [r for r in cast.requests.values() if not r.replies]
        unsettled = {"node-2": len(open_requests)} if open_requests else {}
        members = [
            {"name": n.name, "state": cast.state(n.name), "link_address": "127.0.0.1:1"} for n in cast.nodes
        ]
        return {
            "/cluster/members": {"members": members},
            "/status": {
                "unsettled_by_node": unsettled,
                "rooms": {"links": {"peers": {name: {"protocol": "TLSv1.3"} for name in unsettled}}},
            },
            "/cluster/status": {"members": members, "unsettled_by_node": unsettled},
            "/capabilities": {"capabilities": self._capabilities()},
        }[path]

    def call(
        self, method: str, path: str, *, body: Any = None, query: Any = None, wait_s: float = 0.0
    ) -> Any:
        assert method == "POST"
        if path == "/agents":
            self.cast.agents.setdefault(self.name, []).append(body["filename"].partition(".")[0])
            return {"name": body["filename"].partition(".")[0]}
        if body["capability"] == "echo":
            answer = {"sender": "echo-agent@x", "performative": "inform"}
            return {"reply": answer | {"content": {"echo": body["content"], "checksum": 7}}}
        request = self.cast.send(body)
        if not query:
            return {"message_id": request.id}
        first = reply("data-analyzer@node-2", request.id, ANALYSIS) | self.cast.first_reply
        request.replies = [first]
        return {"message_id": request.id, "conversation_id": "c1", "reply": first}

    def _history(self, request: Request) -> dict[str, Any]:
        done = bool(request.replies)
        return {
            "outcome": "settled" if done else None,
            "answered_by": request.replies[0]["sender"] if done else None,
            "replies": [
                {"message_id": f"re-{request.id}", "from": r["sender"], "state": r["status"]}
                for r in request.replies
            ],
            "routes": request.routes,
            "states": [],
        }

    def _capabilities(self) -> list[dict[str, Any]]:
        return [
            {
                "capability": capability,
                "providers": [
                    {"agent": file, "node": node} for node, files in self.cast.agents.items() if file in files
                ],
            }
            for file, capability in FILES.items()
        ]
