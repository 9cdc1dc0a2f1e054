"""The one table of permissions: every HTTP route, frame type and CLI verb names the one it needs.

Code interprets the tables and adds no rule of its own; a route or frame that is not in its table is
refused. A test walks the application's routes, the frame types and the verbs and compares.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from node.errors import Forbidden


class Permission(StrEnum):
    """What a principal may do; the names are the public specification's."""

    DEPLOY_AGENT = "DeployAgent"
    REMOVE_AGENT = "RemoveAgent"
    UPDATE_AGENT = "UpdateAgent"
    VIEW_METRICS = "ViewMetrics"
    MODIFY_CONFIG = "ModifyConfig"
    MANAGE_CLUSTER = "ManageCluster"
    SEND_MESSAGE = "SendMessage"
    READ_MESSAGES = "ReadMessages"
    TRACE_MESSAGES = "TraceMessages"
    READ_MEMORY = "ReadMemory"
    WRITE_MEMORY = "WriteMemory"
    APPROVE_TOOLS = "ApproveTools"
    PUBLIC = "Public"
    """Needs no credential: the health check, the API's own description, local verbs."""
    PEER = "Peer"
    """Frames between nodes that the cluster authority has certified; no token carries it."""


_P = Permission

_GRANTABLE: Final = tuple(p for p in Permission if p is not Permission.PEER)

ROLES: Final[Mapping[str, frozenset[Permission]]] = MappingProxyType(
    {
        "admin": frozenset(_GRANTABLE),
        "operator": frozenset(_GRANTABLE) - {_P.MODIFY_CONFIG, _P.MANAGE_CLUSTER},
        "sender": frozenset({_P.PUBLIC, _P.SEND_MESSAGE, _P.READ_MESSAGES}),
        "viewer": frozenset({_P.PUBLIC, _P.VIEW_METRICS}),
    }
)
"""What the bearer of a token with a role may do."""


_AGENT_ROUTES: Final = {
    ("POST", ""): _P.DEPLOY_AGENT,
    ("GET", ""): _P.VIEW_METRICS,
    ("POST", "/validate"): _P.DEPLOY_AGENT,
    ("GET", "/{agent}"): _P.VIEW_METRICS,
    ("DELETE", "/{agent}"): _P.REMOVE_AGENT,
    ("POST", "/{agent}/stop"): _P.UPDATE_AGENT,
    ("POST", "/{agent}/start"): _P.UPDATE_AGENT,
    ("GET", "/{agent}/logs"): _P.READ_MESSAGES,  # logs quote messages
}

ROUTES: Final[Mapping[tuple[str, str], Permission]] = MappingProxyType(
    {
        ("GET", "/health"): _P.PUBLIC,
        ("GET", "/openapi.json"): _P.PUBLIC,
        ("GET", "/docs"): _P.PUBLIC,
        ("GET", "/status"): _P.VIEW_METRICS,
        ("POST", "/shutdown"): _P.MANAGE_CLUSTER,
        ("GET", "/cluster/members"): _P.VIEW_METRICS,
        ("GET", "/cluster/members/{member}/why"): _P.VIEW_METRICS,
        ("POST", "/cluster/members/{member}/forget"): _P.MANAGE_CLUSTER,  # it changes what is a majority
        ("GET", "/cluster/reachability"): _P.VIEW_METRICS,
        ("GET", "/cluster/statistics"): _P.VIEW_METRICS,
        ("GET", "/cluster/status"): _P.VIEW_METRICS,
        ("GET", "/cluster/revocations"): _P.VIEW_METRICS,
        ("POST", "/cluster/revocations"): _P.MANAGE_CLUSTER,  # signed by the authority besides
        ("GET", "/cluster/keys"): _P.MANAGE_CLUSTER,
        ("POST", "/cluster/keys"): _P.MANAGE_CLUSTER,
        ("GET", "/cluster/events"): _P.READ_MESSAGES,  # they quote what applications said
        ("POST", "/cluster/events"): _P.MANAGE_CLUSTER,
        ("POST", "/cluster/queries"): _P.MANAGE_CLUSTER,
        ("GET", "/llm"): _P.VIEW_METRICS,
        ("POST", "/validate/config"): _P.DEPLOY_AGENT,
        ("GET", "/tools"): _P.VIEW_METRICS,
        ("POST", "/tools/{server}/approve"): _P.MODIFY_CONFIG,  # what it says is read by models from then on
        # Whoever may approve must see what exactly, which quotes messages.
        ("GET", "/approvals"): _P.APPROVE_TOOLS,
        ("GET", "/approvals/{approval_id}"): _P.APPROVE_TOOLS,
        ("POST", "/approvals/{approval_id}/approve"): _P.APPROVE_TOOLS,
        ("POST", "/approvals/{approval_id}/deny"): _P.APPROVE_TOOLS,
        ("POST", "/deployments"): _P.DEPLOY_AGENT,
        ("GET", "/deployments"): _P.VIEW_METRICS,
        ("GET", "/deployments/{agent}"): _P.VIEW_METRICS,
        ("POST", "/deployments/{agent}/scale"): _P.UPDATE_AGENT,
        ("DELETE", "/deployments/{agent}"): _P.REMOVE_AGENT,
        ("GET", "/capabilities"): _P.VIEW_METRICS,
        ("GET", "/capabilities/{capability}"): _P.VIEW_METRICS,
        ("POST", "/messages"): _P.SEND_MESSAGE,
        ("GET", "/messages/tail"): _P.TRACE_MESSAGES,  # the content needs ReadMessages, too
        ("POST", "/messages/batch"): _P.SEND_MESSAGE,
        ("POST", "/messages/stream"): _P.SEND_MESSAGE,
        ("POST", "/messages/validate"): _P.SEND_MESSAGE,
        ("POST", "/tasks"): _P.SEND_MESSAGE,
        ("GET", "/messages/{message_id}"): _P.READ_MESSAGES,
        ("GET", "/messages/{message_id}/events"): _P.READ_MESSAGES,
        ("GET", "/messages/{message_id}/trace"): _P.TRACE_MESSAGES,
        ("GET", "/messages/{message_id}/explain"): _P.TRACE_MESSAGES,
        ("GET", "/messages/{message_id}/attachments/{name}"): _P.READ_MESSAGES,
        # Content is found by its digest only, which whoever sends it knows and others learn from messages.
        ("PUT", "/blobs/{digest}"): _P.SEND_MESSAGE,
        ("GET", "/blobs/{digest}"): _P.SEND_MESSAGE,
        ("GET", "/mailboxes"): _P.READ_MESSAGES,
        ("PUT", "/mailboxes/{name}"): _P.READ_MESSAGES,
        ("DELETE", "/mailboxes/{name}"): _P.READ_MESSAGES,
        ("GET", "/mailboxes/{name}/events"): _P.READ_MESSAGES,
        ("POST", "/mailboxes/{name}/acknowledgements"): _P.READ_MESSAGES,
        ("POST", "/webhooks"): _P.MODIFY_CONFIG,  # the node calls an address, and tells it what all say
        ("GET", "/webhooks"): _P.MODIFY_CONFIG,  # addresses may have secrets in them
        ("GET", "/webhooks/{webhook_id}"): _P.MODIFY_CONFIG,
        ("DELETE", "/webhooks/{webhook_id}"): _P.MODIFY_CONFIG,
        ("GET", "/conversations"): _P.READ_MESSAGES,
        ("GET", "/conversations/{conversation_id}"): _P.READ_MESSAGES,
        ("POST", "/conversations/archive"): _P.MANAGE_CLUSTER,  # whoever talks in it cannot go on
        ("GET", "/dead-letters"): _P.READ_MESSAGES,
        ("GET", "/dead-letters/{message_id}"): _P.READ_MESSAGES,
        ("POST", "/dead-letters/retry"): _P.SEND_MESSAGE,
        ("POST", "/dead-letters/{message_id}/retry"): _P.SEND_MESSAGE,
        # What is dropped was accepted once and is gone for good; nothing is lost by leaving it to age out.
        ("POST", "/dead-letters/drop"): _P.MANAGE_CLUSTER,
        ("DELETE", "/dead-letters/{message_id}"): _P.MANAGE_CLUSTER,
        # Whoever may read the memory reads that of every agent; agents themselves do not come this way.
        ("GET", "/memory/search"): _P.READ_MEMORY,
        ("GET", "/memory/entities"): _P.READ_MEMORY,
        ("GET", "/memory/entities/{entity}"): _P.READ_MEMORY,
        ("GET", "/memory/graph/{entity}"): _P.READ_MEMORY,
        ("GET", "/memory/graph/{entity}/path"): _P.READ_MEMORY,
        ("GET", "/memory/stats"): _P.READ_MEMORY,
        ("POST", "/memory/entities"): _P.WRITE_MEMORY,
        ("POST", "/memory/entities/batch"): _P.WRITE_MEMORY,
        ("POST", "/memory/observations/{observation_id}/supersede"): _P.WRITE_MEMORY,
        ("POST", "/memory/relations"): _P.WRITE_MEMORY,
        ("POST", "/memory/outcomes"): _P.WRITE_MEMORY,
        ("DELETE", "/memory/entities/{entity}"): _P.WRITE_MEMORY,
        ("DELETE", "/memory/observations/{observation_id}"): _P.WRITE_MEMORY,
        ("DELETE", "/memory/relations/{relation_id}"): _P.WRITE_MEMORY,
        ("DELETE", "/memory/{agent_id}"): _P.MANAGE_CLUSTER,
        ("GET", "/memory/export"): _P.READ_MEMORY,
        ("POST", "/memory/import"): _P.WRITE_MEMORY,
        ("POST", "/memory/import/stream"): _P.WRITE_MEMORY,
        ("GET", "/memory/health"): _P.VIEW_METRICS,
        ("GET", "/memory/check"): _P.READ_MEMORY,
        ("POST", "/memory/repair"): _P.MANAGE_CLUSTER,
        ("GET", "/memory/backup"): _P.MANAGE_CLUSTER,  # the file as it is, with all that is beside the facts
        ("GET", "/memory/reembed"): _P.VIEW_METRICS,
        ("POST", "/memory/reembed"): _P.WRITE_MEMORY,
        ("POST", "/memory/dedup"): _P.WRITE_MEMORY,
        ("GET", "/memory/config"): _P.VIEW_METRICS,
        ("PUT", "/memory/config"): _P.MODIFY_CONFIG,  # what it says is forgotten is gone for good
    }
    | {
        (method, prefix + path): permission
        for prefix in ("/agents", "/config-agents")
        for (method, path), permission in _AGENT_ROUTES.items()
    }
)
"""(method, path template below /api/v1) -> what the caller needs."""

WS_FRAMES: Final[Mapping[str, Permission]] = MappingProxyType(
    {
        "hello": _P.PUBLIC,
        "send": _P.SEND_MESSAGE,
        "subscribe": _P.READ_MESSAGES,
        "unsubscribe": _P.READ_MESSAGES,
        "ack": _P.READ_MESSAGES,
        "credit": _P.READ_MESSAGES,
        "ping": _P.PUBLIC,
    }
)
"""Frame type of a client's WebSocket -> what the sender needs."""

FRAMES: Final[Mapping[str, Permission]] = MappingProxyType(
    {
        "hello": _P.PEER,
        "welcome": _P.PEER,
        "resume": _P.PEER,
        "resume_states": _P.PEER,
        "deliver": _P.PEER,
        "received": _P.PEER,
        "settled": _P.PEER,
        "ping": _P.PEER,
        "pong": _P.PEER,
        "goodbye": _P.PEER,
        "ask": _P.PEER,
        "answer": _P.PEER,
        "pull": _P.PEER,
        "page": _P.PEER,
        "credit": _P.PEER,
        "partial": _P.PEER,
    }
)
"""Frame type of a peer link -> what the sender needs."""

VERBS: Final[Mapping[str, Permission]] = MappingProxyType(
    {
        "init": _P.PUBLIC,
        "start": _P.PUBLIC,
        "demo": _P.PUBLIC,
        "build": _P.PUBLIC,
        "deploy": _P.DEPLOY_AGENT,
        "agent": _P.DEPLOY_AGENT,  # scale needs UpdateAgent, undeploy RemoveAgent; most ask no node
        "deployments": _P.VIEW_METRICS,
        "send": _P.SEND_MESSAGE,
        "call": _P.SEND_MESSAGE,
        "dead-letters": _P.READ_MESSAGES,  # retry needs SendMessage, drop ManageCluster
        "conversations": _P.READ_MESSAGES,  # close needs ManageCluster
        "trace": _P.TRACE_MESSAGES,
        "explain": _P.TRACE_MESSAGES,
        "tail": _P.TRACE_MESSAGES,
        "bench": _P.SEND_MESSAGE,
        "memory": _P.READ_MEMORY,  # add, forget and import need WriteMemory, backup ManageCluster
        "status": _P.VIEW_METRICS,
        "members": _P.VIEW_METRICS,
        "keys": _P.MANAGE_CLUSTER,
        "revoke": _P.MANAGE_CLUSTER,
        "event": _P.MANAGE_CLUSTER,
        "query": _P.MANAGE_CLUSTER,
        "logs": _P.READ_MESSAGES,
        "llm": _P.VIEW_METRICS,  # check asks the provider itself, and no node
        "approvals": _P.APPROVE_TOOLS,
        "tool": _P.VIEW_METRICS,  # approve needs ModifyConfig
        "mcp": _P.SEND_MESSAGE,  # listing the tools needs ViewMetrics
        "wasm": _P.PUBLIC,
        "test": _P.PUBLIC,
        "simulate": _P.PUBLIC,
        "stop": _P.UPDATE_AGENT,
    }
)
"""Verb of the command line -> what its token needs; local verbs run with the user's own rights."""


def route_permission(method: str, template: str) -> Permission:
    """What a caller of this route needs.

    Args:
        method: HTTP method, upper case.
        template: Path template below ``/api/v1``.

    Raises:
        Forbidden: the route is in no table, so nobody may call it.
    """
    found = ROUTES.get((method, template))
    if found is None:
        raise Forbidden(
            f"{method} {template} has no permission assigned", why="what is not in the table is refused"
        )
    return found
