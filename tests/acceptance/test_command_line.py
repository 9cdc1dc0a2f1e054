"""What a user meets first: ``caxton start`` without anything, and ``caxton init``."""

import json
import socket
import subprocess

import pytest

from tests.acceptance.agents import ECHO
from tests.acceptance.processes import CAXTON, caxton, clean_environment, eventually

DEFAULT_PORTS = (8080, 7946, 7947)


def _is_free(port):
    with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
        try:
            tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tcp.bind(("127.0.0.1", port))
            udp.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@pytest.fixture
def bare_node(tmp_path):
    """``caxton start`` with no file and no flag, as a user who has nothing yet; the user's home."""
    taken = [port for port in DEFAULT_PORTS if not _is_free(port)]
    if taken:
        pytest.skip(f"the default ports {taken} are taken on this machine")
    with (tmp_path / "out").open("wb") as out, (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [*CAXTON, "start"],
            stdout=out,
            stderr=log,
            stdin=subprocess.DEVNULL,
            cwd=tmp_path,
            env=clean_environment(tmp_path),
        )
    try:
        eventually(
            lambda: process.poll() is not None or b"is ready" in (tmp_path / "out").read_bytes(), within=40
        )
        assert process.poll() is None, (tmp_path / "log").read_text()
        yield tmp_path, process
    finally:
        process.kill()
        process.wait(10)
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_bare_start_works_and_so_do_the_verbs_without_flags(bare_node):
    home, process = bare_node
    assert "majority" in caxton("status", home=home).stdout
    assert "echo" in caxton("deploy", ECHO, home=home).stdout
    reply = json.loads(caxton("send", "--capability", "echo", "--json", '{"a": 1}', home=home).stdout)[
        "reply"
    ]
    assert reply["performative"] == "inform"
    assert reply["content"]["echo"] == {"a": 1}
    assert "EchoAgent" in caxton("status", "--cluster", home=home).stdout.replace("echo-agent", "EchoAgent")
    assert "EchoAgent" in caxton("logs", home=home).stdout
    assert "stopped" in caxton("stop", home=home).stdout
    assert process.wait(30) == 0
    missing = caxton("status", home=home, check=False)
    assert missing.returncode == 3
    assert "caxton start" in missing.stderr
    assert sorted(path.name for path in home.iterdir()) == ["log", "out", "state"], (
        "only the state directory is used"
    )


def test_init_makes_a_cluster_once_and_adds_nodes_for_ever(tmp_path):
    directory = tmp_path / "cluster"
    caxton("init", directory, home=tmp_path)
    kept = {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}
    assert {"ca.crt", "ca.key", "gossip.key", "admin.token"} <= kept.keys()

    again = caxton("init", directory, home=tmp_path, check=False)
    assert again.returncode == 2
    assert "--node" in again.stderr

    caxton("init", directory, "--node", "a", home=tmp_path)
    caxton("init", directory, "--node", "b", "--node", "c", home=tmp_path)
    key = (directory / "nodes" / "a" / "node.key").read_bytes()
    same = caxton("init", directory, "--node", "a", home=tmp_path, check=False)
    assert same.returncode == 2
    assert "exists already" in same.stderr
    assert (directory / "nodes" / "a" / "node.key").read_bytes() == key
    assert sorted(path.name for path in (directory / "nodes").iterdir()) == ["a", "b", "c"]
    assert kept == {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}
    for secret in (directory / "ca.key", directory / "admin.token", directory / "nodes" / "a" / "node.key"):
        assert secret.stat().st_mode & 0o077 == 0, f"{secret} can be read by others"


def test_a_misspelt_verb_is_answered_with_the_right_one(tmp_path):
    done = caxton("strat", home=tmp_path, check=False)
    assert done.returncode == 2
    assert "start" in done.stderr
