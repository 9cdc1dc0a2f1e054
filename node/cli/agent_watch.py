"""``caxton agent watch``: deploys an agent file to a node again whenever it changes; for development.

The file and its module are read a few times a second and compared by their hash, which works on every file
system and with every editor. A change counts once it has stood still for one look, so that a file that is
being written is not deployed in half. A file with problems is not deployed: they are shown, and the
version on the node stays. While the node cannot be reached, it is tried again at every look; where it is not
said which node, or the token is not good, the verb ends as any other does.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click

from node.cli.agent_files import read_agent
from node.cli.agent_validate import problems_of
from node.cli.client import Client, Target, find_target
from node.cli.deploy import deployment
from node.cli.errors import AmbiguousNode
from node.cli.options import Where
from node.cli.output import print_json, safe
from node.errors import CaxtonError, Forbidden, NodeUnreachable, Unauthorized

LOOK_S: Final = 0.2
"""Seconds between two looks at the file."""
_NO_USE: Final = frozenset({Forbidden.code, Unauthorized.code})
"""Codes of refusals that no change of the file makes good."""


class Watcher:
    """Looks at one agent file, and deploys it when it has changed.

    Args:
        file: The agent file.
        deploy: Deploys it, and gives the answer of the node.
        say: Is told what happened.
    """

    def __init__(
        self, file: Path, deploy: Callable[[Path], dict[str, Any]], say: Callable[[str], None]
    ) -> None:
        self._file = file
        self._deploy = deploy
        self._say = say
        self._seen = self._done = ""
        self._away = False

    def look(self) -> bool:
        """Look once; says whether something was deployed."""
        digest = self._digest()
        still = digest == self._seen or not self._done
        self._seen = digest
        if not digest or digest == self._done or not still:
            return False
        self._done = digest
        return self._changed()

    def _digest(self) -> str:
        """Of the file and what belongs to it; empty while it cannot be read."""
        try:
            agent = read_agent(self._file)
        except CaxtonError:
            return ""  # an editor replaces it by another file
        parts = [
            agent.content,
            *(part for name, data in agent.artifacts.items() for part in (name.encode(), data)),
        ]
        whole = hashlib.sha256()
        for part in parts:
            whole.update(len(part).to_bytes(8, "big") + part)
        return whole.hexdigest()

    def _changed(self) -> bool:
        problems = [] if self._away else problems_of(self._file)
        for problem in problems:
            place = f"{self._file}:{problem.line}:{problem.column}"
            self._say(f"{place}: {problem.severity} {problem.field}: {problem.message}")
        if any(problem.severity == "error" for problem in problems):
            self._say("not deployed; the version on the node stays")
            return False
        started = time.monotonic()
        try:
            found = self._deploy(self._file)
        except NodeUnreachable as error:
            if isinstance(error, AmbiguousNode):
                raise
            if not self._away:
                self._say(f"waiting for the node: {error}")
            self._away, self._done = True, ""
            return False
        except CaxtonError as error:
            if error.code in _NO_USE:
                raise
            self._say(f"not deployed: {error}")
            return False
        self._away = False
        took_ms = (time.monotonic() - started) * 1000
        self._say(f"{found.get('name')} {found.get('version')} is {found.get('status')}, in {took_ms:.0f} ms")
        return True


def finder(where: Where) -> Callable[[], Target]:
    """What finds a node each time it is asked, which may have come back at another address.

    The node that was found first is kept to, whichever others start on this machine meanwhile.

    Args:
        where: The node that is meant.
    """

    def find() -> Target:
        nonlocal where
        target = find_target(where)
        if where.api is None and where.node_name is None:
            where = replace(where, node_name=target.node)
        return target

    return find


def watch(where: Where, file: Path, workspace: str, *, as_json: bool) -> None:
    """Deploy a file to a node, and again whenever it changes, until interrupted.

    Args:
        where: The node.
        file: The agent file.
        workspace: The workspace it belongs to.
        as_json: What happened as one JSON document a line.

    Raises:
        AmbiguousNode: it is not said which of several nodes.
        ValidationFailed: the address of the node is none.
        SecurityMaterialInvalid: the token file cannot be read.
        Refused: the token is not good for it.
    """
    find = finder(where)

    def deploy(path: Path) -> dict[str, Any]:
        body = deployment(path) | {"workspace": workspace, "replace": True, "auto_start": True}
        with Client(find()) as client:
            found: dict[str, Any] = client.call("POST", "/agents", body=body, wait_s=60.0)
        return found

    def say(line: str) -> None:
        now = datetime.now(UTC)
        if as_json:
            print_json({"time": now.isoformat(timespec="milliseconds"), "event": line})
        else:
            click.echo(safe(f"{now.astimezone():%H:%M:%S} {line}"))

    try:
        find()  # what is wrong with the command line is told at once
    except NodeUnreachable as error:
        if isinstance(error, AmbiguousNode):
            raise
    watcher = Watcher(file, deploy, say)
    while True:
        watcher.look()
        time.sleep(LOOK_S)
