"""Errors that only the command line meets."""

from __future__ import annotations

from typing import Any, ClassVar

import click

from node.cli.usage import told
from node.errors import CaxtonError, NodeUnreachable, error_classes


class UsageFailed(CaxtonError):
    """The command line was not understood."""

    code = "USAGE_ERROR"
    exit_code = 2

    @classmethod
    def of(cls, error: click.ClickException, verb: str = "caxton") -> UsageFailed:
        """What click found wrong.

        Args:
            error: It.
            verb: What help there is for, where click does not say in which verb it was.
        """
        context = getattr(error, "ctx", None)
        path = context.command_path if context is not None else verb
        what, why, guess = told(error)
        return cls(
            what,
            why=why,
            fix=(f"Did you mean {guess!r}? " if guess else "") + f"See `{path} --help`.",
            details={"nearest": guess} if guess else {},
        )


class AmbiguousNode(NodeUnreachable):
    """Several nodes run on this machine, and none was chosen: waiting does not help."""


class UnexpectedFailure(CaxtonError):
    """A bug in Caxton."""

    code = "INTERNAL_ERROR"


class FailureReply(CaxtonError):
    """The message was delivered and the answer was a refusal: FAILURE or NOT_UNDERSTOOD."""

    code = "FAILURE_REPLY"


class Refused(CaxtonError):
    """A node refused a request; carries the code, status and exit status the node's error had."""

    def __init__(self, body: dict[str, Any], status: int) -> None:
        facts = body.get("error")
        facts = facts if isinstance(facts, dict) else {}
        details = facts.get("details")
        super().__init__(
            str(facts.get("message") or f"the node answered with status {status}"),
            why=str(facts.get("why", "")),
            fix=str(facts.get("fix", "")),
            details=details if isinstance(details, dict) else {},
        )
        self.code: ClassVar[str] = str(facts.get("code", "INTERNAL_ERROR"))  # type: ignore[misc]
        self.status: ClassVar[int] = status  # type: ignore[misc]
        known = {found.code: found.exit_code for found in error_classes()}
        self.exit_code: ClassVar[int] = known.get(self.code, 1)  # type: ignore[misc]
        self.body = body

    def as_json(self) -> dict[str, Any]:
        """The node's own words."""
        return self.body


class ToolchainMissing(CaxtonError):
    """What builds modules of a language is not installed."""

    code = "TOOLCHAIN_MISSING"
    exit_code = 2


class BuildFailed(CaxtonError):
    """A compiler refused the sources, or what it made is no agent."""

    code = "BUILD_FAILED"
