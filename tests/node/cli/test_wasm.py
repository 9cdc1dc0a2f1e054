"""``caxton wasm``: keys, signatures, and what is deployed with them."""

from __future__ import annotations

import base64
import hashlib
import shutil
from pathlib import Path

import pytest
import yaml

from node.agents.wasm.manifest import SUFFIX, read_signed
from node.environment import system_environment
from node.security.artifacts import ArtifactTrust
from node.security.authority import create_cluster
from tests.node.agents.wasm.guests import guest
from tests.node.cli.conftest import FakeNode, Shell

AGENTS = Path(__file__).parents[3] / "configs" / "agents"


@pytest.fixture
def echo(tmp_path: Path) -> Path:
    for name in ("echo.md", "echo.wat"):
        shutil.copy(AGENTS / name, tmp_path)
    return tmp_path / "echo.md"


def keygen(shell: Shell, path: Path) -> str:
    return str(shell.json("wasm", "keygen", str(path))["public_key"])


def test_what_a_new_key_signs_is_trusted_by_its_public_part(echo: Path, shell: Shell) -> None:
    key = echo.parent / "publisher.key"
    public = keygen(shell, key)
    assert key.stat().st_mode & 0o777 == 0o600
    said = shell.json("wasm", "sign", str(echo), "--key", str(key), "--days", "2", "--language", "wat")
    module = echo.with_suffix(".wat")
    raw = module.with_name(module.name + SUFFIX).read_bytes()
    signed = read_signed(raw, module.read_bytes(), ArtifactTrust(True, {public: "me"}))
    assert (signed.signer, signed.manifest.name, signed.manifest.language) == ("me", "EchoAgent", "wat")
    assert signed.manifest.capabilities == ["echo", "checksum"]
    assert said["expires"] == signed.manifest.expires is not None


def test_the_key_of_a_cluster_signs(echo: Path, shell: Shell, tmp_path: Path) -> None:
    files = create_cluster(tmp_path / "cluster", environment=system_environment())
    assert shell("wasm", "sign", str(echo), "--key", str(files.ca_key)) == 0
    assert "Signed echo.wat as EchoAgent 1.0.0" in shell.out


def test_a_module_alone_is_signed_as_the_options_say(echo: Path, shell: Shell, tmp_path: Path) -> None:
    keygen(shell, tmp_path / "k")
    module = str(echo.with_suffix(".wat"))
    options = ("--name", "TheEcho", "--version", "2.0.0", "--capability", "echo", "--grant", "clock")
    assert shell("wasm", "sign", module, "--key", str(tmp_path / "k"), *options) == 0
    said = yaml.safe_load((tmp_path / f"echo.wat{SUFFIX}").read_text())["manifest"]
    found = said["name"], said["version"], said["capabilities"], said["grants"]
    assert found == ("TheEcho", "2.0.0", ["echo"], ["clock"])
    assert shell("wasm", "sign", str(echo), "--key", str(tmp_path / "k"), "--grant", "clock") == 2


def test_a_key_is_never_overwritten(shell: Shell, tmp_path: Path) -> None:
    keygen(shell, tmp_path / "k")
    before = (tmp_path / "k").read_bytes()
    assert shell("wasm", "keygen", str(tmp_path / "k")) == 2
    assert (tmp_path / "k").read_bytes() == before


@pytest.mark.parametrize("broken", ["no key", "no file", "no module", "configured", "no grant"])
def test_what_cannot_be_signed_leaves_no_manifest(
    broken: str, echo: Path, shell: Shell, tmp_path: Path
) -> None:
    key, file, more = tmp_path / "k", echo, tuple[str, ...]()
    keygen(shell, key)
    if broken == "no key":
        key.write_text("secret?")
    elif broken == "no file":
        echo.unlink()
    elif broken == "no module":
        echo.with_suffix(".wat").unlink()
    elif broken == "configured":
        file = AGENTS / "data_analyzer.md"
    else:
        file, more = echo.with_suffix(".wat"), ("--grant", "everything")
    assert shell("wasm", "sign", str(file), "--key", str(key), *more) == 2
    assert "caxton:" in shell.err
    assert "secret?" not in shell.err
    assert list(tmp_path.glob(f"*{SUFFIX}")) == []


def test_a_manifest_is_deployed_with_its_module(
    echo: Path, shell: Shell, node: FakeNode, tmp_path: Path
) -> None:
    keygen(shell, tmp_path / "k")
    assert shell("wasm", "sign", str(echo), "--key", str(tmp_path / "k")) == 0
    node.answers["POST", "/agents"] = 201, {"name": "echo", "status": "running", "capabilities": []}
    name = f"echo.wat{SUFFIX}"
    for file in (echo, echo.with_suffix(".wat")):
        assert shell("deploy", str(file)) == 0
        sent = node.requests[-1][2]["artifacts"][name]
        assert base64.b64decode(sent) == (tmp_path / name).read_bytes()


def test_inspect_shows_what_a_module_is_and_who_signed_it(echo: Path, shell: Shell, tmp_path: Path) -> None:
    module = str(echo.with_suffix(".wat"))
    found = shell.json("wasm", "inspect", module)
    assert (found["kind"], found["problem"], found["grants"], found["signature"]) == ("core", "", [], None)
    assert "handle_message(i32, i32) -> (i32)" in found["exports"]
    assert "caxton.send_message(i32, i32) -> (i32)" in found["imports"]
    assert found["sha256"] == hashlib.sha256(echo.with_suffix(".wat").read_bytes()).hexdigest()
    public = keygen(shell, tmp_path / "k")
    assert shell("wasm", "sign", str(echo), "--key", str(tmp_path / "k")) == 0
    assert shell("wasm", "inspect", module) == 0
    assert f"signature: by {public} as EchoAgent 1.0.0, grants none" in shell.out


def test_inspect_names_the_grants_that_are_asked_for(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "a.wat").write_bytes(guest(imports=("current_timestamp", "store_data")))
    assert shell.json("wasm", "inspect", str(tmp_path / "a.wat"))["grants"] == ["clock", "state"]


def test_inspect_tells_a_signature_that_is_not_good(echo: Path, shell: Shell, tmp_path: Path) -> None:
    keygen(shell, tmp_path / "k")
    assert shell("wasm", "sign", str(echo), "--key", str(tmp_path / "k")) == 0
    module = echo.with_suffix(".wat")
    module.write_bytes(module.read_bytes() + b"\n")
    assert shell("wasm", "inspect", str(module)) == 1
    assert "signature: not good: the module was changed" in shell.out


@pytest.mark.parametrize(
    ("source", "status", "said"),
    [
        (b"(module)", 1, "does not export"),
        (b'(module (import "env" "x" (func)))', 1, "as an agent:"),
        (b"(component)", 1, "kind: component"),
        (b"(module", 2, "caxton:"),
        (b"\0asm\x01\0\0\0\xff", 2, "caxton:"),
        (b"\xff\xfe", 2, "neither"),
    ],
)
def test_inspect_says_what_is_wrong(
    source: bytes, status: int, said: str, shell: Shell, tmp_path: Path
) -> None:
    (tmp_path / "a.wasm").write_bytes(source)
    assert shell("wasm", "inspect", str(tmp_path / "a.wasm")) == status
    assert said in shell.out + shell.err
