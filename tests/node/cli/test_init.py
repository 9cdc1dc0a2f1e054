"""What `caxton init` writes, and where the nodes it issues listen."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.node.cli.conftest import Shell


def test_init_writes_a_cluster_and_more_nodes_later(shell: Shell, tmp_path: Path) -> None:
    directory = tmp_path / "cluster"
    found = shell.json(
        "init", str(directory), "--cluster", "test", "--node", "n1", "--seed", "127.0.0.1:7000"
    )
    assert (found["cluster"], found["created"]) == ("test", True)
    assert Path(found["nodes"]["n1"]).is_file()
    assert Path(found["admin_token_file"]).is_file()
    assert shell("init", str(directory), "--node", "n2") == 0
    assert f"Next: caxton start --config {directory}/nodes/n2/node.yaml" in shell.out
    assert shell("init", str(directory), "--node", "n2") == 2
    assert "--renew" in shell.err
    assert shell("init", str(directory)) == 2


def test_init_refuses_another_name_for_the_cluster_that_is_there(shell: Shell, tmp_path: Path) -> None:
    directory = str(tmp_path / "cluster")
    assert shell("init", directory, "--cluster", "here") == 0
    assert shell("init", directory, "--cluster", "there", "--node", "n1") == 2
    assert "'here'" in shell.err
    assert not (tmp_path / "cluster" / "nodes").exists()
    assert shell("init", directory, "--cluster", "here", "--node", "n1") == 0


@pytest.mark.parametrize("seed", ["10.0.0.5", "10.0.0.5:0", "http://a:7946"])
def test_init_writes_nothing_for_a_seed_that_no_node_would_start_with(
    seed: str, shell: Shell, tmp_path: Path
) -> None:
    directory = tmp_path / "cluster"
    assert shell("init", str(directory), "--node", "n1", "--seed", seed) == 2
    assert repr(seed) in shell.err
    assert not directory.exists()


def test_init_says_what_a_node_on_every_address_lacks(shell: Shell, tmp_path: Path) -> None:
    assert shell("init", str(tmp_path), "--node", "a", "--bind-host", "0.0.0.0") == 0
    assert "cluster.advertise_host" in shell.out
    options = ("--bind-host", "0.0.0.0", "--advertise-host", "10.0.0.1")
    assert shell("init", str(tmp_path), "--node", "b", *options) == 0
    assert "cluster.advertise_host" not in shell.out


def node_yaml(directory: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((directory / "nodes" / name / "node.yaml").read_text())
    return found


def ports(directory: Path, name: str) -> tuple[int, int, int]:
    found = node_yaml(directory, name)
    return found["server"]["port"], found["cluster"]["bind_port"], found["cluster"]["link_port"]


def test_nodes_on_loopback_get_ports_of_their_own_and_know_each_other(shell: Shell, tmp_path: Path) -> None:
    found = shell.json("init", str(tmp_path), "--node", "b", "--node", "a")
    assert found["addresses"]["a"] == {
        "http": "127.0.0.1:8081",
        "gossip": "127.0.0.1:7956",
        "links": "127.0.0.1:7957",
    }
    assert shell("init", str(tmp_path), "--node", "c") == 0
    assert "127.0.0.1:8082" in shell.out
    assert [ports(tmp_path, name) for name in "bac"] == [
        (8080, 7946, 7947),
        (8081, 7956, 7957),
        (8082, 7966, 7967),
    ]
    assert [node_yaml(tmp_path, name)["cluster"]["seeds"] for name in "bac"] == [
        [],
        ["127.0.0.1:7946"],
        ["127.0.0.1:7946", "127.0.0.1:7956"],
    ]


def test_no_two_of_many_nodes_share_a_port(shell: Shell, tmp_path: Path) -> None:
    names = [f"n{number}" for number in range(20)]
    assert shell("init", str(tmp_path), *(word for name in names for word in ("--node", name))) == 0
    taken = [port for name in names for port in ports(tmp_path, name)]
    assert len(set(taken)) == len(taken) == 60


def test_a_port_given_up_is_not_given_to_two(shell: Shell, tmp_path: Path) -> None:
    assert shell("init", str(tmp_path), "--node", "a", "--node", "b") == 0
    shutil.rmtree(tmp_path / "nodes" / "a")
    assert shell("init", str(tmp_path), "--node", "c") == 0
    assert not set(ports(tmp_path, "b")) & set(ports(tmp_path, "c"))


def test_renewing_keeps_the_ports_and_named_ones_are_taken(shell: Shell, tmp_path: Path) -> None:
    assert shell("init", str(tmp_path), "--node", "a", "--http-port", "9000", "--seed", "10.0.0.1:7946") == 0
    assert shell("init", str(tmp_path), "--node", "b", "--seed", "10.0.0.1:7946") == 0
    found = shell.json("init", str(tmp_path), "--node", "a", "--renew")
    assert found["addresses"]["a"]["http"] == "127.0.0.1:9000"
    assert (ports(tmp_path, "a"), ports(tmp_path, "b")) == ((9000, 7946, 7947), (8081, 7956, 7957))
    assert node_yaml(tmp_path, "b")["cluster"]["seeds"] == ["10.0.0.1:7946"]


def test_nodes_of_other_machines_have_the_usual_ports_and_no_seed_of_this_one(
    shell: Shell, tmp_path: Path
) -> None:
    assert shell("init", str(tmp_path), "--node", "a") == 0
    assert shell("init", str(tmp_path), "--bind-host", "0.0.0.0", "--node", "b", "--node", "c") == 0
    assert ports(tmp_path, "b") == ports(tmp_path, "c") == (8080, 7946, 7947)
    assert node_yaml(tmp_path, "c")["cluster"]["seeds"] == []


@pytest.mark.parametrize(
    "options",
    [
        ("--bind-host", "0.0.0.0", "--advertise-host", "10.0.0.1"),
        ("--bind-host", "10.0.0.1"),
        ("--http-port", "9000"),
    ],
)
def test_several_nodes_cannot_share_one_address(
    options: tuple[str, ...], shell: Shell, tmp_path: Path
) -> None:
    assert shell("init", str(tmp_path / "c"), "--node", "a", "--node", "b", *options) == 2
    assert "once for each node" in shell.err
    assert not (tmp_path / "c").exists()


def test_a_damaged_bundle_does_not_keep_others_from_being_issued(shell: Shell, tmp_path: Path) -> None:
    assert shell("init", str(tmp_path), "--node", "a") == 0
    for text in ("[", "server: 1", "server: {port: ${PORT}}", "cluster: {bind_port: [1]}"):
        (tmp_path / "nodes" / "a" / "node.yaml").write_text(text)
        assert shell("init", str(tmp_path), "--node", f"n{len(list(tmp_path.glob('nodes/*')))}") == 0
    taken = [port for name in ("n1", "n2", "n3", "n4") for port in ports(tmp_path, name)]
    assert len(set(taken)) == len(taken)
