"""What callers send about deployments of the cluster, and what they are answered."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from node.deployments.limits import PRIORITY_LIMIT, REPLICAS_LIMIT
from node.deployments.package import Package
from node.deployments.wanted import Wanted
from node.http.answers import Time
from node.http.deploy_models import PackageBody
from node.http.models import Label, StrictBody, StrictQuery
from node.labels import REQUIRED_LIMIT, labels_of

Replicas = Annotated[int, Field(ge=0, le=REPLICAS_LIMIT, description="How many nodes run it.")]
Revision = Annotated[
    str | None,
    Field(
        pattern=r"^[0-9]{1,19}$",
        description="Of the deployment as it was read; another one is refused (DEPLOYMENT_CONFLICT).",
    ),
]


class DeploymentBody(PackageBody):
    """An agent that so many nodes of the cluster shall run."""

    replicas: Replicas = 1
    require: Annotated[
        dict[Label, Label | list[Label]],
        Field(
            default_factory=dict,
            max_length=REQUIRED_LIMIT,
            examples=[{"gpu": "yes"}],
            description="Labels that those nodes have, each a text or several.",
        ),
    ]
    priority: Annotated[int, Field(ge=0, le=PRIORITY_LIMIT, description="Higher is started first.")] = 50
    minority: Annotated[
        Literal["keep", "stop"], Field(description="What replicas do on the smaller side of a partition.")
    ] = "keep"
    revision: Revision = None

    def wanted(self) -> Wanted:
        """How it shall be run.

        Raises:
            ValidationFailed: the labels are none.
        """
        return Wanted(self.replicas, labels_of(self.require, REQUIRED_LIMIT), self.priority, self.minority)

    def package(self) -> Package:
        """The agent, decoded: of a module this takes a worker's time.

        Raises:
            ValidationFailed: it cannot be decoded.
        """
        content, files = self.files()
        return Package(content, self.filename or "", dict(sorted(files.items())), self.name, self.workspace)


class ScaleBody(StrictBody):
    """Another number of replicas."""

    replicas: Replicas
    revision: Revision = None


class UndeployQuery(StrictQuery):
    """Which revision of a deployment is meant."""

    revision: Revision = None


def number(revision: str | None) -> int | None:
    """A revision as the cluster map has it."""
    return None if revision is None else int(revision)


class ReplicaBody(BaseModel):
    """One node that runs a deployment, or is to, or could not."""

    node: str
    state: Annotated[
        str,
        Field(
            examples=["running", "starting", "outdated", "failed", "extra", "lost"],
            description="What it runs of the deployment.",
        ),
    ]
    why: str | None


class ExcludedBody(BaseModel):
    """A node that cannot run a deployment."""

    node: str
    why: str


class ConflictBody(BaseModel):
    """A concurrent write of a deployment that lost."""

    author: str
    written_at: Time
    deleted: bool
    replicas: int | None
    digest: str | None


class MemoryBody(BaseModel):
    """A memory of its own that an agent has left behind on a node, and that another one takes."""

    model_config = ConfigDict(populate_by_name=True)
    from_: Annotated[str, Field(alias="from")]
    to: str
    up: Annotated[bool, Field(description="Whether the node that has it is up.")]


class DeploymentView(BaseModel):
    """A deployment, as the node that is asked sees it."""

    agent: str
    name: str
    version: str
    digest: Annotated[str, Field(description="SHA-256 of the package that is run.")]
    size_bytes: int
    replicas: Annotated[int, Field(description="How many are wanted.")]
    running: Annotated[int, Field(description="How many nodes run the wanted package.")]
    state: Annotated[str, Field(examples=["running", "changing", "short"])]
    why: Annotated[str | None, Field(description="Why not all run that are wanted.")]
    nodes: list[ReplicaBody]
    excluded: list[ExcludedBody]
    spare: Annotated[str | None, Field(description="The node that is next, and holds the package.")]
    requires: dict[str, list[str]]
    priority: int
    minority: str
    by: Annotated[str, Field(description="Who has written it, and where.")]
    revision: str
    updated_at: Time
    conflicts: list[ConflictBody]
    memories: Annotated[
        list[MemoryBody], Field(description="What it has remembered for itself, on the way to where it runs.")
    ]


class DeploymentsView(BaseModel):
    """All deployments, and who takes replicas."""

    deployments: list[DeploymentView]
    nodes: list[dict[str, Any]]
