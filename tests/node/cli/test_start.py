from __future__ import annotations

import gc
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import trio
import trio.testing

from node.cli import start
from node.cli.local_nodes import local_nodes
from node.errors import AddressInUse
from tests.node.cli.conftest import Shell


@dataclass(frozen=True)
class Ready:
    node: str
    api: tuple[str, int] | None
    gossip: tuple[str, int]
    links: tuple[str, int]
    data_dir: Path
    token_file: Path | None


class FakeNodeModule(ModuleType):
    """Stands where ``node.process`` is: becomes ready, gets a signal, ends when it is told to."""

    def __init__(self) -> None:
        super().__init__("node.process")
        self.configs: list[Any] = []
        self.record: Any = None
        self.announced: list[str] = []
        self.collects: list[bool] = []
        self.error: Exception | None = None
        self.host = "127.0.0.1"
        self.more_signals: list[signal.Signals] = []

    async def run_node(
        self,
        config: Any,
        *,
        environment: Any,
        on_ready: Callable[[Any], None],
        shutdown: trio.Event,
        record: Any,
    ) -> None:
        self.record = record
        self.configs.append(config)
        self.collects = [gc.isenabled()]
        if self.error is not None:
            raise ExceptionGroup("rooms", [self.error])
        address = (self.host, 8080)
        on_ready(
            Ready(
                config.cluster.node_name, address, address, address, config.storage.data_dir, Path("/token")
            )
        )
        self.collects.append(gc.isenabled())
        self.announced = [node.api for node in local_nodes()]
        os.kill(os.getpid(), signal.SIGTERM)
        await shutdown.wait()
        for number in self.more_signals:
            os.kill(os.getpid(), number)
            await trio.testing.wait_all_tasks_blocked()


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeNodeModule]:
    module = FakeNodeModule()
    monkeypatch.setitem(sys.modules, "node.process", module)
    root = logging.getLogger()
    handlers, level, raising = root.handlers[:], root.level, logging.raiseExceptions
    root.handlers = []
    yield module
    root.handlers = handlers
    root.setLevel(level)
    logging.raiseExceptions = raising


def test_a_bare_start_is_ready_announced_and_ends_on_a_signal(
    fake: FakeNodeModule, shell: Shell, tmp_path: Path
) -> None:
    assert shell("start") == 0
    [config] = fake.configs
    assert config.storage.data_dir == tmp_path / "state" / "caxton"
    assert shell.out == f"Node {config.cluster.node_name} is ready; admin API http://127.0.0.1:8080\n"
    assert fake.announced == ["http://127.0.0.1:8080"]
    assert local_nodes() == []


@pytest.mark.parametrize(("same_s", "ended"), [(60.0, []), (0.0, [130, 143])])
def test_a_second_signal_ends_it_at_once_unless_it_is_the_first_told_twice(
    same_s: float,
    ended: list[int],
    fake: FakeNodeModule,
    shell: Shell,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    statuses: list[int] = []
    monkeypatch.setattr(os, "_exit", statuses.append)
    monkeypatch.setattr(start, "SAME_SIGNAL_S", same_s)
    fake.more_signals = [signal.SIGINT, signal.SIGTERM]
    assert shell("start") == 0
    assert statuses == ended


def test_a_variable_with_one_underscore_too_few_is_told(
    fake: FakeNodeModule, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAXTON_SERVER_PORT", "8081")
    assert shell("start") == 0
    assert "CAXTON_SERVER_PORT is no setting" in shell.err
    assert "CAXTON_SERVER__PORT would be one" in shell.err


def test_garbage_is_collected_from_when_the_node_is_ready_and_whatever_ends_it_before(
    fake: FakeNodeModule, shell: Shell
) -> None:
    assert shell("start") == 0
    assert fake.collects == [False, True]
    fake.error = AddressInUse("the port is taken")
    assert shell("start") != 0
    assert fake.collects == [False]
    assert gc.isenabled()
    assert shell("start", "--set", "server.prot=1") != 0
    assert gc.isenabled()


def test_a_recording_is_asked_for_with_its_limit(fake: FakeNodeModule, shell: Shell, tmp_path: Path) -> None:
    assert shell("start") == 0
    assert fake.record is None
    assert shell("start", "--record", str(tmp_path / "a.rec")) == 0
    assert (fake.record.path, fake.record.limit_bytes) == (tmp_path / "a.rec", 256 * 1024**2)
    assert shell("start", "--record", str(tmp_path / "a.rec"), "--record-limit", "1GB") == 0
    assert fake.record.limit_bytes == 1024**3


def test_options_win_and_readiness_is_told_every_way(
    fake: FakeNodeModule, shell: Shell, tmp_path: Path
) -> None:
    reader, writer = os.pipe()
    ready = tmp_path / "ready.json"
    found = shell.json(
        *("start", "--name", "n1", "--port", "0", "--bind", "127.0.0.1:7000", "--seed", "127.0.0.1:7001"),
        *("--data-dir", str(tmp_path / "d"), "--set", "messaging.mailbox_capacity=7"),
        *("--ready-file", str(ready), "--ready-fd", str(writer)),
    )
    [config] = fake.configs
    assert (config.cluster.node_name, config.server.port, config.cluster.bind_port) == ("n1", 0, 7000)
    assert config.cluster.seeds == ("127.0.0.1:7001",)
    assert config.messaging.mailbox_capacity == 7
    assert config.storage.data_dir == tmp_path / "d"
    with os.fdopen(reader) as pipe:
        assert json.loads(pipe.read()) == json.loads(ready.read_text()) == found
    assert (found["node"], found["token_file"], found["pid"]) == ("n1", "/token", os.getpid())


def test_the_ready_file_follows_no_link_that_lies_in_the_way(
    fake: FakeNodeModule, shell: Shell, tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    for name in ("ready", "ready.part"):
        (tmp_path / name).symlink_to(victim)
    assert shell("start", "--ready-file", str(tmp_path / "ready")) == 0
    assert victim.read_text() == "untouched"
    assert json.loads((tmp_path / "ready").read_text())["node"]
    assert (tmp_path / "ready").stat().st_mode & 0o777 == 0o600


def test_a_node_that_listens_everywhere_is_reached_on_loopback(fake: FakeNodeModule, shell: Shell) -> None:
    fake.host = "::"
    assert shell.json("start")["api"] == "http://[::1]:8080"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--bind", "7946"), "HOST:PORT"),
        (("--set", "server.port"), "KEY=VALUE"),
        (("--set", "server.prot=1"), "port"),
        (("--seed", "nowhere"), "seeds"),
        (("--config", "/does/not/exist.yaml"), "exist.yaml"),
        (("--port", "70000"), "70000"),
    ],
)
def test_what_cannot_start_says_why(
    arguments: tuple[str, ...], says: str, fake: FakeNodeModule, shell: Shell
) -> None:
    assert shell("start", *arguments) == 2
    assert says in shell.err
    assert fake.configs == []


def test_an_error_of_a_room_is_the_error_of_the_command(fake: FakeNodeModule, shell: Shell) -> None:
    fake.error = AddressInUse("port 8080 is taken", fix="Use --port 0.")
    assert shell("start") == AddressInUse.exit_code
    assert shell.err.startswith("caxton: port 8080 is taken\n")


def test_a_log_file_that_cannot_be_written_is_named(
    fake: FakeNodeModule, shell: Shell, tmp_path: Path
) -> None:
    assert shell("start", "--set", f"observability.logging.file={tmp_path}/no/such/dir.log") == 2
    assert "observability.logging.file" in shell.err
