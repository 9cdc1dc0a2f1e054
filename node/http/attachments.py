"""Attachments as callers of the admin API write them."""

from __future__ import annotations

import base64
import binascii
from typing import Any

from node.blobs.store import check_digest
from node.errors import ValidationFailed
from node.message import Attachment, check_attachment


def attachment_from_json(data: Any) -> Attachment:
    """Read ``{"name", "media_type"?, "text" | "base64" | "blob"}``.

    Raises:
        ValidationFailed: it has another form.
    """
    if not isinstance(data, dict) or not isinstance(data.get("name"), str):
        raise _invalid("each must be an object with a name and text or base64")
    unknown = sorted(set(data) - {"name", "media_type", "text", "base64", "blob"})
    if unknown or sum(each in data for each in ("text", "base64", "blob")) != 1:
        raise _invalid(f"{data['name'][:80]!r} needs exactly one of text, base64 and blob")
    if "blob" in data:
        attachment = Attachment(
            data["name"], data.get("media_type", "application/octet-stream"), blob=str(data["blob"])
        )
        check_digest(attachment.blob)
        check_attachment(attachment)
        return attachment
    try:
        raw = data["text"].encode() if "text" in data else base64.b64decode(data["base64"], validate=True)
    except (AttributeError, TypeError, ValueError, binascii.Error):
        raise _invalid(f"{data['name'][:80]!r} cannot be decoded") from None
    attachment = Attachment(data["name"], data.get("media_type", "application/octet-stream"), raw)
    check_attachment(attachment)
    return attachment


def _invalid(why: str) -> ValidationFailed:
    return ValidationFailed(
        "the field 'attachments' is not valid",
        why=why,
        fix="Correct it and send again.",
        details={"field": "attachments"},
    )
