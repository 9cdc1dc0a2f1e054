"""One hierarchy of operating errors: each has a stable code, what happened, why, and how to fix it.

Programmer errors are not in here: they are :class:`InvariantViolation`, raised by :func:`invariant`.
The HTTP edge and the command line render every :class:`CaxtonError` the
same way (:meth:`CaxtonError.as_json`); ``docs/errors.md`` lists every code.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, ClassVar


class InvariantViolation(AssertionError):
    """A promise of the code to itself was broken: a bug in Caxton, never the user's doing."""


def invariant(condition: object, message: str) -> None:
    """Check a programmer's promise; unlike ``assert`` it stays in place under ``python -O``.

    Raises:
        InvariantViolation: ``condition`` is false.
    """
    if not condition:
        raise InvariantViolation(message)


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """The choice most like ``word``, or None when none is near enough to suggest."""
    found = difflib.get_close_matches(word, sorted(choices), n=1, cutoff=0.6)
    return found[0] if found else None


class CaxtonError(Exception):
    """An operating error with a stable code.

    Args:
        what: What happened, one sentence.
        why: The cause, as far as it is known.
        fix: What the reader can do about it.
        details: Structured facts for programs (field, line, candidates ...), JSON values only.
    """

    code: ClassVar[str] = "INTERNAL_ERROR"
    status: ClassVar[int] = 500
    """The HTTP status this error is answered with."""
    exit_code: ClassVar[int] = 1
    """The exit status of the command line."""

    def __init__(
        self, what: str, *, why: str = "", fix: str = "", details: dict[str, Any] | None = None
    ) -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.fix = fix
        self.details: dict[str, Any] = details or {}

    def as_json(self) -> dict[str, Any]:
        """The error as one JSON object: the superset of both shapes the public API has had."""
        error = {"code": self.code, "message": self.what, "why": self.why, "fix": self.fix}
        return {"error": error | {"details": self.details}, "code": self.code} | (
            {"details": self.details} if self.details else {}
        )

    def __str__(self) -> str:
        """``what (why). fix``, on one line."""
        text = self.what.rstrip(".")
        if self.why:
            text += f": {self.why.rstrip('.')}"
        return f"{text}. {self.fix}" if self.fix else f"{text}."


class ConfigInvalid(CaxtonError):
    """The configuration cannot be read or breaks a rule; ``details["problems"]`` lists every place."""

    code = "CONFIG_INVALID"
    status = 400
    exit_code = 2


class ValidationFailed(CaxtonError):
    """Input from outside does not have the form it must have."""

    code = "VALIDATION_ERROR"
    status = 400
    exit_code = 2


class DuplicateMessage(ValidationFailed):
    """A message of this id was accepted on this node before: sending it again has done nothing."""

    code = "DUPLICATE_MESSAGE"
    status = 409


class MessageTooLarge(CaxtonError):
    """A message is above ``messaging.max_message_bytes``."""

    code = "MESSAGE_TOO_LARGE"
    status = 413


class AgentInvalid(CaxtonError):
    """An agent file breaks a rule; ``details["problems"]`` lists every place with line and column."""

    code = "AGENT_INVALID"
    status = 422
    exit_code = 2


class AgentNotFound(CaxtonError):
    """No agent of that name or id is deployed here."""

    code = "AGENT_NOT_FOUND"
    status = 404


class AgentAlreadyExists(CaxtonError):
    """An agent of that name is already deployed on this node."""

    code = "AGENT_ALREADY_EXISTS"
    status = 409


class AgentPlaced(CaxtonError):
    """A deployment of the cluster runs that agent, so it is not changed on one node alone."""

    code = "AGENT_PLACED"
    status = 409


class DeploymentNotFound(CaxtonError):
    """The cluster has no deployment of that agent."""

    code = "DEPLOYMENT_NOT_FOUND"
    status = 404


class DeploymentConflict(CaxtonError):
    """The deployment is there already, or was changed since it was read."""

    code = "DEPLOYMENT_CONFLICT"
    status = 409


class MessageNotFound(CaxtonError):
    """No message of that id is known on this node (it may have aged out)."""

    code = "MESSAGE_NOT_FOUND"
    status = 404


class BlobNotFound(CaxtonError):
    """No blob of that digest is here as a whole."""

    code = "BLOB_NOT_FOUND"
    status = 404


class MessageDeliveryFailed(CaxtonError):
    """A message could not be delivered within its time and attempts; a dead letter keeps its history."""

    code = "MESSAGE_DELIVERY_FAILED"
    status = 502


class CapabilityNotFound(CaxtonError):
    """No provider of that capability is known."""

    code = "CAPABILITY_NOT_FOUND"
    status = 404


class MinorityRefused(CaxtonError):
    """This node is on the smaller side of a partition, where the capability is not served."""

    code = "MINORITY_REFUSED"
    status = 503


class NoReply(CaxtonError):
    """The reply did not arrive within the time the caller was ready to wait; the message goes on."""

    code = "NO_REPLY"
    status = 504


class ReplyTimeout(CaxtonError):
    """No reply came by the ``reply_by`` of a message: its sender is told by a FAILURE with this code."""

    code = "REPLY_TIMEOUT"
    status = 504


class ResourceLimitExceeded(CaxtonError):
    """A bound was reached: agents, queue length, bytes, rate."""

    code = "RESOURCE_LIMIT_EXCEEDED"
    status = 429


class Unauthorized(CaxtonError):
    """The request carries no valid credential."""

    code = "UNAUTHORIZED"
    status = 401
    exit_code = 4


class Forbidden(CaxtonError):
    """The credential is valid but lacks the permission."""

    code = "FORBIDDEN"
    status = 403
    exit_code = 4


class SecurityMaterialInvalid(CaxtonError):
    """Certificates, keys or tokens are missing, unreadable, expired or of another cluster."""

    code = "SECURITY_MATERIAL_INVALID"
    exit_code = 2


class InsecureListener(CaxtonError):
    """The configuration asks to listen beyond loopback without cluster security material."""

    code = "INSECURE_LISTENER"
    exit_code = 2


class AddressInUse(CaxtonError):
    """A port this node must listen on is taken."""

    code = "ADDRESS_IN_USE"
    exit_code = 3


class DataDirectoryInUse(CaxtonError):
    """Another process owns the data directory."""

    code = "DATA_DIRECTORY_IN_USE"
    exit_code = 3


class StorageFailed(CaxtonError):
    """The disk refused: full, read-only, failing or damaged. Nothing was acknowledged."""

    code = "STORAGE_ERROR"
    status = 507


class MemoryBackendFailed(CaxtonError):
    """What keeps the memory outside the node does not answer, or wrongly; nothing was stored."""

    code = "MEMORY_BACKEND_ERROR"
    status = 503


class MemoryNotOffered(CaxtonError):
    """The configured backend of the memory cannot do what was asked; another one can."""

    code = "MEMORY_NOT_OFFERED"
    status = 501


class EmbeddingFailed(CaxtonError):
    """The embedding model is missing, damaged or does not answer; what needs no vectors goes on."""

    code = "EMBEDDING_ERROR"
    status = 503


class InvalidEntityData(CaxtonError):
    """A memory does not have the form it must have: a name, a text, a number, a time or metadata."""

    code = "INVALID_ENTITY_DATA"
    status = 400
    exit_code = 2


class EntityNotFound(CaxtonError):
    """No entity, observation or relation of that name or id is there for this viewer."""

    code = "ENTITY_NOT_FOUND"
    status = 404


class EntityConflict(CaxtonError):
    """What is remembered there already contradicts the request; nothing was changed."""

    code = "ENTITY_CONFLICT"
    status = 409


class MemoryTooLarge(CaxtonError):
    """A text or a request is above what the memory takes at once."""

    code = "MEMORY_TOO_LARGE"
    status = 413


class MemoryLimitExceeded(CaxtonError):
    """The memory is full: entities, observations or owners have reached their limit."""

    code = "MEMORY_LIMIT_EXCEEDED"
    status = 507


class ScopeDenied(CaxtonError):
    """The scope belongs to somebody else, whether or not anything is in it."""

    code = "SCOPE_PERMISSION_DENIED"
    status = 403
    exit_code = 4


class PeerRejected(CaxtonError):
    """A peer link could not be trusted: wrong cluster, wrong name, expired certificate, bad frame."""

    code = "PEER_REJECTED"


class NodeUnreachable(CaxtonError):
    """The admin endpoint of a node does not answer."""

    code = "NODE_UNREACHABLE"
    exit_code = 3


class DuplicateIdentityError(CaxtonError):
    """Another process runs under this node's name and won."""

    code = "DUPLICATE_IDENTITY"
    exit_code = 5


class ProviderFailed(CaxtonError):
    """The language-model provider failed, or the request exceeded its budget."""

    code = "PROVIDER_ERROR"
    status = 502


class ProviderNotFound(CaxtonError):
    """An agent file, or a command line, names a language-model provider that is not configured here."""

    code = "PROVIDER_NOT_FOUND"
    status = 422
    exit_code = 2


class AnswerInvalid(CaxtonError):
    """A model's answer does not follow the ``output_schema`` of its agent, repaired or not."""

    code = "ANSWER_INVALID"
    status = 502


class ToolFailed(CaxtonError):
    """A tool answered with an error, timed out or is not permitted."""

    code = "TOOL_UNAVAILABLE"
    status = 502


class InvalidWasm(CaxtonError):
    """A WebAssembly module does not compile, lacks an export or asks for an unknown import."""

    code = "INVALID_WASM"
    status = 422
    exit_code = 2


class ArtifactUntrusted(CaxtonError):
    """A WebAssembly module is unsigned, changed, or signed by nobody trusted here: ``details["reason"]``."""

    code = "ARTIFACT_UNTRUSTED"
    status = 403
    exit_code = 4


def error_classes() -> list[type[CaxtonError]]:
    """Every error class with a code of its own, sorted by code; the documentation test reads it."""
    found = [*CaxtonError.__subclasses__(), DuplicateMessage]
    return sorted(found, key=lambda c: c.code)
