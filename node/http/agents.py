"""Routes of agents: deploy, list, get, stop, start, delete, logs."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.responses import JSONResponse, Response

from node.http.answers import AgentBody, AgentsBody, ErrorBody, LogsBody
from node.http.deploy_models import DeployBody
from node.http.models import AgentQuery, DeleteQuery, LogQuery, StopBody
from node.http.services import NodeServices
from node.http.strict_json import StrictRoute


def agent_routes(services: NodeServices, prefix: str) -> APIRouter:
    """The routes below ``/agents`` or its alias ``/config-agents``."""
    router = APIRouter(prefix=prefix, tags=["agents"], route_class=StrictRoute)
    supervisor = services.supervisor

    @router.post(
        "",
        status_code=201,
        response_model=AgentBody,
        responses={
            409: {"model": ErrorBody, "description": "There is an agent of that name."},
            422: {"model": ErrorBody, "description": "The agent file or its module has problems."},
        },
    )
    async def deploy(body: DeployBody) -> Response:
        """Deploy an agent file; answers with the agent as it runs."""
        content, artifacts = await services.environment.workers.run("files", body.files)
        info = await supervisor.deploy(
            content,
            filename=body.filename or "",
            artifacts=artifacts,
            name=body.name,
            workspace=body.workspace,
            replace=body.replace,
            auto_start=body.auto_start,
        )
        return JSONResponse(info.as_json(), 201)

    @router.get("", response_model=AgentsBody)
    async def list_agents(query: Annotated[AgentQuery, Query()]) -> Response:
        """The agents of this node, a page at a time."""
        found = [
            info
            for info in supervisor.list()
            if (query.status is None or str(info.status) == query.status)
            and (query.capability is None or query.capability in info.capabilities)
        ]
        page = found[query.offset : query.offset + query.limit]
        return JSONResponse(
            {
                "agents": [info.as_json() for info in page],
                "total": len(found),
                "limit": query.limit,
                "offset": query.offset,
            }
        )

    @router.get("/{agent}", response_model=AgentBody)
    async def get(agent: str) -> Response:
        """One agent."""
        return JSONResponse(supervisor.get(agent).as_json())

    @router.delete("/{agent}", status_code=204)
    async def delete(agent: str, query: Annotated[DeleteQuery, Query()]) -> Response:
        """Remove an agent; with force, without letting it finish."""
        await supervisor.delete(agent, force=query.force)
        return Response(status_code=204)

    @router.post("/{agent}/stop", response_model=AgentBody)
    async def stop(agent: str, body: StopBody | None = None) -> Response:
        """Take an agent out of service; it stays deployed.

        It goes on handling for ``grace_period_seconds`` at most. What waits in its mailbox then is given back
        to the nodes it came from, which send it to another provider.
        """
        await supervisor.stop(agent, grace_s=(body or StopBody()).grace_period_seconds)
        return JSONResponse(supervisor.get(agent).as_json())

    @router.post("/{agent}/start", response_model=AgentBody)
    async def start(agent: str) -> Response:
        """Start a stopped agent."""
        await supervisor.start(agent)
        return JSONResponse(supervisor.get(agent).as_json())

    @router.get("/{agent}/logs", response_model=LogsBody)
    async def logs(agent: str, query: Annotated[LogQuery, Query()]) -> Response:
        """The last log records of an agent, oldest first."""
        records = supervisor.logs(
            agent,
            tail=query.tail,
            since_s=query.since_s(services.environment.clock.wall()),
            level=query.level,
        )
        shown: list[dict[str, Any]] = [record.as_json() for record in records]
        return JSONResponse({"agent": agent, "records": shown})

    return router
