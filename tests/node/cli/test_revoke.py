"""The key of a node is revoked by the cluster's authority, from the operator's machine."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from node.environment import system_environment
from node.security import authority
from node.security.identity import NodeCredentials, SecurityPaths
from tests.node.cli.conftest import FakeNode, Shell

PATH = "/cluster/revocations"
KEY = "0a" * 20
TAKEN = {
    "node": "alpha",
    "name": "n1",
    "key_id": KEY,
    "since": "2026-01-01T00:00:00.000Z",
    "not_after": "2028",
}


@pytest.fixture
def cluster(tmp_path: Path) -> Path:
    environment = system_environment()
    authority.create_cluster(tmp_path / "cluster", environment=environment, cluster="prod")
    authority.issue_node(tmp_path / "cluster", "n1", environment=environment)
    return tmp_path / "cluster"


def credentials(cluster: Path) -> NodeCredentials:
    return NodeCredentials.load(SecurityPaths.of_bundle(cluster / "nodes" / "n1"), system_environment())


def given(node: FakeNode) -> list[bytes]:
    """The revocations that the node was given."""
    return [base64.b64decode(body["revocation"]) for method, _, body, _ in node.requests if method == "POST"]


def test_a_key_is_revoked_and_the_node_is_told_with_the_clusters_own_token(
    node: FakeNode, shell: Shell, cluster: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CAXTON_TOKEN", raising=False)
    node.answers["POST", PATH] = 200, TAKEN
    assert shell("revoke", str(cluster), "n1") == 0
    assert shell.out.splitlines() == [
        f"The key {KEY} of n1 is revoked since 2026-01-01T00:00:00.000Z",
        "alpha was told, and tells all; who is away learns of it when it is back",
        "Next: caxton keys install: whoever has the key knows the gossip key, too",
    ]
    [encoded] = given(node)
    revoked = credentials(cluster)
    found = revoked.authority.revoke(encoded)
    assert found is not None
    assert (found.name, found.public_key) == ("n1", revoked.public_key)
    token = (cluster / "admin.token").read_text().strip()
    assert node.requests[-1][3] == f"Bearer {token}"
    [file] = (cluster / "revoked").iterdir()
    assert file.name == f"n1-{revoked.key_id[:8]}.revocation"
    assert shell("revoke", "--send", str(file)) == 0
    assert given(node) == [encoded, encoded]
    assert shell.json("revoke", "--send", str(file)) == TAKEN


def test_it_is_signed_offline_and_a_key_that_was_renewed_can_still_be_revoked(
    node: FakeNode, shell: Shell, cluster: Path
) -> None:
    before = credentials(cluster)
    authority.issue_node(cluster, "n1", environment=system_environment(), renew=True)
    [kept] = (cluster / "replaced").iterdir()
    assert shell("revoke", str(cluster), "n1", "--cert", str(kept), "--since", "1h", "--offline") == 0
    file = Path(shell.out.splitlines()[0].removeprefix("Signed: "))
    assert shell.out.splitlines()[1] == f"Next: caxton revoke --send {file}"
    found = before.authority.revoke(base64.b64decode(file.read_bytes()))
    assert found is not None
    assert found.public_key == before.public_key != credentials(cluster).public_key
    assert 3500 < system_environment().clock.wall() - found.since < 3700
    assert shell.json("revoke", str(cluster), "n1", "--offline")["file"].endswith(".revocation")
    assert node.requests == []


def test_what_is_revoked_is_shown(node: FakeNode, shell: Shell) -> None:
    node.answers["GET", PATH] = 200, {"node": "alpha", "revocations": []}
    assert shell("revoke") == 0
    assert shell.out == "alpha knows of no key that is revoked\n"
    found = {"node": "alpha", "revocations": [{key: TAKEN[key] for key in TAKEN if key != "node"}]}
    node.answers["GET", PATH] = 200, found
    assert shell("revoke") == 0
    assert shell.out.splitlines()[-1].split() == ["n1", KEY, "2026-01-01T00:00:00.000Z", "2028"]
    assert shell.json("revoke") == found


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("{cluster}",), "DIRECTORY and NAME"),
        (("--offline",), "need DIRECTORY and NAME"),
        (("{cluster}", "n1", "--send", "{cluster}/cluster.yaml"), "--send FILE alone"),
        (("{cluster}", "n2"), "has no node 'n2'"),
        (("{cluster}", "n2", "--cert", "{cluster}/nodes/n1/node.crt"), "of 'n1', not of 'n2'"),
        (("{cluster}", "n1", "--cert", "{cluster}/cluster.yaml"), "no certificate"),
        (("{cluster}", "n1", "--since", "2999-01-01T00:00:00Z"), "in the future"),
        (("{cluster}", "n1", "--since", "soon"), "soon"),
        (("{cluster}/nodes", "n1"), "holds no cluster"),
    ],
)
def test_what_cannot_be_revoked_is_refused_and_nobody_is_told(
    arguments: tuple[str, ...], said: str, node: FakeNode, shell: Shell, cluster: Path
) -> None:
    assert shell("revoke", *(each.replace("{cluster}", str(cluster)) for each in arguments)) == 2
    assert said in shell.err
    assert node.requests == []
    assert not (cluster / "revoked").exists()


def test_a_file_that_is_no_text_is_refused(node: FakeNode, shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "garbage"
    file.write_bytes(b"\xff\xfe")
    assert shell("revoke", "--send", str(file)) == 2
    assert "is no revocation" in shell.err
    assert node.requests == []
