"""Routes of webhooks: have others told, over HTTP, of what happens to messages here."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from node.http.message_answers import WebhookDetailBody, WebhookMadeBody, WebhooksBody
from node.http.sending import caller_of
from node.http.services import NodeServices
from node.http.strict_json import StrictRoute
from node.http.webhook_models import WebhookBody


def webhook_routes(services: NodeServices) -> APIRouter:
    """The routes of webhooks."""
    router = APIRouter(prefix="/webhooks", tags=["webhooks"], route_class=StrictRoute)
    webhooks = services.webhooks

    @router.post("", status_code=201, response_model=WebhookMadeBody)
    async def register(request: Request, body: WebhookBody) -> Response:
        """Be told of answers, of conversations that are complete, and of messages that were given up.

        From now on each event is sent to the URL, signed, and again until the answer is a success; with the
        same id, by which a receiver knows one that comes twice. The secret is in this answer and in no other.
        """
        made = await webhooks.register(
            url=body.url,
            events=tuple(dict.fromkeys(body.events)),
            chosen=body.filter.model_dump(exclude_none=True),
            secret=body.secret,
            owner=caller_of(request).name,
        )
        return JSONResponse(made, 201)

    @router.get("", response_model=WebhooksBody)
    async def list_webhooks() -> Response:
        """The webhooks of this node."""
        return JSONResponse({"node": services.node, "webhooks": await webhooks.listed()})

    @router.get("/{webhook_id}", response_model=WebhookDetailBody)
    async def get(webhook_id: str) -> Response:
        """One webhook with the deliveries that were given up, the newest first."""
        return JSONResponse(await webhooks.shown(webhook_id))

    @router.delete("/{webhook_id}", status_code=204)
    async def remove(webhook_id: str) -> Response:
        """Remove a webhook, and what it is still to be told."""
        await webhooks.remove(webhook_id)
        return Response(status_code=204)

    return router
