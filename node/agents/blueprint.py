"""Reads what is deployed: an agent file, possibly with a module beside it, or a module alone."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Final

from node.agents.definition import AgentDefinition, normalise_name, parse_definition
from node.agents.settings import AgentSettings
from node.errors import AgentInvalid, ResourceLimitExceeded, ValidationFailed, nearest

ARTIFACTS_LIMIT: Final = 16
"""Most files deployed beside an agent file."""


@dataclass(frozen=True, slots=True)
class Blueprint:
    """What an agent is built from.

    Args:
        definition: The agent file, or what stands in for it when a module is deployed alone.
        module: The WebAssembly module of a wasm agent.
        asks_module: Whether the capabilities must be asked from the module.
    """

    definition: AgentDefinition
    module: bytes | None = None
    asks_module: bool = False

    @property
    def kind(self) -> str:
        """``configured`` or ``wasm``."""
        return "configured" if self.module is None else "wasm"


def read_blueprint(
    content: bytes,
    *,
    filename: str,
    artifacts: Mapping[str, bytes],
    name: str | None,
    known_tools: Collection[str],
    strict: bool,
) -> Blueprint:
    """Read and check; nothing is started.

    Raises:
        AgentInvalid: the agent file has problems, or its module is missing.
        ValidationFailed: the name is none.
    """
    if is_module(content):
        plain = name or re.sub(r"[^A-Za-z0-9]+", "-", PurePosixPath(filename).stem).strip("-")
        definition = AgentDefinition(
            id=normalise_name(plain), name=plain, runtime="wasm", module=PurePosixPath(filename).name or None
        )
        return Blueprint(definition, content, asks_module=True)
    definition = parse_definition(content, known_tools=known_tools, strict=strict)
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
    return Blueprint(definition, module)


def check_sizes(content: bytes, files: Mapping[str, bytes], workspace: str, settings: AgentSettings) -> None:
    """Refuse what is too much to be looked at.

    Raises:
        ResourceLimitExceeded: the agent, its files or their number.
        ValidationFailed: the workspace has no valid name.
    """
    size = sum(len(data) for data in files.values())
    for what, found, limit in (
        ("the agent", len(content), settings.max_content_bytes),
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


def is_module(content: bytes) -> bool:
    """Whether the bytes are WebAssembly, binary or text, rather than an agent file."""
    return content.startswith(b"\0asm") or content[:64].lstrip().startswith((b"(", b";;"))


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
