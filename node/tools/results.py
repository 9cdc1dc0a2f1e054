"""What a tool answered, as JSON values that a prompt can hold: texts and data, and never bytes.

Images, sounds and binary resources are described, not handed on: their base64 would fill a prompt with what
no text model can read. Links to resources are shown and not followed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from mcp_types import CallToolResult

BLOCKS_LIMIT: Final = 64
"""Most pieces of one answer; the rest is counted."""
REASON_LIMIT: Final = 2_000
"""Longest reason of a failure that is quoted, in characters."""


def value_of(answer: CallToolResult) -> tuple[Any, list[dict[str, Any]]]:
    """The answer's data, or its text as ``{"text": ...}``, and what in it is described instead of shown."""
    texts, media = _pieces(answer.content)
    value: Any = {"text": "\n".join(texts)}
    if answer.structured_content is not None:
        value = answer.structured_content
    if not media:
        return value, []
    shown = value if answer.structured_content is None else {"data": value}
    return {**shown, "media": media}, media


def reason_of(answer: CallToolResult, tool: str) -> str:
    """Why a tool has failed, in its own words."""
    return reason_in(_pieces(answer.content)[0], tool)


def reason_in(texts: Sequence[str], tool: str) -> str:
    """Why a tool has failed, from what its server says, without the SDK's preface."""
    return (" ".join(texts).removeprefix(f"Error executing tool {tool}: ") or "no reason")[:REASON_LIMIT]


def in_words(media: Sequence[dict[str, Any]]) -> str:
    """What was described instead of shown, in one sentence."""
    kinds = ", ".join(
        f"{each['type']} ({each.get('mime') or each.get('uri', '')})"[:80] for each in media[:5]
    )
    more = f" and {len(media) - 5} more" if len(media) > 5 else ""
    return f"answered with {kinds}{more}, which the model is told of and not shown"


def _pieces(blocks: Sequence[Any]) -> tuple[list[str], list[dict[str, Any]]]:
    texts: list[str] = []
    media: list[dict[str, Any]] = []
    for block in blocks[:BLOCKS_LIMIT]:
        if block.type == "text":
            texts.append(block.text)
        elif block.type in ("image", "audio"):
            media.append({"type": block.type, "mime": block.mime_type, "bytes": _decoded(block.data)})
        elif block.type == "resource_link":
            shown = {"type": block.type, "mime": block.mime_type, "uri": str(block.uri)}
            media.append({key: value for key, value in shown.items() if value is not None})
        elif hasattr(block.resource, "text"):
            texts.append(block.resource.text)
        else:
            resource = block.resource
            size = _decoded(resource.blob)
            media.append(
                {"type": "resource", "mime": resource.mime_type, "bytes": size, "uri": str(resource.uri)}
            )
    if len(blocks) > BLOCKS_LIMIT:
        texts.append(f"({len(blocks) - BLOCKS_LIMIT} more pieces were left out)")
    return texts, media


def _decoded(base64: str) -> int:
    """How many bytes a base64 text stands for."""
    return len(base64) * 3 // 4 - base64[-2:].count("=")
