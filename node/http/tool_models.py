"""What clients send about tool servers, checked at the edge."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from node.http.models import StrictBody
from node.tools.described import TOOLS_LIMIT

ToolName = Annotated[str, StringConstraints(min_length=1, max_length=128)]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class ApproveBody(StrictBody):
    """Which tools to approve, and as which."""

    tools: Annotated[
        dict[ToolName, Digest | None] | None,
        Field(
            max_length=TOOLS_LIMIT,
            description="Tool -> the hash that was looked at, null for any; without it all that wait.",
        ),
    ] = None
