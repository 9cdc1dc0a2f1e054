"""Routes of keys that the cluster's authority has revoked."""

from __future__ import annotations

import binascii
from typing import Any, Final

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from node.errors import ValidationFailed
from node.http.answers import ErrorBody
from node.http.cluster_answers import RevocationsBody, RevokedBody
from node.http.models import RevocationBody
from node.http.services import NodeServices
from node.http.strict_json import StrictRoute

_REFUSED: Final[dict[str, Any]] = {"model": ErrorBody, "description": "It is none of this cluster's."}


def revocation_routes(services: NodeServices) -> APIRouter:
    """The routes of revocations."""
    router = APIRouter(prefix="/cluster/revocations", tags=["cluster"], route_class=StrictRoute)
    revocations = services.membership.revocations

    @router.get("", response_model=RevocationsBody)
    async def known() -> Response:
        """The keys that count no more, by the word of the cluster's authority."""
        shown = [found.as_json() for found in revocations.all()]
        return JSONResponse({"node": services.node, "revocations": shown})

    @router.post("", response_model=RevokedBody, responses={422: _REFUSED})
    async def revoke(body: RevocationBody) -> Response:
        """Take a revocation that the authority has signed, and tell it to every node."""
        try:
            encoded = binascii.a2b_base64(body.revocation, strict_mode=True)
        except ValueError:
            raise ValidationFailed("revocation is not Base64", details={"field": "revocation"}) from None
        found = await revocations.revoke(encoded)
        return JSONResponse({"node": services.node} | found.as_json())

    return router
