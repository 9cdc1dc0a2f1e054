"""Routes of the cluster's gossip keys: which there are, and their rotation. No key is ever shown."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Query
from starlette.responses import JSONResponse, Response

from node.errors import ValidationFailed
from node.http.answers import ErrorBody
from node.http.cluster_answers import KeysBody
from node.http.models import KeyChangeBody, KeyQuery
from node.http.services import NodeServices
from node.http.strict_json import StrictRoute
from swim.keyring_messages import Verb

_REFUSED: Final[dict[str, Any]] = {"model": ErrorBody, "description": "A refusal; nothing was changed."}


def key_routes(services: NodeServices) -> APIRouter:
    """The routes of the gossip keys."""
    router = APIRouter(prefix="/cluster/keys", tags=["cluster"], route_class=StrictRoute)
    keys = services.membership.keys

    @router.get("", response_model=KeysBody, responses={409: _REFUSED})
    async def held(query: Annotated[KeyQuery, Query()]) -> Response:
        """Which gossip keys each member holds, by their ids; the first of a member encrypts."""
        report = await keys.list(timeout_s=query.timeout_s)
        return JSONResponse({"node": services.node} | report.as_json())

    @router.post("", response_model=KeysBody, responses={404: _REFUSED, 409: _REFUSED})
    async def change(body: KeyChangeBody) -> Response:
        """Have every member install a new key, made here, or use or remove one; answers at the end."""
        if body.operation == "install":
            if body.key_id is not None:
                raise ValidationFailed(
                    "install takes no key",
                    why="a new one is made on the node, and its id is in the answer",
                    fix="Leave key_id out.",
                    details={"field": "key_id"},
                )
            report = await keys.install(timeout_s=body.timeout_s)
        elif body.key_id is None:
            raise ValidationFailed(
                f"{body.operation} needs a key",
                fix="Give key_id, the 8 hexadecimal digits that GET /api/v1/cluster/keys shows.",
                details={"field": "key_id"},
            )
        else:
            report = await keys.change(
                Verb[body.operation.upper()], body.key_id, timeout_s=body.timeout_s, force=body.force
            )
        return JSONResponse({"node": services.node} | report.as_json())

    return router
