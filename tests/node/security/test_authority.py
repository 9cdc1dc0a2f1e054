"""What `caxton init` writes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from node.errors import SecurityMaterialInvalid, ValidationFailed
from node.security import authority, pki
from node.security.identity import NodeCredentials, SecurityPaths, ensure_local_cluster
from node.security.tokens import Tokens
from tests.node.security.environments import seeded


def tree(directory: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(directory)): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()
    }


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_a_cluster_and_two_nodes_have_all_their_files_and_modes(tmp_path: Path) -> None:
    environment, _ = seeded()
    files = authority.create_cluster(tmp_path / "c", environment=environment, cluster="prod")
    for name in ("alpha", "beta"):
        authority.issue_node(tmp_path / "c", name, environment=environment)
    assert mode(files.directory) == 0o700
    for secret in (files.ca_key, files.gossip_key, files.admin_token, files.tokens):
        assert mode(secret) == 0o600
    for name in ("alpha", "beta"):
        bundle = tmp_path / "c" / "nodes" / name
        assert sorted(p.name for p in bundle.iterdir()) == [
            "ca.crt", "gossip.key", "node.credential", "node.crt", "node.key", "node.yaml", "tokens.yaml",
        ]  # fmt: skip
        assert mode(bundle / "node.key") == mode(bundle / "gossip.key") == 0o600
    assert yaml.safe_load(files.description.read_text())["cluster"] == "prod"
    assert not list(tmp_path.rglob("*.new"))


def test_modes_hold_under_any_umask(tmp_path: Path) -> None:
    environment, _ = seeded()
    before = os.umask(0)
    try:
        files = authority.create_cluster(tmp_path / "c", environment=environment)
    finally:
        os.umask(before)
    assert mode(files.ca_key) == 0o600
    assert mode(files.directory) == 0o700


def test_nodes_get_the_hash_of_the_admin_token_and_never_the_token(tmp_path: Path) -> None:
    environment, _ = seeded()
    files = authority.create_cluster(tmp_path / "c", environment=environment)
    bundle = authority.issue_node(tmp_path / "c", "alpha", environment=environment)
    token = files.admin_token.read_text().strip()
    assert not [name for name, data in tree(bundle.directory).items() if token.encode() in data]
    assert not [name for name, data in tree(bundle.directory).items() if files.ca_key.read_bytes() in data]
    assert Tokens.load(bundle.tokens).authenticate(token).name == "admin"


def test_the_same_seed_writes_the_same_bytes_and_another_seed_does_not(tmp_path: Path) -> None:
    for directory, seed in (("a", 7), ("b", 7), ("c", 8)):
        environment, _ = seeded(seed, wall=1_800_000_000.5)
        authority.create_cluster(tmp_path / directory, environment=environment)
        authority.issue_node(tmp_path / directory, "alpha", environment=environment)
    assert tree(tmp_path / "a") == tree(tmp_path / "b") != tree(tmp_path / "c")


def test_a_cluster_is_never_overwritten(tmp_path: Path) -> None:
    environment, _ = seeded()
    authority.create_cluster(tmp_path, environment=environment)
    before = tree(tmp_path)
    with pytest.raises(SecurityMaterialInvalid, match="already holds a cluster"):
        authority.create_cluster(tmp_path, environment=environment)
    assert tree(tmp_path) == before


def test_a_node_is_issued_once_and_renewed_only_on_request(tmp_path: Path) -> None:
    environment, _ = seeded()
    authority.create_cluster(tmp_path, environment=environment)
    bundle = authority.issue_node(tmp_path, "alpha", environment=environment)
    bundle.config.write_text(bundle.config.read_text() + "# edited\n")
    before = tree(bundle.directory)
    with pytest.raises(SecurityMaterialInvalid, match="exists already"):
        authority.issue_node(tmp_path, "alpha", environment=environment)
    assert tree(bundle.directory) == before
    authority.issue_node(tmp_path, "alpha", environment=environment, renew=True)
    after = tree(bundle.directory)
    assert after["node.key"] != before["node.key"]
    assert after["node.yaml"] == before["node.yaml"]
    assert NodeCredentials.load(SecurityPaths.of_bundle(bundle.directory), environment).name == "alpha"


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a.b", "../x", "a" * 64, "a b", "ä"])
def test_names_that_no_certificate_could_carry_are_refused(tmp_path: Path, name: str) -> None:
    environment, _ = seeded()
    authority.create_cluster(tmp_path, environment=environment)
    with pytest.raises(ValidationFailed):
        authority.issue_node(tmp_path, name, environment=environment)
    with pytest.raises(ValidationFailed):
        authority.create_cluster(tmp_path / "other", environment=environment, cluster=name)


def test_a_node_of_no_cluster_is_refused_with_what_to_do(tmp_path: Path) -> None:
    environment, _ = seeded()
    with pytest.raises(SecurityMaterialInvalid, match="caxton init"):
        authority.issue_node(tmp_path / "none", "alpha", environment=environment)


def test_settings_end_in_the_node_configuration(tmp_path: Path) -> None:
    environment, _ = seeded()
    authority.create_cluster(tmp_path, environment=environment)
    settings = authority.NodeSettings(
        bind_host="0.0.0.0", advertise_host="10.0.0.5", seeds=["10.0.0.6:7946"], http_port=1, gossip_port=2
    )
    bundle = authority.issue_node(tmp_path, "alpha", environment=environment, settings=settings)
    found = yaml.safe_load(bundle.config.read_text())
    assert found["cluster"]["advertise_host"] == "10.0.0.5"
    assert found["cluster"]["seeds"] == ["10.0.0.6:7946"]
    assert (found["server"]["port"], found["cluster"]["bind_port"]) == (1, 2)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("ca.crt", b"nothing"),
        ("node.crt", b""),
        ("node.key", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"),
        ("node.credential", b"!!!"),
        ("node.credential", b"AAAA"),
        ("gossip.key", b"zz"),
        ("gossip.key", b"00" * 31),
        ("node.crt", b"x" * 100_000),
        ("node.key", None),
    ],
)
def test_a_damaged_bundle_is_an_error_that_names_the_file(
    tmp_path: Path, file: str, content: bytes | None
) -> None:
    environment, _ = seeded()
    authority.create_cluster(tmp_path, environment=environment)
    bundle = authority.issue_node(tmp_path, "alpha", environment=environment)
    path = bundle.directory / file
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(SecurityMaterialInvalid, match=file.replace(".", r"\.")):
        NodeCredentials.load(SecurityPaths.of_bundle(bundle.directory), environment)


@pytest.mark.parametrize("file", ["ca.crt", "node.crt", "node.key", "node.credential"])
def test_files_of_two_bundles_do_not_mix(tmp_path: Path, file: str) -> None:
    environment, _ = seeded()
    for cluster in ("one", "two"):
        authority.create_cluster(tmp_path / cluster, environment=environment)
        authority.issue_node(tmp_path / cluster, "alpha", environment=environment)
    ours, theirs = (tmp_path / c / "nodes" / "alpha" for c in ("one", "two"))
    (ours / file).write_bytes((theirs / file).read_bytes())
    with pytest.raises(SecurityMaterialInvalid):
        NodeCredentials.load(SecurityPaths.of_bundle(ours), environment)


def test_an_expired_bundle_says_so(tmp_path: Path) -> None:
    environment, clock = seeded()
    authority.create_cluster(tmp_path, environment=environment)
    bundle = authority.issue_node(tmp_path, "alpha", environment=environment)
    clock.wall_s += pki.NODE_LIFETIME.total_seconds() + 1
    with pytest.raises(SecurityMaterialInvalid, match="expired"):
        NodeCredentials.load(SecurityPaths.of_bundle(bundle.directory), environment)
    clock.wall_s = 0.0
    with pytest.raises(SecurityMaterialInvalid, match="clock"):
        NodeCredentials.load(SecurityPaths.of_bundle(bundle.directory), environment)


def test_a_local_cluster_is_made_once_and_found_again(tmp_path: Path) -> None:
    environment, _ = seeded()
    paths = ensure_local_cluster(tmp_path / "state" / "cluster", "alpha", environment)
    before = tree(tmp_path)
    assert ensure_local_cluster(tmp_path / "state" / "cluster", "alpha", environment) == paths
    assert tree(tmp_path) == before
    first = NodeCredentials.load(paths, environment)
    second = NodeCredentials.load(
        ensure_local_cluster(tmp_path / "state" / "cluster", "beta", environment), environment
    )
    assert first.ca_fingerprint == second.ca_fingerprint
    assert [p.name for p in (tmp_path / "state").iterdir()] == ["cluster"]


def test_a_directory_in_use_keeps_its_permissions(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home").chmod(0o755)
    (tmp_path / "home" / "file").touch()
    environment, _ = seeded()
    authority.create_cluster(tmp_path / "home", environment=environment)
    assert mode(tmp_path / "home") == 0o755
    assert mode(tmp_path / "home" / "ca.key") == 0o600


def test_a_directory_everybody_may_write_to_holds_no_keys(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "file").touch()
    (tmp_path / "shared").chmod(0o1777)
    environment, _ = seeded()
    with pytest.raises(SecurityMaterialInvalid, match="everybody may write"):
        authority.create_cluster(tmp_path / "shared", environment=environment)
    assert [path.name for path in (tmp_path / "shared").iterdir()] == ["file"]


def test_links_that_lie_in_the_way_are_replaced_and_never_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    (tmp_path / "c").mkdir()
    for name in (".admin.token.new", "admin.token", "tokens.yaml"):
        (tmp_path / "c" / name).symlink_to(victim)
    environment, _ = seeded()
    files = authority.create_cluster(tmp_path / "c", environment=environment)
    assert victim.read_text() == "untouched"
    assert not files.admin_token.is_symlink()
    assert mode(files.admin_token) == 0o600
