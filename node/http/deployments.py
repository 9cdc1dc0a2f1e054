"""Routes of deployments: have the cluster run an agent on so many of its nodes."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request
from starlette.responses import JSONResponse, Response

from node.http.answers import ErrorBody
from node.http.deployment_models import (
    DeploymentBody,
    DeploymentsView,
    DeploymentView,
    ScaleBody,
    UndeployQuery,
    number,
)
from node.http.sending import caller_of
from node.http.services import NodeServices
from node.http.strict_json import StrictRoute

WHO_LIMIT: Final = 60
"""Most characters of a token's name that are kept with a deployment."""
_CONFLICT: Final[dict[int | str, dict[str, Any]]] = {
    409: {"model": ErrorBody, "description": "There is one, or another one than was read."}
}


def deployment_routes(services: NodeServices) -> APIRouter:
    """The routes below ``/deployments``."""
    router = APIRouter(prefix="/deployments", tags=["deployments"], route_class=StrictRoute)
    deployments = services.deployments

    def author(request: Request) -> str:
        return f"{caller_of(request).name[:WHO_LIMIT]}@{services.node}"

    @router.post(
        "",
        status_code=201,
        response_model=DeploymentView,
        responses=_CONFLICT
        | {422: {"model": ErrorBody, "description": "The agent file or its module has problems."}},
    )
    async def deploy(request: Request, body: DeploymentBody) -> Response:
        """Have so many nodes of the cluster run an agent; answers once it is decided, not once it runs.

        Every node finds on its own where the replicas belong. The node that is asked need not be one.
        """
        package = await services.environment.workers.run("files", body.package)
        found = await deployments.deploy(
            package,
            body.wanted(),
            by=author(request),
            replace=body.replace,
            based_on=number(body.revision),
        )
        return JSONResponse(found, 201)

    @router.get("", response_model=DeploymentsView)
    async def list_deployments() -> Response:
        """All deployments: what is wanted, what runs where, and why not."""
        return JSONResponse({"deployments": deployments.all(), "nodes": deployments.nodes()})

    @router.get("/{agent}", response_model=DeploymentView)
    async def get(agent: str) -> Response:
        """One deployment, by the id or the name of its agent."""
        return JSONResponse(deployments.get(agent))

    @router.post("/{agent}/scale", response_model=DeploymentView, responses=_CONFLICT)
    async def scale(agent: str, request: Request, body: ScaleBody) -> Response:
        """Have another number of replicas."""
        found = await deployments.scale(
            agent, body.replicas, by=author(request), based_on=number(body.revision)
        )
        return JSONResponse(found)

    @router.delete("/{agent}", status_code=204, responses=_CONFLICT)
    async def undeploy(agent: str, request: Request, query: Annotated[UndeployQuery, Query()]) -> Response:
        """Have no replica any more; each finishes what it is handling."""
        await deployments.undeploy(agent, by=author(request), based_on=number(query.revision))
        return Response(status_code=204)

    return router
