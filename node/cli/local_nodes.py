"""The nodes that run on this machine for this user: each leaves a small file, so that verbs need no flags.

A file has the address of the admin API and where its token lies, never the token itself. It is written
when the node is ready, removed when it ends, and ignored when its process is gone.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

MAX_FILE_BYTES: Final = 64 * 1024
"""A larger file is not ours."""


@dataclass(frozen=True, slots=True)
class LocalNode:
    """A running node of this machine.

    Args:
        node: Its name.
        api: Base URL of its admin API, without ``/api/v1``.
        pid: Its process.
        token_file: A token for it, if one is known.
    """

    node: str
    api: str
    pid: int
    token_file: str | None = None


def state_directory(environ: dict[str, str] | None = None) -> Path:
    """Where the files are: ``$XDG_STATE_HOME/caxton/run`` (XDG Base Directory Specification 0.8)."""
    found = os.environ if environ is None else environ
    home = found.get("XDG_STATE_HOME", "")
    root = Path(home) if home.startswith("/") else Path.home() / ".local" / "state"
    return root / "caxton" / "run"


def announce(node: LocalNode, directory: Path | None = None) -> Path:
    """Write the file of a node that is ready; the caller removes it when the node ends.

    Raises:
        OSError: it cannot be written.
    """
    folder = directory or state_directory()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / f"{node.node}-{node.pid}.json"
    write_private(path, json.dumps(asdict(node)))
    return path


def write_private(path: Path, text: str) -> None:
    """Write a file for this user only, whole or not at all; no link that lies in the way is followed.

    Raises:
        OSError: it cannot be written.
    """
    unfinished = path.with_name(path.name + ".part")
    unfinished.unlink(missing_ok=True)
    with open(unfinished, "w", encoding="utf-8", opener=_private) as file:
        file.write(text)
    unfinished.replace(path)


def local_nodes(directory: Path | None = None) -> list[LocalNode]:
    """The nodes whose process is alive, by name; files that are left over from others are removed."""
    folder = directory or state_directory()
    found = []
    for path in sorted(folder.glob("*.json")):
        node = _read(path)
        if node is None:
            continue
        if _alive(node.pid):
            found.append(node)
        else:
            with contextlib.suppress(OSError):
                path.unlink()
    return found


def _read(path: Path) -> LocalNode | None:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            return None
        data: Any = json.loads(path.read_text(encoding="utf-8"))
        node = LocalNode(**data)
    except (OSError, ValueError, TypeError):
        return None
    texts = (node.node, node.api, node.token_file or "")
    if not isinstance(node.pid, int) or node.pid <= 0 or not all(isinstance(t, str) for t in texts):
        return None
    return node


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return False  # another user's process, or no process at all: not the one that wrote our file
    return True


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_EXCL, 0o600)
