"""Reads what is deployed: an agent file, possibly with a module beside it, or a module alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import PurePosixPath
from typing import Any, Final

import cbor2

from node.agents.definition import AgentDefinition, normalise_name, parse_definition
from node.agents.settings import AgentSettings
from node.agents.wasm.manifest import (
    SUFFIX,
    Signed,
    check_expiry,
    definition_of,
    read_signed,
    refused,
    within,
)
from node.errors import AgentAlreadyExists, AgentInvalid, ResourceLimitExceeded, ValidationFailed, nearest
from node.security.artifacts import ArtifactTrust

ARTIFACTS_LIMIT: Final = 16
"""Most files deployed beside an agent file."""


@dataclass(frozen=True, slots=True)
class Blueprint:
    """What an agent is built from.

    Args:
        definition: The agent file, or what stands in for it when a module is deployed alone.
        module: The WebAssembly module of a wasm agent.
        asks_module: Whether the capabilities must be asked from the module.
        signed: The verified manifest of the module, if it has one.
    """

    definition: AgentDefinition
    module: bytes | None = None
    asks_module: bool = False
    signed: Signed | None = None

    @property
    def kind(self) -> str:
        """``configured`` or ``wasm``."""
        return "configured" if self.module is None else "wasm"

    @property
    def signature(self) -> dict[str, Any] | None:
        """Who signed the module, as the public API shows it."""
        return None if self.signed is None else self.signed.as_json()

    @property
    def provenance(self) -> str:
        """Version and signer, for the agent's log."""
        version = f"version {self.definition.version}"
        return version if self.signed is None else f"{version}, signed by {self.signed}"


def read_blueprint(
    content: bytes,
    *,
    filename: str,
    artifacts: Mapping[str, bytes],
    name: str | None,
    known_tools: Collection[str],
    settings: AgentSettings,
    now_s: float | None = None,
) -> Blueprint:
    """Read and check; nothing is started.

    Args:
        content: The agent file, or a module that is deployed alone.
        filename: Its name.
        artifacts: The files beside it, by name.
        name: Takes the place of the name in the file.
        known_tools: Tools and tool servers there are.
        settings: Whether warnings are errors, whose signature counts, and whether one is needed.
        now_s: Unix time in seconds by which a signature must not have expired; None for an agent that was
            deployed before, which an old signature does not end.

    Raises:
        AgentInvalid: the agent file has problems, or its module is missing.
        ArtifactUntrusted: the module, or its manifest, is not to be trusted.
        ValidationFailed: the name is none.
    """
    verify = partial(_signature, artifacts=artifacts, trust=settings.trust, now_s=now_s)
    if is_module(content):
        return _read_module(content, PurePosixPath(filename).name, name, verify)
    definition = parse_definition(content, known_tools=known_tools, strict=settings.strict)
    if name is not None:
        definition = replace(definition, id=normalise_name(name), name=name)
    if definition.runtime != "wasm":
        return Blueprint(definition)
    wanted = definition.module or ""
    module = artifacts.get(wanted)
    if module is None:
        raise _no_module(wanted, artifacts)
    if not is_module(module):
        raise ValidationFailed(
            f"the file {wanted!r} is no WebAssembly module", why="it is neither binary nor a text '(module'"
        )
    signed = verify(wanted, module)
    if signed is not None:
        definition = within(definition, signed.manifest)
    return Blueprint(definition, module, signed=signed)


def check_sizes(content: bytes, files: Mapping[str, bytes], workspace: str, settings: AgentSettings) -> None:
    """Refuse what is too much to be looked at.

    Raises:
        ResourceLimitExceeded: the agent, its files or their number.
        ValidationFailed: the workspace has no valid name.
    """
    size = sum(len(data) for data in files.values())
    alone = is_module(content)
    for what, found, limit in (
        ("the agent", len(content), settings.max_artifacts_bytes if alone else settings.max_content_bytes),
        ("its artifacts", size, settings.max_artifacts_bytes),
    ):
        if found > limit:
            raise ResourceLimitExceeded(
                f"{what} cannot be taken", why=f"{found:,} bytes; at most {limit:,} are allowed"
            )
    if len(files) > ARTIFACTS_LIMIT:
        raise ResourceLimitExceeded("too many artifacts", why=f"at most {ARTIFACTS_LIMIT} are allowed")
    if not 0 < len(workspace) <= 64 or not workspace.isprintable():
        raise ValidationFailed("the workspace has no valid name", why="1 to 64 printable characters")


def check_room(agent: str, known: tuple[str, str] | None, *, full_at: int | None) -> None:
    """Refuse an agent that would take another's place, or that there is no place for.

    Args:
        agent: Its id.
        known: Version and status of the one that has this id and is not to be replaced; None for none.
        full_at: How many agents there are if that is the most; None if it is not.

    Raises:
        AgentAlreadyExists: there is one of that id.
        ResourceLimitExceeded: there are too many.
    """
    if known is not None:
        version, status = known
        raise AgentAlreadyExists(
            f"there is already an agent {agent!r} on this node",
            why=f"version {version} is {status}",
            fix="Replace it explicitly (--replace), or give this one another name.",
            details={"agent": agent, "version": version},
        )
    if full_at is not None:
        raise ResourceLimitExceeded(
            "this node takes no more agents",
            why=f"runtime.max_agents is {full_at}",
            fix="Delete one, raise the limit, or deploy on another node.",
        )


def pack_artifacts(filename: str, files: Mapping[str, bytes]) -> bytes:
    """What is deployed beside an agent file, as it is stored."""
    return cbor2.dumps({"filename": filename, "files": dict(files)})


def unpack_artifacts(stored: bytes) -> tuple[str, dict[str, bytes]]:
    """What :func:`pack_artifacts` stored.

    Raises:
        ValidationFailed: it is damaged.
    """
    try:
        found = cbor2.loads(stored)
        return str(found["filename"]), dict(found["files"])
    except (cbor2.CBORDecodeError, ValueError, KeyError, TypeError):
        raise ValidationFailed("the stored agent cannot be read", why="its artifacts are damaged") from None


def is_module(content: bytes) -> bool:
    """Whether the bytes are WebAssembly, binary or text, rather than an agent file."""
    return content.startswith(b"\0asm") or content[:64].lstrip().startswith((b"(", b";;"))


def _read_module(
    content: bytes, filename: str, name: str | None, verify: Callable[[str, bytes], Signed | None]
) -> Blueprint:
    """A module without an agent file is what its manifest says, or nearly nothing."""
    signed = verify(filename, content)
    if signed is None:
        plain = name or re.sub(r"[^A-Za-z0-9]+", "-", PurePosixPath(filename).stem).strip("-")
        definition = AgentDefinition(
            id=normalise_name(plain), name=plain, runtime="wasm", module=filename or None
        )
        return Blueprint(definition, content, asks_module=True)
    definition = definition_of(signed.manifest, filename)
    if name is not None:
        definition = within(replace(definition, id=normalise_name(name), name=name), signed.manifest)
    return Blueprint(definition, content, asks_module=not definition.capabilities, signed=signed)


def _signature(
    filename: str, module: bytes, artifacts: Mapping[str, bytes], trust: ArtifactTrust, now_s: float | None
) -> Signed | None:
    raw = artifacts.get(filename + SUFFIX) if filename else None
    if raw is None:
        if trust.required:
            raise refused(
                "unsigned", f"this node takes signed modules only, and there is no {filename}{SUFFIX}"
            )
        return None
    signed = read_signed(raw, module, trust)
    if now_s is not None:
        check_expiry(signed.manifest, now_s)
    return signed


def _no_module(wanted: str, artifacts: Mapping[str, bytes]) -> AgentInvalid:
    guess = nearest(wanted, artifacts)
    problem = {
        "type": "missing_module",
        "field": "module",
        "message": f"the module {wanted!r} was not sent along",
        "severity": "error",
        "available_alternatives": [guess] if guess else sorted(artifacts)[:20],
    }
    return AgentInvalid(
        f"the module {wanted!r} of the agent is missing",
        why="it must be deployed together with the agent file",
        fix=f"Did you mean {guess!r}?" if guess else "Send the module as an artifact.",
        details={"problems": [problem]},
    )
