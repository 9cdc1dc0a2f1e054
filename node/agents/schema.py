"""The front matter of agent files as JSON Schema (draft 2020-12), for editors: `caxton agent schema`.

It is made from the table of :mod:`node.agents.fields`, so it cannot say anything else than a node does.
What spans fields (templates, tools that exist) only the node, and `caxton agent validate`, can judge.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from node.agents.fields import GROUPS, GROUPS_ABOUT, NOT_FOR_WASM, TOP, Effect, Field

SCHEMA_ID: Final = "urn:caxton:schema:agent-file:1"
"""The ``$id`` of the schema."""
DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


def front_matter_schema() -> dict[str, Any]:
    """The JSON Schema of an agent file's front matter."""
    properties = {name: _field(field) for name, field in TOP.items()}
    for name, table in GROUPS.items():
        properties[name] = {
            "description": GROUPS_ABOUT[name],
            "type": "object",
            "properties": {key: _field(field) for key, field in table.items()},
            "additionalProperties": False,
        }
    return {
        "$schema": DIALECT,
        "$id": SCHEMA_ID,
        "title": "Caxton agent file (front matter)",
        "type": "object",
        "properties": dict(sorted(properties.items())),
        "required": ["name"],
        "anyOf": [{"required": ["capabilities"]}, {"required": ["topics"]}],
        "if": {"properties": {"runtime": {"const": "wasm"}}, "required": ["runtime"]},
        "then": {"required": ["module"], "properties": dict.fromkeys(NOT_FOR_WASM, _UNSET)},
        "else": {"required": ["system_prompt"], "properties": {"wasm": _UNSET}},
        "additionalProperties": False,
    }


_UNSET: Final[Mapping[str, Any]] = {"enum": [False, [], {}]}
"""What says nothing may stand anywhere."""


def _field(field: Field) -> dict[str, Any]:
    about = field.about
    if field.effect is Effect.LATER:
        about += " Documented, without effect yet."
    return {"description": about, **field.form.schema}
