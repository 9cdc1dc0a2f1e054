"""``caxton start``: one node, until it is told to stop."""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import math
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from node.cli.errors import UsageFailed
from node.cli.local_nodes import LocalNode, announce, write_private
from node.cli.options import json_option
from node.cli.output import print_json

if TYPE_CHECKING:
    from node.config import NodeConfig
    from node.node import ReadyInfo

_ANYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - read here, never listened on
_log = logging.getLogger(__name__)
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
SAME_SIGNAL_S: Final = 0.5
"""Within this time a second signal is the first one told twice: as by ``timeout`` and ``sudo``, which pass on
what the whole group was sent."""


@click.command("start")
@click.option(
    "--config", "path", type=click.Path(path_type=Path, dir_okay=False), help="Configuration (YAML)."
)
@click.option("--seed", "seeds", multiple=True, metavar="HOST:PORT", help="A member to join; repeatable.")
@click.option("--name", help="The node's name.")
@click.option("--data-dir", type=click.Path(path_type=Path, file_okay=False), help="Where it keeps its data.")
@click.option("--port", type=click.IntRange(0, 65535), help="Port of the admin API; 0 takes a free one.")
@click.option("--bind", metavar="HOST:PORT", help="Where membership listens.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any setting; repeatable.")
@click.option(
    "--ready-file", type=click.Path(path_type=Path, dir_okay=False), help="Written when it is ready."
)
@click.option("--ready-fd", type=click.IntRange(1), help="File descriptor told when it is ready.")
@click.option(
    "--record",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Record what the node's cores are given, for `caxton simulate replay`.",
)
@click.option("--record-limit", default="256MB", show_default=True, metavar="SIZE", help="Longest recording.")
@json_option
def command(
    path: Path | None,
    seeds: tuple[str, ...],
    name: str | None,
    data_dir: Path | None,
    port: int | None,
    bind: str | None,
    settings: tuple[str, ...],
    ready_file: Path | None,
    ready_fd: int | None,
    record: Path | None,
    record_limit: str,
    as_json: bool,
) -> None:
    """Start a node and run it in the foreground.

    Without any option it is alone on this machine, with its data in your state directory. Ctrl-C lets it
    leave its cluster gracefully; a second one ends it at once.
    """
    overrides = _overrides(seeds, name, data_dir, port, bind) | dict(map(_setting, settings))
    with _starting():
        from node.config import load_config, misspelt_variables  # noqa: PLC0415 - not for --help

        config = load_config(path, environ=os.environ, overrides=overrides)
        _configure_logs(config)
        for variable, meant in misspelt_variables(os.environ).items():
            _log.warning("the variable %s is no setting and is left alone; %s would be one", variable, meant)
        limit_bytes = _limit(record_limit)
        told = _Told(config, as_json=as_json, ready_file=ready_file, ready_fd=ready_fd)
        with told.until_the_end():
            _run(config, told.ready, record, limit_bytes)


@contextlib.contextmanager
def _starting() -> Iterator[None]:
    """Collect no garbage until the node is ready: a start makes some hundred thousand objects that stay."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _overrides(
    seeds: tuple[str, ...], name: str | None, data_dir: Path | None, port: int | None, bind: str | None
) -> dict[str, object]:
    found: dict[str, object] = {}
    if seeds:
        found["cluster.seeds"] = list(seeds)
    if name is not None:
        found["cluster.node_name"] = name
    if data_dir is not None:
        found["storage.data_dir"] = str(data_dir.absolute())
    if port is not None:
        found["server.port"] = port
    if bind is not None:
        host, colon, number = bind.rpartition(":")
        if not colon or not number.isascii() or not number.isdigit():
            raise UsageFailed(
                f"--bind {bind[:80]!r} is not HOST:PORT", fix="Write it as 10.0.0.5:7946 or [::1]:7946."
            )
        found |= {"cluster.bind_host": host.strip("[]"), "cluster.bind_port": int(number)}
    return found


def _setting(text: str) -> tuple[str, object]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UsageFailed(f"--set {text[:80]!r} is not KEY=VALUE", fix="Write it as --set server.port=8081.")
    return key, value


def _configure_logs(config: NodeConfig) -> None:
    from node.errors import ConfigInvalid  # noqa: PLC0415
    from node.telemetry.logs import configure_logging  # noqa: PLC0415

    logs = config.observability.logging
    try:
        configure_logging(
            node=config.cluster.node_name,
            level=logs.level,
            as_json=logs.format == "json",
            file=logs.file,
        )
    except OSError as error:
        raise ConfigInvalid(
            f"the log file {logs.file} cannot be opened",
            why=error.strerror or str(error),
            fix="Set observability.logging.file to a path that can be written, or leave it out.",
            details={"key": "observability.logging.file"},
        ) from error


def _limit(text: str) -> int:
    """The bytes that ``--record-limit`` allows."""
    from node.config.units import size_bytes  # noqa: PLC0415 - not for --help
    from node.recording.tape import MIN_LIMIT_BYTES  # noqa: PLC0415

    try:
        limit = size_bytes(text)
    except ValueError as error:
        raise UsageFailed(f"--record-limit {text[:80]!r} {error}", fix="Write it as 256MB or 1GB.") from None
    if limit < MIN_LIMIT_BYTES:
        raise UsageFailed(
            f"--record-limit {text} is too little", fix=f"Allow {MIN_LIMIT_BYTES // 1024}KB or more."
        )
    return limit


def _run(
    config: NodeConfig, on_ready: Callable[[ReadyInfo], None], record: Path | None, limit_bytes: int
) -> None:
    import trio  # noqa: PLC0415

    from node.collector import collect_less_often  # noqa: PLC0415
    from node.environment import system_environment  # noqa: PLC0415
    from node.process import run_node  # noqa: PLC0415 - imports every room
    from node.recording.tape import RecordTo  # noqa: PLC0415

    recording = None if record is None else RecordTo(record, limit_bytes)

    async def until_told() -> None:
        stop = trio.Event()
        async with trio.open_nursery() as nursery:
            await nursery.start(_listen_for_signals, stop)
            await run_node(
                config,
                environment=system_environment(),
                on_ready=on_ready,
                shutdown=stop,
                record=recording,
            )
            nursery.cancel_scope.cancel()

    async def _listen_for_signals(
        stop: trio.Event, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        with trio.open_signal_receiver(*_SIGNALS) as signals:
            task_status.started()
            told_s = math.inf
            async for number in signals:
                if trio.current_time() - told_s >= SAME_SIGNAL_S:
                    os._exit(128 + number)
                told_s = min(told_s, trio.current_time())
                stop.set()

    collect_less_often()
    trio.run(until_told)


@dataclass(slots=True)
class _Told:
    """Says that the node is ready, in every way that was asked for, and takes it back at the end."""

    config: NodeConfig
    as_json: bool
    ready_file: Path | None
    ready_fd: int | None
    _files: tuple[Path, ...] = ()

    def ready(self, info: ReadyInfo) -> None:
        """Called once, when the node takes messages."""
        from node.collector import keep_what_is_there  # noqa: PLC0415 - not for --help

        gc.enable()
        keep_what_is_there()
        api = "" if info.api is None else _url(*info.api)
        found: dict[str, Any] = {
            "node": info.node,
            "api": api,
            "gossip": list(info.gossip),
            "links": list(info.links),
            "data_dir": str(info.data_dir),
            "pid": os.getpid(),
            "token_file": str(info.token_file or _token_file(self.config) or "") or None,
        }
        if api:
            with contextlib.suppress(OSError):  # a read-only home: the verbs then need --api
                node = LocalNode(info.node, api, os.getpid(), found["token_file"])
                self._files = (*self._files, announce(node))
        line = json.dumps(found) + "\n"
        if self.ready_file is not None:
            write_private(self.ready_file, line)
        if self.ready_fd is not None:
            with os.fdopen(self.ready_fd, "w", encoding="utf-8") as file:
                file.write(line)
        if self.as_json:
            print_json(found)
        else:
            click.echo(f"Node {info.node} is ready; admin API {api or 'off'}")

    @contextlib.contextmanager
    def until_the_end(self) -> Iterator[None]:
        """Removes what announces the node when it has ended."""
        try:
            yield
        finally:
            for path in self._files:
                path.unlink(missing_ok=True)


def _url(host: str, port: int) -> str:
    reachable = _ANYWHERE.get(host, host)
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"


def _token_file(config: NodeConfig) -> Path | None:
    """Where ``caxton init`` left the admin token, when the node runs on the machine that wrote it."""
    tokens = config.security.tokens
    if tokens is None:
        return None
    token = tokens.absolute().parent.parent.parent / "admin.token"
    return token if token.is_file() else None
