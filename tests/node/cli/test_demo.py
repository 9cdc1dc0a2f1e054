"""The demo starts processes only to end them, and says why when it cannot."""

import contextlib
import json
import os
import shlex
import signal
import sys
import tempfile
from pathlib import Path

import pytest

import node
from node.cli import demo_cluster
from node.cli.demo_cluster import (
    LOG_TAIL_LINES,
    DemoCluster,
    DemoNode,
    caxton_command,
    child_environment,
    log_tail,
    signals_as_interrupts,
    signals_held,
    temporary_cluster,
)
from node.errors import NodeUnreachable


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    directory = tmp_path / "temporary"
    directory.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    return directory


def child(monkeypatch, program):
    """Let nodes be this Python program."""
    monkeypatch.setattr(demo_cluster, "caxton_command", lambda: (sys.executable, "-c", program))


READY = """
import json, pathlib, sys, time
path = pathlib.Path(sys.argv[sys.argv.index("--ready-file") + 1])
facts = {"api": "http://127.0.0.1:1", "gossip": ["127.0.0.1", 7], "data_dir": "/d"}
path.with_suffix(".part").write_text(json.dumps(facts))
path.with_suffix(".part").rename(path)
print(sys.argv[1:], flush=True)
time.sleep(60)
"""


def alive(pid):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


def test_a_node_that_does_not_start_is_shown_with_the_end_of_its_log(monkeypatch, shell, temporary):
    child(monkeypatch, "print('\\n'.join(f'line {n}' for n in range(50)), flush=True); raise SystemExit(7)")
    assert shell("demo") == NodeUnreachable.exit_code
    assert "node-1 did not start" in shell.err
    assert "status 7" in shell.err
    assert "line 49" in shell.err
    assert f"line {49 - LOG_TAIL_LINES}\n" not in shell.err
    assert list(temporary.iterdir()) == []


def test_programs_get_the_same_as_one_document(monkeypatch, shell):
    child(monkeypatch, "raise SystemExit('no port is free')")
    found = shell.json("demo")
    assert found["error"]["code"] == "NODE_UNREACHABLE"
    assert found["error"]["details"]["log"] == ["no port is free"]


def test_a_node_that_is_never_ready_is_given_up(monkeypatch, shell, temporary):
    monkeypatch.setattr(demo_cluster, "READY_S", 0.1)
    child(monkeypatch, "import time; time.sleep(60)")
    assert shell("demo") == NodeUnreachable.exit_code
    assert "not ready after" in shell.err
    assert "(nothing)" in shell.err
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize(
    "arguments", [("--nodes", "2"), ("--nodes", "13"), ("--nodes", "x"), ("--node", "3")]
)
def test_impossible_wishes_are_refused(shell, arguments):
    assert shell("demo", *arguments) == 2
    assert "caxton demo --help" in shell.err


def test_the_others_join_through_the_first(monkeypatch):
    child(monkeypatch, READY)
    with temporary_cluster(["a", "b", "c"]) as cluster:
        cluster.start()
        logs = [node_.log.read_text() for node_ in cluster.nodes]
        assert ["'--seed', '127.0.0.1:7'" in log for log in logs] == [False, True, True]
        assert all(node_.is_ready and alive(node_.pid) for node_ in cluster.nodes)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_whatever_happens_processes_and_files_are_gone(monkeypatch, temporary, error):
    child(monkeypatch, READY)
    pids = []

    def run_into_it():
        with temporary_cluster(["a", "b"]) as cluster:
            cluster.start()
            pids.extend(node_.pid for node_ in cluster.nodes)
            raise error

    with pytest.raises(error):
        run_into_it()
    assert len(pids) == 2
    assert not any(map(alive, pids))
    assert list(temporary.iterdir()) == []


def test_a_cluster_that_is_kept_runs_on(monkeypatch, temporary):
    child(monkeypatch, READY)
    with temporary_cluster(["a"]) as cluster:
        cluster.start()
        cluster.keep()
    [only] = cluster.nodes
    assert alive(only.pid)
    assert [path.name for path in temporary.iterdir()] == [cluster.directory.name]
    assert cluster.directory.stat().st_mode & 0o777 == 0o700
    cluster.close()
    assert not alive(only.pid)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_every_polite_end_is_an_interrupt(number):
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), signals_as_interrupts():
        signal.raise_signal(number)
    assert signal.getsignal(number) == before


def test_an_interrupt_waits_until_what_was_begun_is_done():
    done = []

    def start_a_process():
        with signals_held():
            signal.raise_signal(signal.SIGTERM)
            done.append("process noted")
        done.append("never")

    with pytest.raises(KeyboardInterrupt), signals_as_interrupts():
        start_a_process()
    assert done == ["process noted"]


def test_nodes_do_not_inherit_the_settings_of_the_user(tmp_path):
    environ = {"CAXTON_SERVER__PORT": "1", "CAXTON_API": "x", "PATH": "/bin", "PYTHONPATH": "/mine"}
    found = child_environment(environ, tmp_path)
    assert not [key for key in found if key.startswith("CAXTON_")]
    assert found["XDG_STATE_HOME"] == str(tmp_path / "state")
    assert found["PATH"] == "/bin"


def test_nodes_import_caxton_from_where_we_did_and_never_from_the_working_directory(monkeypatch, tmp_path):
    assert "-P" in caxton_command()
    root = str(Path(node.__file__).parent.parent)
    found = child_environment({"PYTHONPATH": "/mine"}, tmp_path)
    assert found["PYTHONPATH"].split(os.pathsep) == [root, "/mine"]
    monkeypatch.setattr(demo_cluster.sysconfig, "get_path", lambda _: root)
    assert "PYTHONPATH" not in child_environment({}, tmp_path)


def test_the_end_of_a_log_is_fit_for_a_terminal(tmp_path):
    log = tmp_path / "node.log"
    assert log_tail(log) == []
    log.write_bytes(b"x" * 100_000 + b"\n\n\x1b[2Jevil\xff\n")
    first, last = log_tail(log)
    assert len(first) < 10_000
    assert last == "\ufffd[2Jevil\ufffd"


def test_a_node_is_not_started_twice_in_one_place(tmp_path):
    found = DemoNode("a", tmp_path / "node.yaml", tmp_path, "t")
    assert found.pid is None
    with pytest.raises(FileExistsError):
        found.start()


def test_commands_of_a_kept_cluster_survive_a_shell(tmp_path):
    from node.cli.demo import _kept  # noqa: PLC0415 - the verb's module is imported on use

    directory = tmp_path / "with space"
    nodes = tuple(
        DemoNode(f"node-{n}", tmp_path / "c", tmp_path / f"n{n}", "t", api=f"http://127.0.0.1:{n}")
        for n in (1, 2, 3)
    )
    cluster = DemoCluster(directory, nodes, directory / "admin.token")
    found = json.loads(json.dumps(_kept(cluster, "data.csv", "node-2")))
    assert [entry["name"] for entry in found["nodes"]] == ["node-1", "node-3"]
    words = shlex.split(found["commands"]["send"])
    assert json.loads(words[words.index("--attach") + 2]) == {"action": "analyze", "file": "data.csv"}
    assert words[-1] == str(cluster.token_file)
    assert len(found["commands"]["stop"]) == 2


def test_a_node_that_ends_by_itself_explains_more_than_its_silence(monkeypatch):
    dies = READY.replace("time.sleep(60)", "print('out of memory', flush=True); raise SystemExit(9)")
    child(monkeypatch, dies)
    with temporary_cluster(["a", "b"]) as cluster:
        cluster.start()
        for node_ in cluster.nodes:
            node_.process.wait(10)
        cluster.nodes[0].killed = True
        with pytest.raises(NodeUnreachable, match="the node b ended by itself") as caught:
            cluster.check()
        assert "out of memory" in caught.value.why
        cluster.nodes[1].killed = True
        cluster.check()
