"""Signed manifests: who answers for a WebAssembly module, and for how much.

A manifest is a YAML file beside the module, ``echo.wasm.manifest.yaml`` for ``echo.wasm``. It names the
module by its SHA-256, and the most that an agent of it may offer, ask for and use; ``caxton wasm sign``
writes it. What is signed are its values in one canonical form, not the bytes of the file, so that blanks and
the order of keys do not matter, and what has been verified is exactly what is then used.

An agent file beside the module may ask for less than the manifest, never for more. A module that is
deployed without an agent file is what its manifest says.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal

import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from node.agents.definition import AgentDefinition, is_version, normalise_name
from node.agents.grants import Grant
from node.errors import ArtifactUntrusted, ValidationFailed
from node.message import check_capability
from node.security.artifacts import ArtifactTrust, is_signed, public_key_hex, sign_artifact
from node.wording import said_of

MANIFEST_LIMIT_BYTES: Final = 16 * 1024
"""Largest manifest."""
CAPABILITIES_LIMIT: Final = 64
"""Most capabilities of a manifest."""
TOOLS_LIMIT: Final = 64
"""Most tools and tool servers of a manifest."""
SUFFIX: Final = ".manifest.yaml"
"""What is appended to a module's file name."""

_TIME: Final = "%Y-%m-%dT%H:%M:%SZ"
_Hex32 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Moment = Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]
_Capability = Annotated[str, Field(min_length=1, max_length=128)]
_Tool = Annotated[str, Field(min_length=1, max_length=128)]
_Scopes = Annotated[list[Literal["agent-only", "workspace", "global"]], Field(min_length=1, max_length=3)]
_NEW: Final = ("tools", "memory_read", "memory_write")
"""Fields that manifests did not have from the beginning."""
Reason = Literal[
    "unsigned", "manifest", "signature", "unknown_key", "expired", "module", "identity", "exceeded"
]
"""Why an artifact is refused, for programs."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Limits(_Strict):
    """The most that an agent may be given, as in the group ``wasm`` of agent files; None for the node's own.

    Attributes:
        fuel: Instructions for one message.
        timeout: Seconds for one message.
        memory: Bytes of an instance.
        host_calls: Host calls for one message.
        messages_per_second: Messages to others in a second.
        instances: Messages handled at once.
    """

    fuel: Annotated[int, Field(ge=1, le=10**12)] | None = None
    timeout: Annotated[float, Field(gt=0, le=86_400)] | None = None
    memory: Annotated[int, Field(ge=1, le=2**40)] | None = None
    host_calls: Annotated[int, Field(ge=1, le=1_000)] | None = None
    messages_per_second: Annotated[int, Field(ge=1, le=10_000)] | None = None
    instances: Annotated[int, Field(ge=1, le=4)] | None = None


class Manifest(_Strict):
    """What a signer says of a module.

    Attributes:
        name: Of the agent.
        version: Semantic version of the agent.
        sha256: Of the module's file, in hexadecimal.
        capabilities: What it may offer.
        grants: What it may be granted.
        tools: Tool servers and tools that it may call, with the grant ``tools``.
        memory_read: Scopes of the memory that it may search, with the grant ``memory``.
        memory_write: Scopes of the memory that it may store in, with the grant ``memory``.
        limits: What it may use.
        language: What it was written in; for people.
        signed: When, in UTC.
        expires: When it may no longer be deployed, in UTC; None for never.
    """

    name: Annotated[str, Field(min_length=3, max_length=64)]
    version: Annotated[str, Field(min_length=1, max_length=64)]
    sha256: _Hex32
    capabilities: Annotated[list[_Capability], Field(max_length=CAPABILITIES_LIMIT)] = []
    grants: Annotated[list[str], Field(max_length=len(Grant))] = []
    tools: Annotated[list[_Tool], Field(max_length=TOOLS_LIMIT)] = []
    memory_read: _Scopes = ["agent-only"]
    memory_write: _Scopes = ["agent-only"]
    limits: Limits = Limits()
    language: Annotated[str, Field(max_length=32)] = ""
    signed: _Moment
    expires: _Moment | None = None

    def statement(self) -> bytes:
        """The bytes that are signed."""
        values = self.model_dump()
        for name in _NEW:  # what says nothing is not signed, so that older signatures stay good
            if values[name] == Manifest.model_fields[name].default:
                del values[name]
        return json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


class _Signature(_Strict):
    key: _Hex32
    value: Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]


class _File(_Strict):
    manifest: Manifest
    signature: _Signature


@dataclass(frozen=True, slots=True)
class Signed:
    """A manifest whose signature has been verified.

    Args:
        manifest: What it says.
        key: The signer's public key, in hexadecimal.
        signer: Whose key that is; empty for one that nobody vouches for.
    """

    manifest: Manifest
    key: str
    signer: str = ""

    def as_json(self) -> dict[str, Any]:
        """Who signed it, and until when, as the public API shows it."""
        return {"key": self.key, "signer": self.signer or None, "expires": self.manifest.expires}

    def __str__(self) -> str:
        """Who signed it, for people."""
        return f"{self.key[:16]} ({self.signer or 'a key that is not trusted here'})"


def new_manifest(*, module: bytes, **said: Any) -> Manifest:
    """What there is to be signed of a module.

    Args:
        module: The module's file.
        said: The other fields of :class:`Manifest`.

    Raises:
        ValidationFailed: no manifest can say that.
    """
    try:
        manifest = Manifest.model_validate(said | {"sha256": hashlib.sha256(module).hexdigest()})
        _check(manifest)
    except ValidationError as error:
        raise ValidationFailed("this cannot be signed", why=_malformed(error).why) from None
    except ArtifactUntrusted as error:
        raise ValidationFailed("this cannot be signed", why=error.why) from None
    return manifest


def sign_manifest(manifest: Manifest, key: Ed25519PrivateKey) -> bytes:
    """A manifest file."""
    signature = {"key": public_key_hex(key), "value": sign_artifact(key, manifest.statement())}
    values = {"manifest": manifest.model_dump(exclude_defaults=True), "signature": signature}
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True).encode()


def read_signed(raw: bytes, module: bytes, trust: ArtifactTrust) -> Signed:
    """Read a manifest file, and verify that it is signed and of this module.

    Args:
        raw: The file.
        module: The module's file.
        trust: Whose signature counts. Where none is required, anybody's does: it proves that nothing changed.

    Raises:
        ArtifactUntrusted: it cannot be read, was changed, is of another module, or its key is not trusted.
    """
    file = _read(raw)
    manifest, key = file.manifest, file.signature.key
    if not is_signed(key, file.signature.value, manifest.statement()):
        raise refused("signature", "the manifest or its signature was changed after it was signed")
    if trust.required and key not in trust.keys:
        raise refused("unknown_key", f"it is signed by {key}, which this node does not trust")
    found = hashlib.sha256(module).hexdigest()
    if found != manifest.sha256:
        raise refused(
            "module", f"the module was changed: its SHA-256 is {found}, signed was {manifest.sha256}"
        )
    _check(manifest)
    return Signed(manifest, key, trust.keys.get(key, ""))


def check_expiry(manifest: Manifest, now_s: float) -> None:
    """Refuse a manifest that is no longer to be deployed.

    Args:
        manifest: The manifest.
        now_s: Unix time in seconds.

    Raises:
        ArtifactUntrusted: it has expired.
    """
    if manifest.expires is not None and now_s >= _seconds(manifest.expires):
        raise refused("expired", f"the signature was good until {manifest.expires}")


def definition_of(manifest: Manifest, module: str | None) -> AgentDefinition:
    """The agent that a module without an agent file is; its grants are all that are signed."""
    return AgentDefinition(
        id=normalise_name(manifest.name),
        name=manifest.name,
        version=manifest.version,
        capabilities=tuple(dict.fromkeys(manifest.capabilities)),
        tools=tuple(manifest.tools),
        runtime="wasm",
        module=module,
        memory_scope=manifest.memory_write[0],
        groups={
            "wasm": {"grants": tuple(manifest.grants), "memory_read": tuple(manifest.memory_read)}
            | _given(manifest.limits)
        },
    )


def within(definition: AgentDefinition, manifest: Manifest) -> AgentDefinition:
    """An agent file held against the manifest of its module; its limits become the lower of both.

    Raises:
        ArtifactUntrusted: it has another name or version, or asks for more than is signed.
    """
    said = (normalise_name(manifest.name), manifest.version)
    if (definition.id, definition.version) != said:
        found = f"{definition.id} {definition.version}"
        raise refused("identity", f"the agent is {found}, signed is {said[0]} {said[1]}")
    group = definition.groups.get("wasm", {})
    reads, writes = memory_scopes(definition)
    for what, asked, signed in (
        ("capabilities", definition.capabilities, manifest.capabilities),
        ("wasm.grants", tuple(group.get("grants", ())), manifest.grants),
        ("tools", definition.tools, manifest.tools),
        ("wasm.memory_read", reads, manifest.memory_read),
        ("memory_scope", writes, manifest.memory_write),
    ):
        more = [name for name in asked if name not in signed]
        if what == "tools":  # a server has all of its tools
            more = [name for name in more if name.partition("/")[0] not in signed]
        if more:
            raise refused(
                "exceeded", f"the agent file asks for {what} that are not signed: {', '.join(more)}"
            )
    limits = {name: min(group.get(name, limit), limit) for name, limit in _given(manifest.limits).items()}
    return replace(definition, groups={**definition.groups, "wasm": {**group, **limits}})


def memory_scopes(definition: AgentDefinition) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The scopes of the memory that an agent file has its module search, and store in."""
    group = definition.groups.get("wasm", {})
    if Grant.MEMORY not in group.get("grants", ()):
        return (), ()
    return group.get("memory_read") or (definition.memory_scope,), (definition.memory_scope,)


def refused(reason: Reason, why: str) -> ArtifactUntrusted:
    """The error of an artifact that is not taken."""
    return ArtifactUntrusted(
        "the WebAssembly module is not taken",
        why=why,
        fix=_FIXES.get(
            reason, "Sign the files as they are with `caxton wasm sign`, and deploy them together."
        ),
        details={"reason": reason},
    )


def utc(at_s: float) -> str:
    """A moment as manifests write it.

    Args:
        at_s: Unix time in seconds.
    """
    return datetime.fromtimestamp(int(at_s), UTC).strftime(_TIME)


def _read(raw: bytes) -> _File:
    if len(raw) > MANIFEST_LIMIT_BYTES:
        raise refused(
            "manifest", f"the manifest has {len(raw):,} bytes; at most {MANIFEST_LIMIT_BYTES:,} are read"
        )
    try:
        return _File.model_validate(yaml.safe_load(raw))
    except ValidationError as error:
        raise _malformed(error) from None
    except (yaml.YAMLError, ValueError, RecursionError):
        raise refused("manifest", "the manifest is not YAML") from None


def _malformed(error: ValidationError) -> ArtifactUntrusted:
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part)[:80] for part in first["loc"]) or "the manifest"
    return refused("manifest", f"{where}: {said_of(first)}")


def _check(manifest: Manifest) -> None:
    """What types cannot say."""
    try:
        normalise_name(manifest.name)
        if not is_version(manifest.version):
            raise refused("manifest", f"{manifest.version!r} is no semantic version")
        for name in manifest.capabilities:
            check_capability(name)
        for name in manifest.grants:
            Grant(name)
        for moment in (manifest.signed, manifest.expires or manifest.signed):
            _seconds(moment)
    except ValidationFailed as error:
        raise refused("manifest", f"{error.what}: {error.why}") from None
    except ValueError as error:
        raise refused("manifest", str(error)) from None


def _seconds(moment: str) -> float:
    return datetime.strptime(moment, _TIME).replace(tzinfo=UTC).timestamp()


def _given(limits: Limits) -> dict[str, Any]:
    return limits.model_dump(exclude_none=True)


_FIXES: Final[dict[str, str]] = {
    "unsigned": "Sign it with `caxton wasm sign FILE --key KEY`, or see security.agents.require_signed.",
    "unknown_key": "Add the key to security.agents.trusted_keys, if you trust it, or sign with one that is.",
    "expired": "Sign it again.",
}
