"""One real node as files: what it is given, what its lives leave, and what is read from that."""

from __future__ import annotations

import json
import os
import subprocess
import sysconfig
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import apsw
import yaml

import simulations
from node.errors import MessageNotFound
from node.messaging.history import MessageHistory
from simulations.nodes.witness import Execution
from simulations.twin.admin import Admin
from simulations.twin.process import write_whole

LOG_TAIL_BYTES: Final = 2_000
BUSY_MS: Final = 5_000
"""How long a read waits for the node's own use of its database, in milliseconds."""


class TwinFailed(Exception):
    """A process has not started, stayed, or ended when it was told to; quotes the end of its log."""


@dataclass(slots=True)
class TwinNode:
    """One node: its files, and its process while it runs.

    Attributes:
        name: Its name.
        bundle: Its security material and configuration.
        directory: Its log, and what its lives leave.
        admin: Its admin API.
        process: The present one, or the last.
        boot: How often it was started before.
        paused: Whether it stands still until it is told to go on.
        unplugged: Whether its wire is pulled.
        is_next: Whether it says that it is the next release.
        ended_s: When its lives ended, by boot.
    """

    name: str
    bundle: Path
    directory: Path
    admin: Admin
    process: subprocess.Popen[bytes] | None = None
    boot: int = -1
    paused: bool = False
    unplugged: bool = False
    is_next: bool = False
    ended_s: dict[int, float] = field(default_factory=dict)

    @property
    def data(self) -> Path:
        """What it keeps."""
        return self.bundle / "data"

    @property
    def log(self) -> Path:
        """What its processes have said."""
        return self.directory / "node.log"

    def failed(self, what: str) -> TwinFailed:
        """The error that says so."""
        text = self.log.read_bytes()[-LOG_TAIL_BYTES:].decode("utf-8", "replace") if self.log.exists() else ""
        return TwinFailed(f"{self.name} {what}; the end of its log:\n{text}")

    @property
    def config(self) -> Path:
        """Its configuration."""
        return self.bundle / "node.yaml"

    @property
    def mood(self) -> Path:
        """How its agent ``witness`` behaves."""
        return self.directory / "mood.json"

    def ready(self, boot: int) -> Path:
        """Written when a life takes messages."""
        return self.directory / f"ready.{boot}.json"

    def executions(self, boot: int) -> Path:
        """What the agent ``witness`` has done in a life."""
        return self.directory / f"executions.{boot}"


def executions_in(text: str, node: str, boot: int, at_s: Callable[[float], float]) -> list[Execution]:
    """The runs of an agent that one life has written down, without what a killed process has written half.

    Args:
        text: The file.
        node: Whose.
        boot: Which life.
        at_s: From the machine's monotonic seconds to those of the run.
    """
    found: dict[int, Execution] = {}
    for line in text.splitlines():
        try:
            kind, number, seconds, *rest = json.loads(line)
        except ValueError:
            continue
        if kind == "began":
            id_, origin, conversation, asked, attempt = rest
            found[number] = Execution(node, boot, id_, origin, conversation, asked, attempt, at_s(seconds))
        elif number in found:
            found[number].ended_s, found[number].outcome = at_s(seconds), rest[0]
    return list(found.values())


def change_config(path: Path, changes: Mapping[str, Any]) -> None:
    """Change a node's file of configuration.

    Args:
        path: The file.
        changes: Dotted keys and their values.
    """
    data = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    for key, value in changes.items():
        *above, last = key.split(".")
        section = data
        for part in above:
            section = section.setdefault(part, {})
        section[last] = value
    write_whole(path, yaml.safe_dump(data))


def environment_in(directory: Path) -> dict[str, str]:
    """The environment of a node: the user's, without Caxton's settings, with a state directory of its own."""
    found = {key: value for key, value in os.environ.items() if not key.startswith("CAXTON_")}
    found["XDG_STATE_HOME"] = str(directory / "state")
    root = Path(simulations.__file__).resolve().parent.parent
    if str(root) not in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib")):
        found["PYTHONPATH"] = os.pathsep.join(filter(None, (str(root), found.get("PYTHONPATH"))))
    return found


def read_history(file: Path, message_id: str) -> MessageHistory | None:
    """What became of a message, as a node's database has it on disk; None if it knows nothing of it."""
    connection = apsw.Connection(str(file), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        connection.set_busy_timeout(BUSY_MS)
        return MessageHistory.load(connection, message_id)
    except MessageNotFound:
        return None
    finally:
        connection.close()
