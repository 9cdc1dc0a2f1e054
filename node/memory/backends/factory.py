"""From the configuration to what keeps the memory; what is not configured is not loaded."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from node.environment import Environment
from node.errors import ConfigInvalid, MemoryBackendFailed, nearest
from node.memory.backends.protocol import GROUP, BackendContext, MakeBackend, OutsideBackend

if TYPE_CHECKING:
    from node.config.memory import MemoryConfig, Neo4jMemoryConfig, QdrantMemoryConfig
    from node.memory.backends.qdrant.index import QdrantIndex
    from node.storage.storage import Storage

SHIPPED: Final = ("embedded", "qdrant", "neo4j")
"""Backends that come with Caxton; no other package can take their names."""


@dataclass(frozen=True, slots=True)
class Kept:
    """How a memory is kept.

    Attributes:
        vectors: Makes what keeps the vectors on a server, too; None where they are in the file alone.
        outside: Makes the backend that takes the place of the file; None where there is the file.
    """

    vectors: Callable[[Storage], QdrantIndex] | None = None
    outside: Callable[[BackendContext], Awaitable[OutsideBackend]] | None = None


def how_kept(config: MemoryConfig, environment: Environment, node: str) -> Kept:
    """What ``memory.backend`` asks for.

    Args:
        config: The section ``memory``.
        environment: Time and workers.
        node: Name of this node.

    Raises:
        ConfigInvalid: no package here has a backend of that name.
    """
    if config.backend == "embedded":
        return Kept()
    if config.backend == "qdrant":
        return Kept(vectors=partial(_qdrant, config.qdrant, environment, node))
    if config.backend == "neo4j":
        return Kept(outside=partial(_neo4j, config.neo4j))
    options = {name: value.get_secret_value() for name, value in config.options.items()}
    return Kept(outside=partial(_made, config.backend, _registered(config.backend), options))


def _qdrant(config: QdrantMemoryConfig, environment: Environment, node: str, storage: Storage) -> QdrantIndex:
    from node.memory.backends.qdrant.client import QdrantClient, QdrantServer  # noqa: PLC0415 - only here needed
    from node.memory.backends.qdrant.index import QdrantIndex  # noqa: PLC0415

    server = QdrantServer(config.url, config.key, config.ca_cert, config.timeout_s)
    return QdrantIndex(
        storage,
        QdrantClient(server, environment),
        environment,
        node=node,
        collection=config.collection_name,
        dimension=config.vector_size,
        target=hashlib.sha256(config.url.encode()).hexdigest()[:16],
    )


async def _neo4j(config: Neo4jMemoryConfig, context: BackendContext) -> OutsideBackend:
    """The backend that is a graph.

    Raises:
        ConfigInvalid: its driver is not installed.
    """
    run = context.environment.workers.run
    await run("files", importlib.import_module, "node.memory.backends.neo4j.backend")
    from node.memory.backends.neo4j.backend import Neo4jBackend  # noqa: PLC0415 - loaded on the thread above
    from node.memory.backends.neo4j.server import GraphClient, GraphServer  # noqa: PLC0415

    password = "" if config.password is None else config.password.get_secret_value()
    server = GraphServer(
        config.uri or "", config.username, password, config.database, timeout_s=config.timeout_s
    )
    return Neo4jBackend(await run("files", GraphClient, server, context.environment), context)


def _registered(name: str) -> MakeBackend:
    """What another package has registered under a name.

    Raises:
        ConfigInvalid: none has, or it cannot be loaded.
    """
    from importlib.metadata import entry_points  # noqa: PLC0415 - 20 ms that other backends are spared

    found = {each.name: each for each in entry_points(group=GROUP) if each.name not in SHIPPED}
    if name not in found:
        known = ", ".join([*SHIPPED, *sorted(found)])
        guess = nearest(name, [*SHIPPED, *found])
        raise ConfigInvalid(
            f"there is no memory backend {name!r}",
            why=f"there are {known}",
            fix=f"Did you mean {guess!r}?" if guess else f"Install the package that registers it ({GROUP}).",
            details={"key": "memory.backend"},
        )
    try:
        make: MakeBackend = found[name].load()
    except (ImportError, AttributeError) as error:
        raise ConfigInvalid(
            f"the memory backend {name!r} cannot be loaded",
            why=f"{type(error).__name__}: {error}",
            fix="Reinstall the package that registers it.",
            details={"key": "memory.backend"},
        ) from error
    return make


async def _made(
    name: str, make: MakeBackend, options: dict[str, str], context: BackendContext
) -> OutsideBackend:
    """A backend of another package; one that lacks a verb is refused before it is asked anything."""
    backend = await make(context, options)
    missing = [verb for verb in _VERBS if not callable(getattr(backend, verb, None))]
    if missing:
        raise MemoryBackendFailed(
            f"the memory backend {name!r} cannot be used",
            why=f"it has no {', '.join(missing)}",
            fix="Install a version that is made for this Caxton.",
        )
    return backend


def _verbs() -> tuple[str, ...]:
    told: dict[str, Any] = {}
    for each in reversed(OutsideBackend.__mro__):
        told |= {name: value for name, value in vars(each).items() if callable(value)}
    return tuple(sorted(name for name in told if not name.startswith("_")))


_VERBS: Final = _verbs()
