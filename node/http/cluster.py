"""Routes of the node and its cluster: health, status, members, capabilities, shutdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.responses import JSONResponse, Response

from node.cluster.provider import Provider
from node.cluster.versions import best_offer, shown_version, split, with_version
from node.errors import CapabilityNotFound
from node.http.answers import (
    CapabilitiesBody,
    CapabilityBody,
    ErrorBody,
    HealthBody,
    ModelsBody,
    StatusBody,
    StoppingBody,
)
from node.http.cluster_answers import (
    ClusterBody,
    ClusterStatisticsBody,
    ForgottenBody,
    MembersBody,
    ReachabilityBody,
    WhyBody,
)
from node.http.models import CapabilityQuery, ForgetBody
from node.http.services import NodeServices
from node.http.strict_json import StrictRoute
from node.labels import labels_shown
from node.message import Message, check_capability
from node.telemetry.version import software_version
from node.vocabulary import Performative, RoutingStrategy


def cluster_routes(services: NodeServices, traffic: Callable[[], dict[str, int]]) -> APIRouter:
    """The routes of the node and its cluster."""
    router = APIRouter(tags=["cluster"], route_class=StrictRoute)
    version = software_version()

    @router.get("/health", tags=["node"], response_model=HealthBody)
    async def health() -> Response:
        """Whether the node lives and takes messages; needs no token."""
        return JSONResponse(_health(services, version))

    @router.get("/llm", tags=["node"], response_model=ModelsBody)
    async def models() -> Response:
        """The language-model providers, the states of their breakers, and what was spent; no key is shown."""
        return JSONResponse({"node": services.node} | dict(services.models.describe()))

    @router.get("/status", tags=["node"], response_model=StatusBody)
    async def status() -> Response:
        """Queues, links, bytes on disk, unsettled messages by node, membership: what every room counts."""
        return JSONResponse(
            _health(services, version)
            | _partition(services)
            | {
                "unsettled_by_node": dict(services.bus.unsettled_by_node()),
                "messaging": dict(services.bus.statistics()),
                "membership": dict(services.membership.statistics()),
                "http": traffic(),
                "tracing": services.tracing.statistics(),
                "rooms": services.statistics(),
            }
        )

    @router.post("/shutdown", tags=["node"], status_code=202, response_model=StoppingBody)
    async def shutdown() -> Response:
        """Leave the cluster and stop, gracefully."""
        services.shutdown()
        return JSONResponse({"status": "stopping", "node": services.node}, 202)

    _add_membership(router, services)

    @router.get("/capabilities", tags=["capabilities"], response_model=CapabilitiesBody)
    async def capabilities() -> Response:
        """Every capability in the cluster and who offers it."""
        found = services.registry.capabilities()
        return JSONResponse({"capabilities": [_capability(name, providers) for name, providers in found]})

    @router.get("/capabilities/{capability}", tags=["capabilities"], response_model=CapabilityBody)
    async def capability(capability: str, query: Annotated[CapabilityQuery, Query()]) -> Response:
        """Who offers one capability, and who would get a message that began a conversation now."""
        strategy = RoutingStrategy.parse(query.strategy)
        check_capability(capability)
        if query.version is not None:
            capability = with_version(capability, query.version)
        providers = services.registry.providers(capability)
        if not providers:
            near = services.registry.related(capability)
            related = [{"capability": name, "agents_count": count} for name, count in near]
            names = ", ".join(name for name, _ in near[:3])
            raise CapabilityNotFound(
                f"nobody offers {capability!r}",
                why="no agent on a live node has registered it",
                fix=f"Did you mean one of {names}?" if names else "Deploy an agent that offers it.",
                details={"capability": capability, "related": related},
            )
        identifier = services.environment.new_id()
        asking = Message(
            id=identifier,
            performative=Performative.REQUEST,
            sender=f"client@{services.node}",
            capability=capability,
            conversation_id=identifier,
            reply_with=identifier,
            routing_strategy=strategy,
        )
        chosen = services.bus.preview(asking).as_json()
        shown = {key: chosen[key] for key in ("targets", "strategy", "reason", "view")}
        return JSONResponse(_capability(capability, providers) | {"chosen": shown})

    return router


def _add_membership(router: APIRouter, services: NodeServices) -> None:
    """The routes that show the cluster as this node sees it."""
    membership = services.membership

    @router.get("/cluster/members", response_model=MembersBody)
    async def members() -> Response:
        """All members this node knows, and in what state."""
        shown = [member.as_json() for member in membership.members()]
        return JSONResponse(
            {"node": services.node}
            | _partition(services)
            | {"members": shown, "away": list(membership.away())}
        )

    @router.get("/cluster/members/{member}/why", response_model=WhyBody)
    async def why(member: str) -> Response:
        """Why a member is held for what it is: what was found out about it, and who doubts it."""
        return JSONResponse({"node": services.node} | membership.why(member).as_json())

    @router.post(
        "/cluster/members/{member}/forget",
        response_model=ForgottenBody,
        responses={
            404: {"model": ErrorBody, "description": "None of that name counts."},
            409: {"model": ErrorBody, "description": "It is up, or this node may itself be cut off."},
        },
    )
    async def forget(member: str, body: ForgetBody) -> Response:
        """Have every node count a member no more that is lost for good; it may still come back."""
        await membership.forgetting.forget(member, force=body.force)
        return JSONResponse({"node": services.node, "name": member} | _partition(services))

    @router.get("/cluster/reachability", response_model=ReachabilityBody)
    async def reachability() -> Response:
        """Who cannot reach whom directly, by the word of every node, although all of them live."""
        return JSONResponse({"node": services.node} | dict(membership.unreachable()))

    @router.get("/cluster/statistics", response_model=ClusterStatisticsBody)
    async def statistics() -> Response:
        """What membership and the replicated maps count: members, packets, drops by reason, queues."""
        partition = _partition(services)["partition"]
        return JSONResponse({"node": services.node, "partition": partition} | dict(membership.statistics()))

    @router.get("/cluster/status", response_model=ClusterBody)
    async def cluster_status() -> Response:
        """The cluster at a glance: members, capabilities, agents, unsettled messages, recent events."""
        shown = [member.as_json() for member in membership.members()]
        capabilities = services.registry.capabilities()
        agents = {(p.node, p.agent) for _, providers in capabilities for p in providers}
        return JSONResponse(
            {"node": services.node}
            | _partition(services)
            | {
                "joined": membership.joined,
                "members": shown,
                "away": list(membership.away()),
                "members_by_state": dict(sorted(Counter(str(m.get("state", "")) for m in shown).items())),
                "agents_count": len(agents),
                "capabilities": {name: len(providers) for name, providers in capabilities},
                "unsettled_by_node": dict(services.bus.unsettled_by_node()),
                "events": [dict(event) for event in membership.recent_events()],
            }
        )


def _partition(services: NodeServices) -> dict[str, Any]:
    found = services.membership.partition()
    state = str(found.side)
    return {
        "partition_state": state,
        "partition": {"state": state, "up": found.up, "remembered": found.remembered},
    }


def _health(services: NodeServices, version: str) -> dict[str, Any]:
    ready = services.ready()
    return {
        "status": "healthy" if ready else "starting",
        "version": version,
        "node": services.node,
        "agents_count": len(services.supervisor.list()),
        "uptime": round(services.environment.clock.now() - services.started_at, 3),
        "ready": ready,
    }


def _capability(name: str, providers: Sequence[Provider]) -> dict[str, Any]:
    offers = [best_offer(provider.capabilities, name) or name for provider in providers]
    counted = Counter(split(offer)[1] for offer in offers)
    return {
        "capability": name,
        "agents_count": len(providers),
        "versions": [
            {"version": shown_version(version), "agents_count": count}
            for version, count in sorted(counted.items(), reverse=True)
        ],
        "providers": [_provider(p) | {"offers": offer} for p, offer in zip(providers, offers, strict=True)],
    }


def _provider(provider: Provider) -> dict[str, Any]:
    return {
        "agent": provider.agent,
        "node": provider.node,
        "version": provider.version,
        "capabilities": list(provider.capabilities),
        "priority": provider.priority,
        "health": provider.health,
        "load": provider.load,
        "accepts": provider.accepts or None,
        "labels": labels_shown(provider.labels),
        "minority": provider.minority,
        "rtt_s": None if provider.rtt_s is None else round(provider.rtt_s, 6),
    }
