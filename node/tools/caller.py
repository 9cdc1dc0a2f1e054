"""On whose behalf a memory tool acts: told by the host in a request's ``_meta``, never by the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from node.errors import ValidationFailed

CALLER_KEY: Final = "caxton/caller"
"""Key of the caller in a request's ``_meta``."""


@dataclass(frozen=True, slots=True)
class Caller:
    """The agent that calls, and while handling what.

    Args:
        agent: Its id.
        workspace: The workspace it is deployed in; empty for none.
        conversation: Of the message being handled; empty when unknown.
        message: The message being handled; empty when unknown.
        memory_scope: Where it remembers when a call names no scope.
    """

    agent: str
    workspace: str = ""
    conversation: str = ""
    message: str = ""
    memory_scope: str = "agent-only"

    def as_meta(self) -> dict[str, Any]:
        """The caller as a request carries it."""
        return {CALLER_KEY: asdict(self)}

    @classmethod
    def of(cls, meta: Mapping[str, Any] | None) -> Caller:
        """The caller that the host has written into a request.

        Raises:
            ValidationFailed: the request does not come from a host.
        """
        told = (meta or {}).get(CALLER_KEY)
        if not isinstance(told, dict):
            raise ValidationFailed(
                "nobody is named whom this call is made for", why="only the host of the node may call"
            )
        return cls(**told)
