"""Routes of clients' mailboxes: named addresses that outlive the connection of whoever reads them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Path, Query, Request
from starlette.responses import JSONResponse, Response

from node.http.event_streams import EventStream
from node.http.mailbox_events import MailboxEvents, parse_event_id
from node.http.mailbox_models import MAILBOX_NAME, AcknowledgeBody, MailboxBody, MailboxEventsQuery
from node.http.message_answers import AcknowledgedBody, HeldView, MailboxesBody, MailboxView
from node.http.sending import caller_of
from node.http.services import Caller, NodeServices
from node.http.streams import Streams
from node.http.strict_json import StrictRoute
from node.messaging.client_mailboxes import NameConflict
from node.security.permissions import Permission

Name = Annotated[str, Path(pattern=MAILBOX_NAME)]


def check_owner(services: NodeServices, caller: Caller, name: str) -> None:
    """Refuse whoever neither made the mailbox nor manages the cluster.

    Raises:
        MailboxNotFound: there is none.
        Forbidden: it is somebody else's.
    """
    mailboxes = services.bus.mailboxes
    mailboxes.check_owner(name, mailboxes.owner(name) if manages(caller) else caller.name)


def manages(caller: Caller) -> bool:
    """Whether somebody may use the mailboxes of others."""
    return Permission.MANAGE_CLUSTER in caller.permissions


def mailbox_routes(services: NodeServices) -> APIRouter:
    """The routes by which mailboxes are made and removed."""
    router = APIRouter(prefix="/mailboxes", tags=["mailboxes"], route_class=StrictRoute)
    mailboxes = services.bus.mailboxes

    @router.get("", response_model=MailboxesBody)
    async def list_mailboxes(request: Request) -> Response:
        """Your mailboxes; all of the node for one that manages the cluster."""
        caller = caller_of(request)
        found = mailboxes.as_json(None if manages(caller) else caller.name)
        return JSONResponse({"node": services.node, "mailboxes": found})

    @router.put(
        "/{name}",
        response_model=MailboxView,
        responses={201: {"model": MailboxView, "description": "It is new."}},
    )
    async def put(request: Request, name: Name, body: MailboxBody | None = None) -> Response:
        """Make a mailbox, or say that you still use it.

        From now on messages to ``NAME@node`` are held for you until you acknowledge them, whether you are
        connected or not, and so are those to the topics that it subscribes to. What nobody uses for
        ``idle_s`` goes, with what it holds.
        """
        caller, body = caller_of(request), body or MailboxBody()
        known = mailboxes.knows(name)
        if not known and services.supervisor.knows(name):
            raise NameConflict(
                f"{name!r} is an agent of this node",
                why="an agent and a mailbox may not share a name",
                fix="Choose another one.",
                details={"field": "name"},
            )
        owner = mailboxes.owner(name) if known and manages(caller) else caller.name
        is_new = await mailboxes.put(name, owner, body.idle_s, body.subscriptions())
        return JSONResponse(mailboxes.shown(name), 201 if is_new else 200)

    @router.delete("/{name}", status_code=204)
    async def delete(request: Request, name: Name) -> Response:
        """Remove a mailbox; the senders of what it holds are told that there is no such receiver."""
        check_owner(services, caller_of(request), name)
        await mailboxes.delete(name)
        return Response(status_code=204)

    return router


def reading_routes(services: NodeServices, streams: Streams) -> APIRouter:
    """The routes by which a mailbox is read."""
    router = APIRouter(prefix="/mailboxes", tags=["mailboxes"], route_class=StrictRoute)
    mailboxes = services.bus.mailboxes

    @router.post("/{name}/acknowledgements", response_model=AcknowledgedBody)
    async def acknowledge(request: Request, name: Name, body: AcknowledgeBody) -> Response:
        """Say that you have messages: everything up to one, or some by themselves; they are held no more."""
        check_owner(services, caller_of(request), name)
        done = 0
        if body.up_to is not None:
            done += await mailboxes.acknowledge_through(name, *parse_event_id(body.up_to, "up_to"))
        if body.ids:
            named = [parse_event_id(text, "ids") for text in body.ids]
            done += await mailboxes.acknowledge(name, named)
        return JSONResponse({"acknowledged": done, "held": mailboxes.shown(name)["held"]})

    @router.get(
        "/{name}/events",
        status_code=200,
        response_class=EventStream,
        responses={200: {"model": HeldView, "description": "Events; the data of each message."}},
    )
    async def events(
        request: Request,
        name: Name,
        query: Annotated[MailboxEventsQuery, Query()],
        last_event_id: Annotated[str | None, Header(max_length=4096)] = None,
    ) -> Response:
        """What the mailbox holds and gets, as server-sent events, in order.

        The id of an event acknowledges it and all before it: as ``Last-Event-ID`` of the next connection,
        which browsers send by themselves, as ``ack``, or to ``/acknowledgements`` while this goes on. What
        was not acknowledged comes again. The newest connection has the mailbox; an older one ends.
        """
        check_owner(services, caller_of(request), name)
        for field, text in (("ack", query.ack), ("last-event-id", last_event_id)):
            if text:
                await mailboxes.acknowledge_through(name, *parse_event_id(text, field))
        return EventStream(streams, MailboxEvents(services, name, query.window).run)

    return router
