"""Only what was signed is deployed, and it gets no more than was signed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from trio.testing import MockClock

from node.agents.blueprint import read_blueprint
from node.agents.settings import AgentSettings
from node.agents.wasm import WasmPolicy
from node.agents.wasm.manifest import MANIFEST_LIMIT_BYTES, SUFFIX, new_manifest, sign_manifest
from node.cli.deploy import MANIFEST_SUFFIX
from node.config.model import AgentSecurityConfig, SecurityConfig
from node.errors import ArtifactUntrusted, ValidationFailed
from node.security.artifacts import AUTHORITY, CONFIGURED, ArtifactTrust, public_key_hex
from swim.identity import domain
from tests.node.agents.rooms import MemoryStore, Rooms, rooms

ECHO = (Path(__file__).parents[4] / "configs" / "agents" / "echo.wat").read_bytes()
KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(31) + b"\1")
TRUST = ArtifactTrust(True, {public_key_hex(KEY): CONFIGURED})
SIGNED: Mapping[str, Any] = {
    "name": "echo-agent",
    "version": "1.2.0",
    "capabilities": ["echo"],
    "grants": ["clock"],
    "signed": "2023-11-14T00:00:00Z",
}


def manifest(key: Ed25519PrivateKey = KEY, module: bytes = ECHO, **more: Any) -> bytes:
    return sign_manifest(new_manifest(module=module, **{**SIGNED, **more}), key)


def agent(*, version: str = "1.2.0", capabilities: str = "echo", more: str = "") -> bytes:
    return (
        f"---\nname: EchoAgent\nversion: {version}\ncapabilities: [{capabilities}]\nruntime: wasm\n"
        f"module: echo.wat\n{more}---\n"
    ).encode()


async def deploy(here: Rooms, signed: bytes | None, content: bytes | None = None, **more: Any) -> Any:
    files = {"echo.wat": ECHO} | ({} if signed is None else {"echo.wat" + SUFFIX: signed})
    return await here.supervisor.deploy(content or agent(), artifacts=files, **more)


async def reason(
    signed: bytes | None, content: bytes | None = None, trust: ArtifactTrust = TRUST, **more: Any
) -> str:
    """Why it is refused, and that nothing of it is left."""
    async with rooms(settings=AgentSettings(trust=trust)) as here:
        with pytest.raises(ArtifactUntrusted) as caught:
            await deploy(here, signed, content, **more)
        assert here.supervisor.list() == []
        assert here.bus.handlers == {}
    assert caught.value.why
    assert caught.value.fix
    return str(caught.value.details["reason"])


async def test_a_signed_agent_is_deployed_and_its_log_says_by_whom() -> None:
    async with rooms(settings=AgentSettings(trust=TRUST)) as here:
        info = await deploy(here, manifest())
        assert info.status == "running"
        [first, *_] = here.supervisor.logs("echo-agent")
        logged = [record.text for record in here.supervisor.logs("echo-agent")]
        assert f"deployed version 1.2.0, signed by {public_key_hex(KEY)[:16]} ({CONFIGURED})" in logged, first


async def test_who_signed_an_agent_is_shown_after_a_restart_too() -> None:
    store = MemoryStore()
    async with rooms(store, settings=AgentSettings(trust=TRUST)) as here:
        info = await deploy(here, manifest(expires="2030-01-01T00:00:00Z"))
        shown = {"key": public_key_hex(KEY), "signer": CONFIGURED, "expires": "2030-01-01T00:00:00Z"}
        assert info.as_json()["signature"] == shown
    async with rooms(store) as here:  # a node that takes any module, and trusts nobody
        assert here.supervisor.get("echo-agent").as_json()["signature"] == shown | {"signer": None}
        unsigned = await deploy(here, None, replace=True)
        assert unsigned.as_json()["signature"] is None


async def test_blanks_and_the_order_of_keys_do_not_matter() -> None:
    values = yaml.safe_load(manifest())
    values["manifest"] = dict(reversed(values["manifest"].items()))
    text = "# looked at\n" + yaml.safe_dump(values, sort_keys=False, default_flow_style=True, width=40)
    async with rooms(settings=AgentSettings(trust=TRUST)) as here:
        assert (await deploy(here, text.encode())).status == "running"


async def test_what_is_not_signed_is_refused_where_it_must_be_and_taken_elsewhere() -> None:
    assert await reason(None) == "unsigned"
    async with rooms() as here:
        assert (await deploy(here, None)).status == "running"


async def test_a_module_alone_needs_a_signature_too_and_is_then_what_it_says() -> None:
    async with rooms(settings=AgentSettings(trust=TRUST)) as here:
        for name in ("", "echo.wat"):
            with pytest.raises(ArtifactUntrusted, match="signed modules only"):
                await here.supervisor.deploy(ECHO, filename=name, artifacts={SUFFIX: manifest()})
        info = await here.supervisor.deploy(
            ECHO, filename="echo.wat", artifacts={"echo.wat" + SUFFIX: manifest(name="SignedEcho")}
        )
        assert (info.id, info.version, info.capabilities) == ("signed-echo", "1.2.0", ("echo",))
        with pytest.raises(ArtifactUntrusted, match="the agent is another"):
            await here.supervisor.deploy(
                ECHO, filename="echo.wat", artifacts={"echo.wat" + SUFFIX: manifest()}, name="another"
            )


async def test_a_signed_module_without_capabilities_is_asked_for_them() -> None:
    async with rooms(settings=AgentSettings(trust=TRUST)) as here:
        files = {"echo.wat" + SUFFIX: manifest(capabilities=[])}
        assert (await here.supervisor.deploy(ECHO, filename="echo.wat", artifacts=files)).capabilities == (
            "echo",
        )


async def test_a_changed_module_is_refused_wherever_it_is_deployed() -> None:
    changed = manifest(module=ECHO + b" ")
    assert await reason(changed) == "module"
    assert await reason(changed, trust=ArtifactTrust()) == "module"


@pytest.mark.parametrize(
    "field", ["name", "version", "sha256", "capabilities", "grants", "signed", "expires"]
)
async def test_a_changed_manifest_is_refused(field: str) -> None:
    values = yaml.safe_load(manifest(expires="2024-01-01T00:00:00Z"))
    other = yaml.safe_load(
        manifest(
            name="echo-agents",
            version="1.2.1",
            module=b"",
            capabilities=["echo", "more"],
            grants=["clock", "state"],
            signed="2023-11-15T00:00:00Z",
            expires="2025-01-01T00:00:00Z",
        )
    )
    assert values["manifest"][field] != other["manifest"][field]
    values["manifest"][field] = other["manifest"][field]
    assert await reason(yaml.safe_dump(values).encode()) == "signature"


async def test_a_limit_that_was_taken_away_or_raised_is_refused() -> None:
    values = yaml.safe_load(manifest(limits={"fuel": 1000}))
    values["manifest"]["limits"]["fuel"] = 2000
    assert await reason(yaml.safe_dump(values).encode()) == "signature"
    del values["manifest"]["limits"]
    assert await reason(yaml.safe_dump(values).encode()) == "signature"


async def test_a_changed_signature_is_refused() -> None:
    values = yaml.safe_load(manifest())
    value = values["signature"]["value"]
    values["signature"]["value"] = ("0" if value[0] != "0" else "1") + value[1:]
    assert await reason(yaml.safe_dump(values).encode()) == "signature"
    values["signature"] = yaml.safe_load(manifest(version="1.2.1"))["signature"]
    assert await reason(yaml.safe_dump(values).encode()) == "signature"


async def test_nobody_signs_for_a_trusted_key() -> None:
    values = yaml.safe_load(manifest(OTHER))
    values["signature"]["key"] = public_key_hex(KEY)
    assert await reason(yaml.safe_dump(values).encode()) == "signature"


async def test_what_a_key_signed_for_another_purpose_is_no_manifest() -> None:
    values = yaml.safe_load(manifest())
    statement = new_manifest(module=ECHO, **SIGNED).statement()
    for signed in (statement, domain("credential") + statement):
        values["signature"]["value"] = KEY.sign(signed).hex()
        assert await reason(yaml.safe_dump(values).encode()) == "signature"


async def test_an_unknown_key_is_refused_where_a_signature_is_needed_and_named_elsewhere() -> None:
    assert await reason(manifest(OTHER)) == "unknown_key"
    async with rooms() as here:
        await deploy(here, manifest(OTHER))
        logged = [record.text for record in here.supervisor.logs("echo-agent")]
        assert any("not trusted here" in text for text in logged)


async def test_an_expired_signature_is_refused_from_that_second_on(autojump_clock: MockClock) -> None:
    assert await reason(manifest(expires="2023-11-14T22:13:20Z")) == "expired"  # the tests' time begins there
    async with rooms(settings=AgentSettings(trust=TRUST)) as here:
        assert (await deploy(here, manifest(expires="2023-11-14T22:13:21Z"))).status == "running"


@pytest.mark.parametrize("content", [agent(version="1.2.1"), agent().replace(b"EchoAgent", b"EchoAgents")])
async def test_another_name_or_version_is_refused(content: bytes) -> None:
    assert await reason(manifest(), content) == "identity"
    assert await reason(manifest(), agent(), name="another") == "identity"


async def test_an_agent_file_asks_for_no_more_than_is_signed() -> None:
    assert await reason(manifest(), agent(capabilities="echo, more")) == "exceeded"
    assert await reason(manifest(), agent(more="wasm: {grants: [clock, state]}\n")) == "exceeded"
    async with rooms(settings=AgentSettings(trust=TRUST)) as here:
        assert (await deploy(here, manifest(), agent(more="wasm: {grants: [clock]}\n"))).status == "running"


@pytest.mark.parametrize(
    ("asked", "signed", "fuel"),
    [
        ("", 2_000_000, 2_000_000),
        ("fuel: 9000000", 2_000_000, 2_000_000),
        ("fuel: 1000000", 2_000_000, 1_000_000),
    ],
)
def test_the_lower_of_both_limits_holds(asked: str, signed: int, fuel: int) -> None:
    blueprint = read_blueprint(
        agent(more=f"wasm: {{{asked}}}\n"),
        filename="echo.md",
        artifacts={"echo.wat": ECHO, "echo.wat" + SUFFIX: manifest(limits={"fuel": signed, "timeout": 0.5})},
        name=None,
        known_tools=(),
        settings=AgentSettings(trust=TRUST),
    )
    policy = WasmPolicy.of(blueprint.definition, AgentSettings())
    assert (policy.fuel, policy.timeout_s) == (fuel, 0.5)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xff",
        b"manifest",
        b"[" * 8_000,
        b"a: &a [*a]\nmanifest: *a\nsignature: *a\n",
        b"- 1\n",
        b"!!python/object:os.system {}\n",
        b" " * (MANIFEST_LIMIT_BYTES + 1),
        manifest().replace(b"language", b"langauge") + b"  more: 1\n",
        manifest().replace(b"signed: '2023-11-14T00:00:00Z'", b"signed: 2023-11-14"),
        manifest().replace(b"name: echo-agent", b'name: "\\ud800\\ud800\\ud800"'),
        manifest().replace(b"version: 1.2.0", b"version: 1.2"),
    ],
)
async def test_what_is_no_manifest_is_refused_and_says_why(raw: bytes) -> None:
    assert await reason(raw) == "manifest"


@pytest.mark.parametrize(
    "more",
    [
        {"name": "a"},
        {"name": "no_name"},
        {"version": "one"},
        {"capabilities": ["Not Kebab"]},
        {"grants": ["everything"]},
        {"limits": {"fuel": 0}},
        {"limits": {"fule": 1}},
        {"expires": "2023-02-30T00:00:00Z"},
    ],
)
def test_what_no_node_would_take_cannot_be_signed(more: dict[str, Any]) -> None:
    with pytest.raises(ValidationFailed, match="cannot be signed"):
        manifest(**more)


async def test_a_restart_verifies_again_but_an_old_signature_ends_nothing(
    autojump_clock: MockClock,
) -> None:
    store = MemoryStore()
    async with rooms(store, settings=AgentSettings(trust=TRUST)) as here:
        await deploy(here, manifest(expires="2023-11-14T22:13:21Z"))
        autojump_clock.jump(86_400.0)
        await here.supervisor.stop("echo-agent")
        assert (await here.supervisor.start("echo-agent")).status == "running"
    withdrawn = ArtifactTrust(True, {public_key_hex(OTHER): CONFIGURED})
    async with rooms(store, settings=AgentSettings(trust=withdrawn)) as here:
        [info] = here.supervisor.list()
        assert info.status == "error"
        assert "does not trust" in info.error
        assert here.bus.handlers == {}


@pytest.mark.parametrize(
    ("wanted", "bundle", "required"),
    [("auto", False, False), ("auto", True, True), ("always", False, True), ("never", True, False)],
)
def test_a_signature_is_needed_in_a_cluster_or_where_the_configuration_says_so(
    wanted: Any, bundle: bool, required: bool
) -> None:
    names = ("ca_cert", "node_cert", "node_key", "credential", "gossip_key", "tokens")
    files = {name: Path(name) for name in names} if bundle else {}
    key = public_key_hex(KEY)
    config = SecurityConfig(agents=AgentSecurityConfig(require_signed=wanted, trusted_keys=(key,)), **files)
    assert ArtifactTrust.of(config, bytes(32)) == ArtifactTrust(
        required, {key: CONFIGURED, bytes(32).hex(): AUTHORITY}
    )


def test_the_command_line_knows_the_name_of_a_manifest() -> None:
    assert MANIFEST_SUFFIX == SUFFIX


ASKS = "tools: [text/text_log]\nmemory_scope: workspace\nwasm: {grants: [memory, tools]}\n"
ALLOWS: Mapping[str, Any] = {
    "grants": ["memory", "tools"],
    "tools": ["text"],
    "memory_read": ["workspace"],
    "memory_write": ["agent-only", "workspace"],
}


@pytest.mark.parametrize("less", [{}, {"tools": ["text/text_summary"]}, {"memory_read": ["agent-only"]}])
async def test_tools_and_scopes_of_the_memory_are_no_more_than_was_signed(less: dict[str, Any]) -> None:
    signed = manifest(**(ALLOWS | less))
    if less:
        assert await reason(signed, agent(more=ASKS)) == "exceeded"
        return
    assert await reason(manifest(**(ALLOWS | {"memory_write": ["global"]})), agent(more=ASKS)) == "exceeded"
    async with rooms(settings=AgentSettings(trust=TRUST)) as here:
        assert (await deploy(here, signed, agent(more=ASKS))).status == "running"


def test_a_module_alone_has_the_tools_and_scopes_that_were_signed() -> None:
    read = read_blueprint(
        ECHO,
        filename="echo.wat",
        artifacts={"echo.wat" + SUFFIX: manifest(**ALLOWS)},
        name=None,
        known_tools=("text",),
        settings=AgentSettings(trust=TRUST),
    ).definition
    assert (read.tools, read.memory_scope) == (("text",), "agent-only")
    assert read.setting("wasm", "memory_read") == ("workspace",)


def test_signatures_from_before_there_were_tools_stay_good() -> None:
    plain = new_manifest(module=ECHO, **SIGNED).statement()
    assert b"tools" not in plain
    assert b"memory_" not in plain.replace(b'"memory":', b"")
    assert b'"tools":["text"]' in new_manifest(module=ECHO, **SIGNED, tools=["text"]).statement()
