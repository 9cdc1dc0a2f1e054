"""Real twins on this machine: skipped by name where it lets nobody have a network of his own."""

import csv
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from simulations.twin.cli import CANNOT
from simulations.twin.run import PREFIX, _directory

SCENARIO = """
about: Three nodes, one of which is cut off for a while.
runs: nodes
members: 3
agents: [{agent: witness, takes_s: 0.02}]
workload: {capability: witness, per_s: 5, reply_within_s: 10}
faults:
  - partition: {sides: [[n3], rest], at_s: 4, for_s: 6}
safety_s: 12
bounds: {converge_s: 10}
"""
LINKS = """
import sys, trio
from simulations.links import Change, Rule, separate
from simulations.twin.fabric import Fabric
from simulations.twin.machine import look

def send(fabric, source, target, kind):
    import socket
    with fabric.nodes[target].entered():
        receiver = socket.socket(socket.AF_INET, kind)
    with fabric.nodes[source].entered():
        sender = socket.socket(socket.AF_INET, kind)
    with receiver, sender:
        receiver.bind((fabric.addresses[target], 5000))
        receiver.settimeout(0.5)
        sender.settimeout(0.5)
        try:
            if kind == socket.SOCK_STREAM:
                receiver.listen()
                sender.connect((fabric.addresses[target], 5000))
            else:
                for _ in range(3):
                    sender.sendto(b"x", (fabric.addresses[target], 5000))
                receiver.recv(1)
        except TimeoutError:
            return 0
    return 1

async def main():
    import socket
    fabric, seen = Fabric(["a", "b", "c"], look()), []

    async def told(links):
        fabric.links.clear()
        fabric.links.add(links)
        for name in fabric.nodes:
            await fabric._apply(name)
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            seen.append("".join(str(send(fabric, *pair, kind)) for pair in ("ab", "ba", "ac")))

    await told([])
    await told(separate(["a", "b"], Change(cut=True)))
    await told(separate(["a", "b"], Change(cut=True), one_way=True))
    await told(separate(["a", "b"], Change(cut_datagrams=True)))
    await told([Rule(frozenset("a"), frozenset("b"), Change(loss=1.0))])
    await told([Rule(frozenset("a"), None, Change(capacity_bytes_s=10_000))])
    await told([])
    fabric.close()
    print(*seen)

trio.run(main)
"""


def caxton(*arguments: str) -> list[str]:
    return [sys.executable, "-P", "-m", "node.cli.main", "simulate", "twin", *arguments]


@pytest.fixture(scope="module", autouse=True)
def _able() -> None:
    found = subprocess.run(caxton("--check"), capture_output=True, text=True, check=False)
    if found.returncode == CANNOT:
        lacking = [line for line in found.stdout.splitlines() if line.startswith(("namespaces", "nft"))]
        pytest.skip(f"no real twin here: {'; '.join(lacking)}")
    assert found.returncode == 0, found.stderr


@pytest.fixture
def scenario(tmp_path: Path) -> str:
    file = tmp_path / "cut.yaml"
    file.write_text(SCENARIO, encoding="utf-8")
    return str(file)


def test_the_kernel_does_to_packets_what_the_links_say():
    found = subprocess.run([sys.executable, "-c", LINKS], capture_output=True, text=True, check=False)
    datagrams, streams = found.stdout.split()[::2], found.stdout.split()[1::2]
    assert datagrams == ["111", "001", "011", "001", "011", "111", "111"], found.stderr
    assert streams == ["111", "001", "001", "111", "001", "111", "111"]


@pytest.mark.acceptance
def test_real_nodes_keep_what_simulated_ones_keep_over_a_partition(scenario, tmp_path):
    raw = tmp_path / "raw.csv"
    found = subprocess.run(
        caxton(scenario, "--seed", "2", "--csv", str(raw)), capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.splitlines()[-1].split() == ["properties", *2 * ["all", "held"]]
    with raw.open(encoding="utf-8") as file:
        simulated, real = csv.DictReader(file)
    assert (simulated["system"], real["system"]) == ("simulated", "real")
    assert simulated["accepted"] == real["accepted"] == real["ended_settled"] == "45"
    assert "fault partition begins" in found.stderr


@pytest.mark.acceptance
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_when_it_is_ended(scenario, number, tmp_path):
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(caxton(scenario), stderr=subprocess.PIPE, text=True, env=environment) as twin:
        assert twin.stderr is not None
        for line in twin.stderr:
            if "all see all" in line:
                break
        nodes = Path(f"/proc/{twin.pid}/task/{twin.pid}/children").read_text(encoding="ascii").split()
        twin.send_signal(number)
        twin.wait()
    assert len(nodes) == 3
    while any(is_running(node) for node in nodes):  # whom the kernel has told to end
        time.sleep(0.02)
    left = [path.name for path in tmp_path.glob(f"{PREFIX}*")]
    killed = number == signal.SIGKILL
    assert (twin.returncode, len(left)) == ((-signal.SIGKILL, 1) if killed else (130, 0))


def is_running(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_what_a_killed_run_has_left_is_removed_by_the_next(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for pid in (gone.pid, os.getpid()):
        (tmp_path / f"{PREFIX}{pid}-x" / "run").mkdir(parents=True)
    with _directory() as mine:
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
            [f"{PREFIX}{os.getpid()}-x", mine.name]
        )
    assert [path.name for path in tmp_path.iterdir()] == [f"{PREFIX}{os.getpid()}-x"]
