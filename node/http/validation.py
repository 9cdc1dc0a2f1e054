"""Routes that check an agent file without deploying it."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from node.agents.definition import Examined, examine_definition
from node.http.services import NodeServices
from node.http.strict_json import StrictRoute
from node.http.validation_models import ValidateBody, ValidationBody
from node.llm.wire import estimate


def validation_routes(services: NodeServices, prefix: str, path: str) -> APIRouter:
    """The route that checks an agent file, below one of its documented addresses."""
    router = APIRouter(prefix=prefix, tags=["agents"], route_class=StrictRoute)

    @router.post(path, response_model=ValidationBody)
    async def validate(body: ValidateBody) -> Response:
        """Check an agent file without deploying it: every error and warning with its place."""
        known = services.tools.known() if body.check_tool_availability else None
        examined = await services.environment.workers.run(
            "files", lambda: examine_definition(body.content.encode(), known_tools=known)
        )
        answer = _answer(examined, strict=body.strict_mode)
        return JSONResponse({"validation_id": services.environment.new_id()} | answer)

    return router


def _answer(examined: Examined, *, strict: bool) -> dict[str, Any]:
    problems = [problem.as_json() for problem in examined.problems]
    errors = [p for p in problems if strict or p["severity"] == "error"]
    warnings = [p for p in problems if p not in errors]
    suggestions = [
        f"{p['location']}: write {p['available_alternatives'][0]!r}"
        for p in problems
        if len(p["available_alternatives"]) == 1
    ]
    return {
        "valid": not errors,
        "parsed_config": None if errors else _parsed(examined),
        "errors": errors,
        "warnings": warnings,
        "suggestions": suggestions,
        "estimated_resources": {"tokens_per_request_estimate": _tokens(examined)},
    }


def _parsed(examined: Examined) -> dict[str, Any] | None:
    found = examined.definition
    if found is None:
        return None
    return {
        "id": found.id,
        "name": found.name,
        "version": found.version,
        "runtime": found.runtime,
        "description": found.description,
        "capabilities": list(found.capabilities),
        "requires": list(found.requires),
        "tools": list(found.tools),
        "memory_enabled": found.memory_enabled,
    }


def _tokens(examined: Examined) -> int:
    """Of the longest prompt with the system prompt, before a message is filled in."""
    found = examined.definition
    if found is None:
        return 0
    longest = max((len(text.encode()) for key, text in found.templates.items() if key != "system"), default=0)
    return estimate(len(found.system_prompt.encode()) + longest)
