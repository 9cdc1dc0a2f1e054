"""Keeps the live table of the demo fresh: asks the sender's node a few times a second what it sees."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Final

from node.cli.demo_story import Actor
from node.cli.demo_view import Scene
from node.errors import CaxtonError

WATCH_INTERVAL_S: Final = 0.2


@contextlib.contextmanager
def watching(sender: Actor, scene: Scene) -> Iterator[None]:
    """Refresh the states of members and what is unsettled on them while the block runs."""
    stop = threading.Event()
    watcher = threading.Thread(target=_watch, args=(sender, scene, stop), name="demo-watch", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        stop.set()
        watcher.join()


def _watch(sender: Actor, scene: Scene, stop: threading.Event) -> None:
    while not stop.wait(WATCH_INTERVAL_S):
        with contextlib.suppress(
            CaxtonError
        ):  # the node is still starting; the story itself tells of failures
            if sender.pid is not None and sender.is_ready:
                refresh(sender, scene)


def refresh(sender: Actor, scene: Scene) -> None:
    """Read members and unsettled requests once.

    Raises:
        CaxtonError: the node does not answer.
    """
    found = sender.client.get("/cluster/status")
    states = {member["name"]: member["state"] for member in found["members"]}
    for name, row in scene.nodes.items():
        row.state = states.get(name, row.state)
        row.unsettled = found["unsettled_by_node"].get(name, 0)
