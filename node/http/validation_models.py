"""Body and answer of the check of an agent file."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from node.agents.frontmatter import FILE_LIMIT_BYTES
from node.http.answer import Answer
from node.http.models import Label, StrictBody


class ValidateBody(StrictBody):
    """An agent file to check."""

    content: Annotated[str, Field(max_length=FILE_LIMIT_BYTES, description="The agent file.")]
    workspace: Annotated[Label, Field(description="Taken, and without effect.")] = "default"
    strict_mode: Annotated[bool, Field(description="Warnings are errors.")] = False
    check_tool_availability: Annotated[bool, Field(description="Warn of tools that are not here.")] = True


class ResourceEstimate(Answer):
    """What an agent will take, as far as its file says."""

    tokens_per_request_estimate: int


class ValidationBody(Answer):
    """What is wrong with an agent file, and what was read of it; ``parsed_config`` only where nothing is."""

    valid: bool
    validation_id: str
    parsed_config: dict[str, Any] | None
    errors: list[dict[str, Any]]
    warnings: list[dict[str, Any]]
    suggestions: list[str]
    estimated_resources: ResourceEstimate
