"""Qdrant's REST interface over its own engine in this process: what a server answers, without a server."""

import json
import re
from pathlib import Path
from typing import Any

import httpx
import qdrant_edge as edge

Answer = tuple[int, Any]


class QdrantShim(httpx.AsyncBaseTransport):
    """A transport that answers as a server does; ``down`` refuses connections, ``status`` answers with one.

    ``lie`` is what is answered in place of the ids of a search.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shards: dict[str, tuple[edge.EdgeShard, int]] = {}
        self.made = 0
        self.down = False
        self.status: int | None = None
        self.lie: list[int] | None = None
        self.asked: list[tuple[str, str]] = []
        self.filters: list[Any] = []
        self.headers: list[httpx.Headers] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.asked.append((request.method, request.url.path))
        self.headers.append(request.headers)
        if self.down:
            raise httpx.ConnectError("nobody listens", request=request)
        if self.status is not None:
            return httpx.Response(self.status, json={"status": {"error": "as the test says"}})
        said = json.loads(await request.aread() or b"null")
        status, result = self.answer(request.method, request.url.path, said)
        body = {"result": result, "status": "ok"} if status == 200 else {"status": {"error": result}}
        return httpx.Response(status, json=body)

    def answer(self, method: str, path: str, said: Any) -> Answer:
        if path == "/collections":
            return 200, {"collections": [{"name": name} for name in sorted(self.shards)]}
        found = re.fullmatch(r"/collections/([^/]+)(/.*)?", path)
        assert found is not None
        name, rest = found[1], found[2] or ""
        if method == "PUT" and not rest:
            return self.make(name, said)
        if name not in self.shards:
            return 404, f"Not found: Collection `{name}` doesn't exist!"
        shard, size = self.shards[name]
        match method, rest:
            case "GET", "":
                vectors = {"size": size, "distance": "Cosine"}
                return 200, {"config": {"params": {"vectors": vectors}}}
            case "DELETE", "":
                shard.close()
                del self.shards[name]
                return 200, True
            case "PUT", "/index":
                return 200, {"status": "completed"}
            case "PUT", "/points":
                return self.upsert(shard, size, said["points"])
            case "POST", "/points/delete":
                shard.update(edge.UpdateOperation.delete_points(said["points"]))
                return 200, {"status": "completed"}
            case "POST", "/points/count":
                return 200, {"count": shard.count(edge.CountRequest(exact=said["exact"]))}
            case "POST", "/points/query":
                return self.query(shard, size, said)
        return 404, "no such route"

    def make(self, name: str, said: Any) -> Answer:
        if name in self.shards:
            return 409, f"Wrong input: Collection `{name}` already exists!"
        assert said["vectors"]["distance"] == "Cosine"
        size = said["vectors"]["size"]
        self.made += 1
        place = self.folder / str(self.made)
        place.mkdir(parents=True)
        config = edge.EdgeConfig(vectors=edge.EdgeVectorParams(size=size, distance=edge.Distance.Cosine))
        self.shards[name] = edge.EdgeShard.create(str(place), config), size
        return 200, True

    def upsert(self, shard: edge.EdgeShard, size: int, points: list[dict[str, Any]]) -> Answer:
        if any(len(each["vector"]) != size for each in points):
            return 400, "Wrong input: Vector dimension error"
        told = [edge.Point(each["id"], each["vector"], each["payload"]) for each in points]
        shard.update(edge.UpdateOperation.upsert_points(told))
        return 200, {"status": "completed"}

    def query(self, shard: edge.EdgeShard, size: int, said: Any) -> Answer:
        if len(said["query"]) != size:
            return 400, "Wrong input: Vector dimension error"
        self.filters.append(said.get("filter"))
        if self.lie is not None:
            return 200, {"points": [{"id": each, "score": 1.0} for each in self.lie]}
        asked = edge.QueryRequest(
            limit=said["limit"],
            query=edge.Query.Nearest(said["query"]),
            filter=_filter(said["filter"]["must"]) if "filter" in said else None,
        )
        found = shard.query(asked)
        return 200, {"points": [{"id": each.id, "score": each.score} for each in found]}

    def points(self) -> int:
        """Points of all collections."""
        return sum(shard.count(edge.CountRequest(exact=True)) for shard, _ in self.shards.values())

    def close(self) -> None:
        for shard, _ in self.shards.values():
            shard.close()


def _filter(must: list[dict[str, Any]]) -> edge.Filter:
    conditions = []
    for each in must:
        if "match" in each:
            conditions.append(edge.FieldCondition(each["key"], match=edge.MatchAny(each["match"]["any"])))
        else:
            conditions.append(edge.FieldCondition(each["key"], range=edge.RangeFloat(**each["range"])))
    return edge.Filter(must=conditions)
