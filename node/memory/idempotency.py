"""The same request under the same key is done once: what it was, and what it was answered."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from node.errors import EntityConflict
from node.memory.model import EntityDraft, Realm
from node.memory.scopes import Scoped


def request_digest(realm: Realm, drafts: Sequence[EntityDraft]) -> bytes:
    """What a request is known by: the same request has the same."""
    told = [realm.scope.label, realm.owner, [asdict(draft) for draft in drafts]]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).digest()


def answered(scoped: Scoped, realm: int, key: str, digest: bytes) -> list[dict[str, Any]] | None:
    """What was answered under an idempotency key, or None when it is new.

    Raises:
        EntityConflict: it was used for another request.
    """
    before = scoped.answered(realm, key)
    if before is None:
        return None
    if before[0] != digest:
        raise EntityConflict(
            f"the idempotency key {key[:80]!r} was used for another request",
            why="a key stands for one request",
            fix="Use a new key for every request, and the same only to repeat one.",
            details={"field": "idempotency_key"},
        )
    found: list[dict[str, Any]] = json.loads(before[1])
    return found
