"""A real node answers every route as its description says."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import httpx
import trio
from pydantic import BaseModel, ConfigDict

from node.config import load_config
from node.environment import SystemClock, system_environment
from node.http import (
    answers,
    approval_models,
    cluster_answers,
    deployment_models,
    memory_answers,
    memory_upkeep_answers,
    message_answers,
    tool_answers,
    validation_models,
)
from node.process import run_node
from node.samples import sample
from tests.node.http.fakes import World
from tests.node.tools.test_external import RAW

DEPLOY = {"content": sample("agents/data_analyzer.md").read_text(), "filename": "data_analyzer.md"}
PLACED = DEPLOY | {"replicas": 1, "require": {"node": "alpha"}, "minority": "stop", "priority": 60}
MESSAGE = {"capability": "data-analysis", "content": {"action": "analyze"}, "conversation_id": "talk"}
FILE = {"sales": 1}
DIGEST = hashlib.sha256(json.dumps(FILE, separators=(",", ":")).encode()).hexdigest()
TEA = {
    "entity_name": "tea",
    "entity_type": "drink",
    "memory_scope": "global",
    "observations": ["is green", {"text": "is hot", "confidence": 0.5}],
}
UJI = {"entity_name": "uji", "entity_type": "town"}
GROWN = {"from_entity": "tea", "to_entity": "uji", "relation_type": "grown_in", "memory_scope": "global"}
_FILES = ("application/octet-stream", "application/vnd.sqlite3")
"""What routes answer that are no JSON."""
CALLS: list[tuple[str, str, dict[str, Any] | None, int]] = [
    ("GET", "/health", None, 200),
    ("GET", "/capabilities/data-analysis", None, 404),
    ("POST", "/agents", DEPLOY, 201),
    ("POST", "/agents", DEPLOY, 409),
    ("POST", "/agents", {"content": "---\nnonsense: 1\n---\n"}, 422),
    ("GET", "/agents", None, 200),
    ("GET", "/agents/data-analyzer", None, 200),
    ("GET", "/agents/data-analyzer/logs", None, 200),
    ("GET", "/capabilities", None, 200),
    ("GET", "/capabilities/data-analysis", None, 200),
    ("GET", "/capabilities/data-analysis?strategy=broadcast", None, 200),
    ("GET", "/capabilities/data-analysis?version=v9", None, 404),
    ("POST", "/messages", MESSAGE, 202),
    ("POST", "/messages?wait=10", MESSAGE, 200),
    ("POST", "/messages?wait=10", MESSAGE | {"routing_strategy": "broadcast"}, 200),
    ("POST", "/messages?wait=0.001", {"receiver": "client", "content": 1}, 504),
    ("PUT", f"/blobs/{DIGEST}", FILE, 200),
    ("GET", f"/blobs/{DIGEST}", None, 200),
    ("GET", f"/blobs/{DIGEST[::-1]}", None, 404),
    ("POST", "/messages", MESSAGE | {"attachments": [{"name": "talk", "blob": DIGEST}]}, 202),
    ("GET", "/messages/{message_id}/attachments/talk", None, 200),
    ("GET", "/messages/{message_id}/attachments/nobody", None, 404),
    ("POST", "/messages/batch", {"messages": [MESSAGE, {"content": 1}]}, 207),
    ("POST", "/messages/validate", MESSAGE, 200),
    ("POST", "/messages/validate", {"capabilty": "x"}, 200),
    ("POST", "/messages/stream", MESSAGE, 200),
    ("PUT", "/mailboxes/talk", None, 201),
    ("PUT", "/mailboxes/talk", {"idle_s": 60}, 200),
    ("GET", "/mailboxes", None, 200),
    ("GET", "/mailboxes/nobody/events", None, 404),
    ("POST", "/mailboxes/talk/acknowledgements", {"up_to": "1-none"}, 200),
    ("GET", "/messages/{message_id}/events", None, 200),
    ("POST", "/webhooks", {"url": "https://hooks.example/", "events": ["message.dead"]}, 201),
    ("GET", "/webhooks", None, 200),
    ("GET", "/webhooks/{webhook_id}", None, 200),
    ("DELETE", "/webhooks/{webhook_id}", None, 204),
    ("DELETE", "/webhooks/{webhook_id}", None, 404),
    ("POST", "/webhooks", {"url": "http://hooks.example/", "events": ["message.dead"]}, 403),
    ("DELETE", "/mailboxes/talk", None, 204),
    ("DELETE", "/mailboxes/talk", None, 404),
    ("POST", "/tasks", {"capability": "data-analysis", "content": MESSAGE["content"]}, 200),
    ("POST", "/tasks", {"capability": "data-analysis", "award": {"prefer": "lowest"}}, 400),
    ("GET", "/messages/{message_id}", None, 200),
    ("GET", "/conversations/talk", None, 200),
    ("GET", "/conversations?limit=1&status=completed", None, 200),
    ("POST", "/conversations/archive", {"older_than": "1h"}, 200),
    ("POST", "/conversations/archive", {"conversations": ["talk"]}, 200),
    ("POST", "/messages", MESSAGE, 409),
    ("GET", "/messages/{message_id}/trace", None, 200),
    ("GET", "/messages/{message_id}/explain", None, 200),
    ("GET", "/messages/tail?seconds=0.01", None, 200),
    ("POST", "/messages", {"capability": "nobody-has-it", "ttl_s": 0.01}, 202),
    ("GET", "/dead-letters/{message_id}", None, 200),
    ("GET", "/dead-letters?limit=1&since=1h", None, 200),
    ("POST", "/dead-letters/{message_id}/retry", {"receiver": "client@alpha"}, 202),
    ("POST", "/dead-letters/{message_id}/retry", None, 404),
    ("POST", "/dead-letters/retry", {"where": {"capability": "nobody-has-it"}, "force": True}, 200),
    ("POST", "/dead-letters/drop", {"where": {"reason": "no such reason"}}, 200),
    ("DELETE", "/dead-letters/{message_id}", None, 404),
    ("GET", "/memory/search?query=tea", None, 200),
    ("GET", "/memory/stats", None, 200),
    ("GET", "/memory/entities/tea", None, 404),
    ("POST", "/memory/entities", TEA, 201),
    ("POST", "/memory/entities", TEA | {"entity_type": "plant"}, 409),
    ("POST", "/memory/entities/batch", {"entities": [UJI, {"nonsense": 1}], "memory_scope": "global"}, 207),
    ("POST", "/memory/relations", GROWN, 201),
    ("POST", "/memory/relations", GROWN | {"to_entity": "nowhere"}, 404),
    ("GET", "/memory/search?query=green+tea&include_relations=true", None, 200),
    ("GET", "/memory/entities?limit=1", None, 200),
    ("GET", "/memory/entities/tea", None, 200),
    ("POST", "/memory/observations/{observation_id}/supersede", {"text": "is black"}, 201),
    ("POST", "/memory/outcomes", {"observation_ids": ["{observation_id}"], "outcome": "accepted"}, 204),
    ("GET", "/memory/graph/tea?include_observations=true", None, 200),
    ("GET", "/memory/graph/tea/path?to=uji", None, 200),
    ("GET", "/memory/graph/tea/path?to=uji&max_depth=0", None, 200),
    ("GET", "/memory/stats", None, 200),
    ("GET", "/memory/health", None, 200),
    ("GET", "/memory/check", None, 200),
    ("GET", "/memory/export?format=json&include_embeddings=true", None, 200),
    ("POST", "/memory/import", {"data": {"entities": [UJI, {"nonsense": 1}]}}, 200),
    ("POST", "/memory/import/stream", None, 200),
    ("POST", "/memory/repair", None, 200),
    ("GET", "/memory/backup", None, 200),
    ("GET", "/memory/reembed", None, 200),
    ("POST", "/memory/reembed", None, 202),
    ("POST", "/memory/dedup", {}, 200),
    ("PUT", "/memory/config", {"retention_policy": {"max_age_days": 90}}, 200),
    ("GET", "/memory/config", None, 200),
    ("DELETE", "/memory/relations/{relation_id}", None, 204),
    ("DELETE", "/memory/observations/{observation_id}", None, 204),
    ("DELETE", "/memory/entities/tea", None, 204),
    ("DELETE", "/memory/ada?confirm=true", None, 200),
    ("POST", "/agents/data-analyzer/stop", {"grace_period_seconds": 1}, 200),
    ("POST", "/agents/data-analyzer/start", None, 200),
    ("DELETE", "/agents/data-analyzer", None, 204),
    ("GET", "/agents/data-analyzer", None, 404),
    ("POST", "/deployments", PLACED, 201),
    ("POST", "/deployments", PLACED, 409),
    ("POST", "/deployments", PLACED | {"replace": True, "revision": "1"}, 409),
    ("POST", "/deployments", PLACED | {"replicas": 101}, 400),
    ("POST", "/deployments", PLACED | {"require": {"No Label": "x"}}, 400),
    ("POST", "/deployments", PLACED | {"replca": 1}, 400),
    ("POST", "/deployments", PLACED | {"content": "---\nnonsense: 1\n---\n"}, 422),
    ("GET", "/deployments", None, 200),
    ("GET", "/deployments/data-analyzer", None, 200),
    ("POST", "/deployments/data-analyzer/scale", {"replicas": 2}, 200),
    ("POST", "/deployments/data-analyzer/scale", {"replicas": 1, "revision": "1"}, 409),
    ("POST", "/deployments/data-analyzer/scale", {}, 400),
    ("DELETE", "/deployments/data-analyzer?revision=1", None, 409),
    ("DELETE", "/deployments/data-analyzer", None, 204),
    ("GET", "/deployments/data-analyzer", None, 404),
    ("POST", "/deployments/data-analyzer/scale", {"replicas": 2}, 404),
    ("GET", "/cluster/members", None, 200),
    ("GET", "/cluster/members/alpha/why", None, 200),
    ("GET", "/cluster/members/talk/why", None, 404),
    ("POST", "/cluster/members/alpha/forget", {}, 409),
    ("POST", "/cluster/members/talk/forget", {"force": True}, 404),
    ("GET", "/cluster/revocations", None, 200),
    ("POST", "/cluster/revocations", {"revocation": "gA=="}, 422),
    ("GET", "/cluster/reachability", None, 200),
    ("GET", "/cluster/statistics", None, 200),
    ("GET", "/cluster/status", None, 200),
    ("POST", "/cluster/events", {"name": "deploy", "payload": "42"}, 202),
    ("POST", "/cluster/events", {"name": "a\nb"}, 400),
    ("GET", "/cluster/events", None, 200),
    ("POST", "/cluster/queries", {"name": "ping", "timeout_s": 0.5}, 200),
    ("GET", "/cluster/keys", None, 200),
    ("POST", "/cluster/keys", {"operation": "install"}, 200),
    ("POST", "/cluster/keys", {"operation": "use", "key_id": "00000000"}, 404),
    ("GET", "/status", None, 200),
    ("GET", "/llm", None, 200),
    ("GET", "/tools", None, 200),
    ("POST", "/tools/raw/approve", {}, 200),
    ("POST", "/tools/memory/approve", {}, 404),
    ("POST", "/tools/memory/approve", {"tools": {"x": "no hash"}}, 400),
    ("GET", "/approvals?all=true&limit=2", None, 200),
    ("GET", "/approvals?limit=0", None, 400),
    ("GET", "/approvals/nobody", None, 404),
    ("POST", "/approvals/nobody/approve", {"reason": 1}, 400),
    ("POST", "/approvals/nobody/approve", None, 404),
    ("POST", "/approvals/nobody/deny", None, 404),
    ("POST", "/validate/config", {"content": "---\nname: abc\n---\n"}, 200),
    ("POST", "/agents/validate", {"content": "no front matter", "strict_mode": True}, 200),
    ("POST", "/messages", {"content": 1}, 400),
    ("POST", "/shutdown", None, 202),
]


def exact(model: type[BaseModel]) -> type[BaseModel]:
    """The model, refusing fields that it does not describe unless it says that there are others."""
    open_ended = model.model_config.get("extra") == "allow"
    return (
        model if open_ended else type(model.__name__, (model,), {"model_config": ConfigDict(extra="forbid")})
    )


def described(document: dict[str, Any], method: str, path: str, status: int) -> type[BaseModel] | None:
    """The model of an answer, as the description of the node names it; None for one without a body."""
    wanted = "/api/v1" + path.partition("?")[0]
    matching = [
        template
        for template, methods in sorted(document["paths"].items())
        if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), wanted) and method.lower() in methods
    ]
    [template] = [wanted] if wanted in matching else matching
    operation = document["paths"][template][method.lower()]
    content = operation["responses"][str(status)].get("content")
    if content is None:
        return None
    [described_as] = [content["application/json"]] if "application/json" in content else content.values()
    if described_as["schema"].get("format") == "binary":
        return None
    name = described_as["schema"]["$ref"].rpartition("/")[2]
    places = (
        answers,
        cluster_answers,
        approval_models,
        deployment_models,
        message_answers,
        memory_answers,
        memory_upkeep_answers,
        tool_answers,
        validation_models,
    )
    model: type[BaseModel] = next(getattr(place, name) for place in places if hasattr(place, name))
    return model


def filled(body: Any, ids: dict[str, str]) -> Any:
    """A body whose texts name ids of earlier answers."""
    if isinstance(body, dict):
        return {key: filled(value, ids) for key, value in body.items()}
    if isinstance(body, list):
        return [filled(value, ids) for value in body]
    return ids.get(body[1:-1], body) if isinstance(body, str) else body


async def test_every_route_answers_as_the_description_says(tmp_path: Path) -> None:
    overrides = {
        "server.port": 0,
        "cluster.bind_port": 0,
        "cluster.link_port": 0,
        "cluster.node_name": "alpha",
        "storage.data_dir": str(tmp_path / "data"),
        "tools.mcpServers.raw.command": sys.executable,
        "tools.mcpServers.raw.args": [str(RAW), str(tmp_path / "starts")],
        "tools.servers.raw.read": [sys.prefix, sys.base_prefix],
        "tools.servers.raw.write": [str(tmp_path)],
    }
    config = load_config(None, environ={"HOME": str(tmp_path)}, overrides=overrides)
    ready: list[Any] = []
    started, stop = trio.Event(), trio.Event()

    def on_ready(info: Any) -> None:
        ready.append(info)
        started.set()

    async with trio.open_nursery() as nursery:

        async def node() -> None:
            await run_node(config, environment=system_environment(), on_ready=on_ready, shutdown=stop)

        nursery.start_soon(node)
        await started.wait()
        host, port = ready[0].api
        token = (await trio.Path(ready[0].token_file).read_text()).strip()
        headers = {"authorization": f"Bearer {token}"}
        async with httpx.AsyncClient(
            base_url=f"http://{host}:{port}/api/v1", headers=headers, timeout=60.0
        ) as client:
            document = (await client.get("/openapi.json")).json()
            ids, called = {"message_id": "", "observation_id": "", "relation_id": "", "webhook_id": ""}, set()
            for method, path, body, status in CALLS:
                path_, body_ = path.format(**ids), filled(body, ids)
                answer = await client.request(method, path_, json=body_)
                while status == 200 and answer.status_code == 404:  # until the message is given up
                    await SystemClock().sleep(0.05)
                    answer = await client.request(method, path_, json=body_)
                assert answer.status_code == status, (method, path, answer.text)
                model = described(document, method, path, status)
                is_file = answer.headers.get("content-type") in _FILES
                assert (model is None) == (not answer.content or is_file), (method, path)
                if model is not None and answer.headers["content-type"].startswith("text/event-stream"):
                    for line in answer.text.splitlines():
                        if line.startswith("data: "):
                            exact(model).model_validate_json(line.removeprefix("data: "), strict=True)
                elif model is not None:
                    exact(model).model_validate(answer.json(), strict=True)
                    found = answer.json()
                    ids |= {key: value for key, value in found.items() if key in ids}
                    ids["observation_id"] = (found.get("observation_ids") or [ids["observation_id"]])[-1]
                    ids["webhook_id"] = found.get("id", ids["webhook_id"])
                called.add(
                    (
                        method,
                        re.sub(
                            rf"{DIGEST}|{DIGEST[::-1]}|data-analy\w+|talk|alpha|nobody(?=/|$)|"
                            r"\braw\b|memory(?=/approve)|\btea\b|\bada\b|{webhook_id}",
                            "*",
                            path.partition("?")[0],
                        ),
                    )
                )
        stop.set()
    routes = {
        (
            method.upper(),
            re.sub(r"\{(?!message_id|observation_id|relation_id)\w+\}", "*", path.removeprefix("/api/v1")),
        )
        for path, methods in document["paths"].items()
        for method in methods
        if not path.startswith("/api/v1/config-agents")
    }
    assert called == routes


async def test_the_description_declares_refusals_and_the_bearer_token() -> None:
    async with World().client(token=None) as client:
        document = (await client.get("/openapi.json")).json()
    assert document["components"]["securitySchemes"]["bearer"] == {"type": "http", "scheme": "bearer"}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            said = operation["responses"]
            public = operation["x-permission"] == "Public"
            assert ({"401", "403"} <= set(said)) is not public, (method, path)
            assert all("$ref" in str(a) or "binary" in str(a) or code == "204" for code, a in said.items()), (
                method,
                path,
                said,
            )
            assert "HTTPValidationError" not in str(said)
