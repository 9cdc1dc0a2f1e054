"""On whose behalf a tool acts, and how far it may reach; the host says so in ``_meta``, never the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from node.errors import ValidationFailed

FileAccess = Literal["none", "read_only", "read_write"]
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
        domains: Domains its tools may call by HTTP, if the node's configuration allows them, too.
        paths: Folders its tools may use, ``root`` or ``root/folder``; None for all that the node offers.
        file_access: What they may do there.
    """

    agent: str
    workspace: str = ""
    conversation: str = ""
    message: str = ""
    memory_scope: str = "agent-only"
    domains: tuple[str, ...] = ()
    paths: tuple[str, ...] | None = None
    file_access: FileAccess = "read_only"

    def as_meta(self) -> dict[str, Any]:
        """The caller as a request carries it."""
        return {CALLER_KEY: {name: getattr(self, name) for name in self.__slots__}}

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
        paths = told["paths"]
        reach = {"domains": tuple(told["domains"]), "paths": None if paths is None else tuple(paths)}
        return cls(**{**told, **reach})


CallerOf = Callable[[Mapping[str, Any] | None], Caller]
"""Who calls, by a request's ``_meta``: :meth:`Caller.of` in a node, always the same one outside of it."""
